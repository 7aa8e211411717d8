"""
The Rank tab: many reports become one table, best first, that sorts by any column.

The order is the package's own, and so is its default: what listeners are predicted to prefer where the model has a
preference head, and elsewhere the mean of a song's places, since scores of different kinds are never added up. Songs
that were refused stand below the table with their reason, and in the CSV.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modeling_apex import flatten_reports, format_rows, rank_reports
from spaces_demo.markup import render, render_downloads
from spaces_demo.wording import format_group, format_title

BEST = "best"
"""The order that nobody chose: that of `apex-music rank`."""
ORDERS = {BEST: "Best first", "all": "All scores", "popularity": "Popularity", "aesthetics": "Quality"}
ORDER_WORDS = {"preference": "predicted preference", "all": "all scores, by mean place"}

EMPTY_RANKING = (
    '<div class="apex-empty"><p class="apex-empty-title">Best of many</p>'
    "<p>Drop several songs, for example several takes of one prompt, and see them in order.</p></div>"
)


def build_ranking(reports: Sequence[dict[str, Any]], order: str = BEST, head: Any = None) -> dict[str, Any]:
    """
    Rank reports as `apex-music rank` does, by all scores, by a group of them or by the name of one score.

    Args:
        reports (`Sequence[dict]`): Reports of songs, scored and refused.
        order (`str`, defaults to `"best"`): What `rank_reports` takes as `by`, or `"best"` for its default.
        head ([`PreferenceHead`], *optional*): That of the model that made the reports.

    Returns:
        `dict`: `order`, that which was taken; `ranking`, best first: `place`, `mean_place`, `chance_against_best`
        (`None` in any order but that of preference), `places` by score and `report`; `is_simulated`, whether what is
        called a listener is a simulation; and `refused`, the reports with `error`.

    Raises:
        `ValueError`: If `order` names nothing.
    """
    by = ("all" if head is None else "preference") if order == BEST else order
    ranked = rank_reports([report for report in reports if "error" not in report], by=by, head=head)
    return {
        "order": by,
        "ranking": [
            {
                "place": place,
                "mean_place": song.mean_place,
                "chance_against_best": song.chance_against_best,
                "places": song.places,
                "report": dict(song.report),
            }
            for place, song in enumerate(ranked, start=1)
        ],
        "is_simulated": head is not None and head.training.get("votes") == "simulated",
        "refused": [report for report in reports if "error" in report],
    }


def render_ranking(ranking: Mapping[str, Any]) -> str:
    """Return a ranking as HTML: the table, what was refused, and the downloads."""
    rows = ranking["ranking"]
    first = rows[0]["report"] if rows else None
    order = ORDER_WORDS.get(ranking["order"]) or format_group(ranking["order"]).lower()
    is_preference = bool(rows) and rows[0]["chance_against_best"] is not None
    titles = ["#", "Song", "Length", *(["Preferred to the first"] if is_preference else [])]
    page = render(
        "ranking.html",
        rows=rows,
        refused=ranking["refused"],
        order=order,
        is_preference=is_preference,
        listener="simulated listener" if ranking["is_simulated"] else "listener",
        titles=[*titles, *(format_title(name) for name in first["scores"])] if first else [],
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
    """Return a ranking as CSV, best first: places, chances and the columns of a report; refused songs last."""
    own = ("place", "mean_place", "chance_against_best")
    reports = [row["report"] for row in ranking["ranking"]] + list(ranking["refused"])
    columns, rows = flatten_reports(reports)
    for ranked, row in zip(ranking["ranking"], rows, strict=False):
        row.update({name: ranked[name] for name in own})
    return format_rows([*own, *columns], rows)
