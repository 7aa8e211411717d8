"""
Rank songs by their reports.

What comes in are reports; what leaves is the same reports, best first, each with its place by every score. Where the
model has a preference head, songs are sorted by what people are predicted to prefer. Without one, scores of different
kinds are compared by place and never added up: their units and spreads have nothing in common.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modeling_apex.inference.report_apex import format_score, format_table
from modeling_apex.inference.track_features_apex import FUSION_HEADS

if TYPE_CHECKING:
    from modeling_apex.arena.preference import PreferenceHead


@dataclass(frozen=True)
class RankedSong:
    """
    One song of a ranking.

    Args:
        report (`dict`):
            The report of the song.
        mean_place (`float`):
            Mean of its places by the chosen scores, 1 for the best.
        places (`dict[str, float]`):
            Its place by each score alone.
        chance_against_best (`float`, *optional*):
            Probability that people prefer it to the first song of the ranking; needs a preference head.
    """

    report: Mapping[str, Any]
    mean_place: float
    places: dict[str, float]
    chance_against_best: float | None = None


def rank_reports(
    reports: Sequence[Mapping[str, Any]], by: str | None = None, head: "PreferenceHead | None" = None
) -> list[RankedSong]:
    """
    Sort songs, best first.

    Args:
        reports (`Sequence[dict]`):
            Reports of scored songs.
        by (`str`, *optional*):
            `"preference"`: what people are predicted to prefer, by the preference head. `"all"`: the mean of a song's
            places over all scores. `"popularity"` or `"aesthetics"`: over that group. Or the name of one score.
            Defaults to `"preference"` with a head and to `"all"` without.
        head ([`PreferenceHead`], *optional*):
            The preference head of the model that made the reports.

    Returns:
        `list[RankedSong]`: best first; equal songs keep their order.

    Raises:
        `ValueError`: If `by` names nothing, or `"preference"` without a head.
    """
    if not reports:
        return []
    names = list(reports[0]["scores"])
    percentiles, of_fusion = reports[0].get("percentiles", {}), {head["name"] for head in FUSION_HEADS}
    groups = {
        "all": names,
        "popularity": [name for name in names if name in percentiles],
        "aesthetics": [name for name in names if name not in percentiles and name not in of_fusion],
        **{name: [name] for name in names},  # the popularity of a spectrogram-fusion model is a score of that name
    }
    by = by or ("preference" if head is not None else "all")
    if by == "preference" and head is None:
        raise ValueError(
            "cannot rank by 'preference': this model has no preference head. `apex-music arena` fits one."
        )
    chosen = names if by == "preference" else groups.get(by)
    if not chosen:
        possible = ", ".join(name for name, members in groups.items() if members)
        raise ValueError(f"cannot rank by {by!r}; choose one of preference, {possible}.")
    places = {name: compute_places([report["scores"][name] for report in reports]) for name in names}
    ranked = [
        RankedSong(
            report=report,
            mean_place=sum(places[name][row] for name in chosen) / len(chosen),
            places={name: places[name][row] for name in names},
        )
        for row, report in enumerate(reports)
    ]
    if head is None or by != "preference":
        return sorted(ranked, key=lambda song: song.mean_place)
    ranked.sort(key=lambda song: -head.compute_strength(song.report))
    best = ranked[0].report
    return [replace(song, chance_against_best=head.compute_probability(song.report, best)) for song in ranked]


def compute_places(scores: Sequence[float]) -> list[float]:
    """Return the place of each score, 1 for the highest; equal scores share the mean of their places."""
    order = sorted(range(len(scores)), key=lambda row: -scores[row])
    places = [0.0] * len(scores)
    place = 1
    for _, group in itertools.groupby(order, key=lambda row: scores[row]):
        rows = list(group)
        for row in rows:
            places[row] = place + (len(rows) - 1) / 2
        place += len(rows)
    return places


def format_ranking(ranking: Sequence[RankedSong]) -> str:
    """Return a table, one line a song: its scores, and in brackets the place that each score alone would give it."""
    names = list(ranking[0].report["scores"])
    is_preference = ranking[0].chance_against_best is not None
    rows = []
    for position, song in enumerate(ranking, start=1):
        cells = [
            f"{format_score(song.report['scores'][name], song.report['ranges'][name][1])} [{song.places[name]:g}]"
            for name in names
        ]
        key = f"{song.mean_place:.1f}" if song.chance_against_best is None else f"{song.chance_against_best:.0%}"
        rows.append([f"{position}. {song.report['song']}", key, *cells])
    legend = "in brackets: the place of the song by that score alone; " + (
        "sorted by predicted preference: the chance that the song is preferred to the first one"
        if is_preference
        else "sorted by the mean place"
    )
    return "\n".join([format_table(["song", "beats 1." if is_preference else "mean place", *names], rows), legend])
