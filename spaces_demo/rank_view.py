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
from spaces_demo.markup import build_downloads, build_notice, build_warnings, escape
from spaces_demo.wording import format_count, format_number, format_time, format_title

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
    rows, refused = ranking["ranking"], ranking["refused"]
    parts = ['<section class="apex-panel" aria-label="Ranking">']
    if rows:
        first = rows[0]["report"]
        order = ORDERS.get(ranking["order"], format_title(ranking["order"])).lower()
        parts += [
            f'<header class="apex-song"><h3>Best of {len(rows)}: {escape(first["song"])}</h3>'
            f"<p>{format_count(len(rows), 'song')} by {escape(order)}</p></header>",
            build_warnings(row["report"] for row in rows),
            _render_table(rows),
            f'<p class="apex-legend"><span>Press a column to sort by it.</span>{_describe_units(first)}</p>',
        ]
    parts += [build_notice(f"Not scored: {report['error']}", "warning") for report in refused]
    return "".join([*parts, "</section>", build_downloads("ranking", dict(ranking), format_ranking_csv(ranking))])


def _describe_units(report: Mapping[str, Any]) -> str:
    percentiles = [format_title(name) for name in report["percentiles"]]
    ranges = {
        f"{low:g} to {high:g}" for name, (low, high) in report["ranges"].items() if name not in report["percentiles"]
    }
    parts = [f"{' and '.join(percentiles)}: percentiles."] if percentiles else []
    parts += [f"The others: {' or '.join(sorted(ranges))}."] if ranges else []
    return f"<span>{escape(' '.join(parts))}</span>"


def _render_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0]["report"]["scores"])
    titles = ["", "Song", "Length", *(format_title(name) for name in names)]
    heads = "".join(
        f'<th scope="col" aria-sort="{"ascending" if column == 0 else "none"}"><button type="button" '
        f'class="apex-sort">{escape(title) or "#"}</button></th>'
        for column, title in enumerate(titles)
    )
    body = "".join(_render_row(row, names) for row in rows)
    return (
        '<div class="apex-scroll" tabindex="0" role="region" aria-label="Ranked songs"><table class="apex-ranking">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _render_row(row: Mapping[str, Any], names: Sequence[str]) -> str:
    report = row["report"]
    cells = [
        f'<td data-sort="{row["place"]}">{row["place"]}</td>',
        f'<th scope="row" data-sort="{escape(report["song"])}">{escape(report["song"])}</th>',
        f'<td data-sort="{report["duration_seconds"]:.3f}">{format_time(report["duration_seconds"])}</td>',
    ]
    for name in names:
        score, maximum = report["scores"][name], report["ranges"][name][1]
        percentile = report["percentiles"].get(name)
        text = format_number(score, maximum) if percentile is None else f"{percentile:.0f}"
        best = ' class="apex-best"' if row["places"][name] == 1 else ""
        cells.append(f'<td data-sort="{score!r}"{best}>{text}</td>')
    return f"<tr>{''.join(cells)}</tr>"


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
