"""
Rank songs by their reports.

What comes in are reports; what leaves is the same reports, best first, each with its place by every score. Scores of
different kinds are compared by place and never added up: their units and spreads have nothing in common.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeling_apex.report_apex import format_score, format_table


@dataclass(frozen=True)
class RankedSong:
    """One song of a ranking: its report, its mean place by the chosen scores, and its place by each score."""

    report: Mapping[str, Any]
    mean_place: float
    places: dict[str, float]


def rank_reports(reports: Sequence[Mapping[str, Any]], by: str = "all") -> list[RankedSong]:
    """
    Sort songs, best first.

    Args:
        reports (`Sequence[dict]`):
            Reports of scored songs.
        by (`str`, defaults to `"all"`):
            `"all"`: the mean of a song's places over all scores. `"popularity"` or `"aesthetics"`: over that group.
            Or the name of one score.

    Returns:
        `list[RankedSong]`: best first; equal songs keep their order.

    Raises:
        `ValueError`: If `by` names nothing.
    """
    if not reports:
        return []
    names = list(reports[0]["scores"])
    groups = {
        "all": names,
        "popularity": [name for name in names if name in reports[0]["percentiles"]],
        "aesthetics": [name for name in names if name not in reports[0]["percentiles"]],
        **{name: [name] for name in names},
    }
    chosen = groups.get(by)
    if not chosen:
        raise ValueError(f"cannot rank by {by!r}; choose one of {', '.join(groups)}.")
    places = {name: compute_places([report["scores"][name] for report in reports]) for name in names}
    ranked = [
        RankedSong(
            report=report,
            mean_place=sum(places[name][row] for name in chosen) / len(chosen),
            places={name: places[name][row] for name in names},
        )
        for row, report in enumerate(reports)
    ]
    return sorted(ranked, key=lambda song: song.mean_place)


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
    rows = []
    for position, song in enumerate(ranking, start=1):
        cells = [
            f"{format_score(song.report['scores'][name], song.report['ranges'][name][1])} [{song.places[name]:g}]"
            for name in names
        ]
        rows.append([f"{position}. {song.report['song']}", f"{song.mean_place:.1f}", *cells])
    legend = "in brackets: the place of the song by that score alone; the table is sorted by the mean place"
    return "\n".join([format_table(["song", "mean place", *names], rows), legend])
