"""
Rank songs by their reports.

What comes in are reports; what leaves is the same reports, best first, each with its place by every score. Where the
model has a preference head, songs are sorted by what people are predicted to prefer. Without one, scores of different
kinds are compared by place and never added up: their units and spreads have nothing in common.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_apex.inference.heads_apex import DEFAULT_HEADS
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
            places over all scores. A group, such as `"popularity"` or `"aesthetics"`: over its scores alone. Or the
            name of one score.
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
    by = by or ("preference" if head is not None else "all")
    chosen = choose_scores(by, names, find_groups(reports[0]), has_head=head is not None)
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


def choose_scores(by: str, names: Sequence[str], groups: Mapping[str, str], *, has_head: bool) -> list[str]:
    """
    Return the scores by which songs are sorted.

    Args:
        by (`str`):
            As for `rank_reports`.
        names (`Sequence[str]`), groups (`Mapping[str, str]`):
            The scores of the model, and the group of each that has one.
        has_head (`bool`):
            Whether the model has a preference head.

    Raises:
        `ValueError`: If `by` names nothing, or `"preference"` without a head.
    """
    if by == "preference" and not has_head:
        raise ValueError(
            "cannot rank by 'preference': this model has no preference head. `apex-music arena` fits one."
        )
    orders: dict[str, list[str]] = {"all": list(names)}
    for name, group in groups.items():
        orders.setdefault(group, []).append(name)
    orders |= {name: [name] for name in names}  # the popularity of a spectrogram-fusion model is a score of that name
    if by not in ("preference", *orders):
        raise ValueError(f"cannot rank by {by!r}; choose one of preference, {', '.join(orders)}.")
    return orders.get(by, orders["all"])


def find_groups(report: Mapping[str, Any]) -> dict[str, str]:
    """
    Tell which scores of a report count together.

    Args:
        report (`dict`):
            The report of a song. Those of earlier versions do not state `groups`: there the published names tell, and
            for others a range that only one group of the published scores has.

    Returns:
        `dict[str, str]`: the group of each score that has one, such as `"popularity"`.
    """
    if "groups" in report:
        return dict(report["groups"])
    by_name = {head["name"]: head["group"] for head in (*DEFAULT_HEADS, *FUSION_HEADS)}
    by_range = {(head["minimum"], head["maximum"]): head["group"] for head in DEFAULT_HEADS}
    ranges = {name: tuple(limits) for name, limits in report.get("ranges", {}).items()}
    groups = {name: by_name.get(name, by_range.get(ranges.get(name, ()))) for name in report["scores"]}
    return {name: group for name, group in groups.items() if group is not None}


def compute_places(scores: Sequence[float]) -> list[float]:
    """Return the place of each score, 1 for the highest; equal scores share the mean of their places."""
    # What scipy's `rankdata` gives of negated scores; scipy comes with an extra, and ranking songs needs none.
    _, rows, counts = np.unique(np.negative(scores), return_inverse=True, return_counts=True)
    places: list[float] = (np.cumsum(counts) - (counts - 1) / 2)[rows].tolist()
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
        if song.chance_against_best is None:
            key = f"{song.mean_place:.1f}"
        else:  # the first one against itself would be a coin
            key = "–" if position == 1 else f"{song.chance_against_best:.0%}"
        rows.append([f"{position}. {song.report['song']}", key, *cells])
    legend = "in brackets: the place of the song by that score alone; " + (
        "sorted by predicted preference; preferred to 1.: how likely a listener is to prefer the song to the first one"
        if is_preference
        else "sorted by the mean place"
    )
    return "\n".join(
        [format_table(["song", "preferred to 1." if is_preference else "mean place", *names], rows), legend]
    )
