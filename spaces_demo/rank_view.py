"""
The Rank tab: many reports become one table, best first, that sorts by any column.

Places come from the package's own ranking, which never adds up scores of different kinds: the order by all scores is
the mean of a song's places. Songs that were refused stand below the table with their reason, and in the CSV.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from modeling_apex import flatten_reports, rank_reports
from spaces_demo.markup import render, render_downloads
from spaces_demo.wording import format_title

ORDERS = {"all": "All scores", "popularity": "Popularity", "aesthetics": "Quality"}

EMPTY_RANKING = (
    '<div class="apex-empty"><p class="apex-empty-title">Best of many</p>'
    "<p>Drop several songs, for example several takes of one prompt, and see them in order.</p></div>"
)


def build_ranking(reports: Sequence[dict[str, Any]], order: str = "all") -> dict[str, Any]:
    """
    Rank reports by `"all"` scores, by a group of them or by the name of one score.

    Returns:
        `dict`: `order`; `ranking`, best first: `place`, `mean_place`, `places` by score and `report`; and `refused`,
        the reports with `error`.

    Raises:
        `ValueError`: If `order` names nothing.
    """
    ranked = rank_reports([report for report in reports if "error" not in report], by=order)
    return {
        "order": order,
        "ranking": [
            {"place": place, "mean_place": song.mean_place, "places": song.places, "report": dict(song.report)}
            for place, song in enumerate(ranked, start=1)
        ],
        "refused": [report for report in reports if "error" in report],
    }


def render_ranking(ranking: Mapping[str, Any]) -> str:
    """Return a ranking as HTML: the table, what was refused, and the downloads."""
    rows = ranking["ranking"]
    first = rows[0]["report"] if rows else None
    page = render(
        "ranking.html",
        rows=rows,
        refused=ranking["refused"],
        order=ORDERS.get(ranking["order"], format_title(ranking["order"])).lower(),
        titles=["#", "Song", "Length", *(format_title(name) for name in first["scores"])] if first else [],
        units=_describe_units(first) if first else "",
    )
    return page + render_downloads("ranking", dict(ranking), format_ranking_csv(ranking))


def _describe_units(report: Mapping[str, Any]) -> str:
    percentiles = [format_title(name) for name in report["percentiles"]]
    ranges = {
        f"{low:g} to {high:g}" for name, (low, high) in report["ranges"].items() if name not in report["percentiles"]
    }
    parts = [f"{' and '.join(percentiles)}: percentiles."] if percentiles else []
    parts += [f"The others: {' or '.join(sorted(ranges))}."] if ranges else []
    return " ".join(parts)


def format_ranking_csv(ranking: Mapping[str, Any]) -> str:
    """Return a ranking as CSV, best first: `place`, `mean_place` and the columns of a report; refused songs last."""
    reports = [row["report"] for row in ranking["ranking"]] + list(ranking["refused"])
    columns, rows = flatten_reports(reports)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["place", "mean_place", *columns], lineterminator="\n")
    writer.writeheader()
    for position, row in enumerate(rows):
        ranked = ranking["ranking"][position] if position < len(ranking["ranking"]) else {}
        writer.writerow({"place": ranked.get("place"), "mean_place": ranked.get("mean_place"), **row})
    return text.getvalue()
