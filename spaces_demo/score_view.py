"""
The Score tab's results: a report becomes seven bars, a timeline and two downloads.

Popularity is drawn as a percentile, since its scores crowd near zero; the score itself stands beside it. The timeline
is a table, so that it reads well aloud; its column heads are buttons that play the song from there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex import format_csv
from spaces_demo.markup import build_bar, build_downloads, build_notice, build_warnings, escape
from spaces_demo.wording import (
    format_count,
    format_length,
    format_meaning,
    format_model,
    format_number,
    format_time,
    format_title,
)

EMPTY_SCORES = (
    '<div class="apex-empty"><p class="apex-empty-title">Seven scores will appear here</p>'
    "<p>Two say how popular the song is likely to be, five how good it is likely to sound to people.</p></div>"
)

PERCENTILE_NOTE = (
    '<details class="apex-details"><summary>What is a percentile?</summary><p>A song at percentile 80 is expected to '
    "do better than 80 of 100 songs of the kind that the model learned from. The popularity score is a steep curve of "
    "it: all but the most popular songs score low.</p></details>"
)


def build_scores(report: Mapping[str, Any]) -> str:
    """Build the panel of scores of a song, as HTML."""
    percentiles = report.get("percentiles", {})
    popularity = [_build_popularity_row(report, name) for name in percentiles]
    aesthetics = [_build_aesthetics_row(report, name) for name in report["scores"] if name not in percentiles]
    length = f"{format_time(report['duration_seconds'])} · {format_model(report['model'])}"
    parts = [
        f'<section class="apex-panel" aria-label="Scores of {escape(report["song"])}">',
        f'<header class="apex-song"><h3>{escape(report["song"])}</h3><p>{escape(length)}</p></header>',
        build_warnings([report]),
    ]
    if popularity:
        parts += ['<h4>Popularity</h4><dl class="apex-scores">', *popularity, "</dl>", PERCENTILE_NOTE]
    if aesthetics:
        parts += ['<h4>Quality</h4><dl class="apex-scores">', *aesthetics, "</dl>"]
    return "".join([*parts, "</section>"])


def _build_popularity_row(report: Mapping[str, Any], name: str) -> str:
    percentile, score = report["percentiles"][name], report["scores"][name]
    maximum = report["ranges"][name][1]
    value = f'<span class="apex-unit">percentile</span> <strong>{percentile:.0f}</strong>'
    extra = f"score {format_number(score, maximum)} of {maximum:g}"
    bar = build_bar(percentile / 100, f"percentile {percentile:.0f} of 100", "apex-popularity")
    return _build_row(name, value, bar, extra)


def _build_aesthetics_row(report: Mapping[str, Any], name: str) -> str:
    score, (minimum, maximum) = report["scores"][name], report["ranges"][name]
    number = format_number(score, maximum)
    value = f'<strong>{number}</strong> <span class="apex-unit">of {maximum:g}</span>'
    bar = build_bar((score - minimum) / (maximum - minimum), f"{number} on a scale from {minimum:g} to {maximum:g}")
    return _build_row(name, value, bar, "")


def _build_row(name: str, value: str, bar: str, extra: str) -> str:
    meaning = " · ".join(part for part in (format_meaning(name), extra) if part)
    return (
        f'<div class="apex-score" data-score="{escape(name)}"><dt>{escape(format_title(name))}</dt>'
        f'<dd class="apex-value">{value}</dd><dd class="apex-line">{bar}</dd>'
        f'<dd class="apex-meaning">{escape(meaning)}</dd></div>'
    )


def build_timeline(report: Mapping[str, Any]) -> str:
    """
    Build the timeline: one column a segment, one row a score, shaded from the song's weakest to its strongest part.

    A song that is a single segment gets a sentence in its place.
    """
    segments = report.get("segments", [])
    if len(segments) < 2:
        return build_notice(
            "This song is one segment long, so there is no timeline: the scores above are those of the whole.", "note"
        )
    heads = "".join(
        f'<th scope="col"><button type="button" class="apex-seek" data-start="{segment["start_seconds"]:.3f}" '
        f'data-end="{segment["end_seconds"]:.3f}" aria-label="Play from {format_time(segment["start_seconds"])}">'
        f"{format_time(segment['start_seconds'])}</button></th>"
        for segment in segments
    )
    rows = "".join(_build_timeline_row(report, name, segments) for name in report["scores"])
    return (
        '<section class="apex-panel"><header class="apex-song"><h3>Timeline</h3>'
        f"<p>{format_count(len(segments), 'segment')} · press a time to hear it</p></header>"
        '<div class="apex-scroll" tabindex="0" role="region" aria-label="Scores of each segment">'
        '<table class="apex-timeline"><thead><tr><th scope="col">'
        f'<span class="apex-hidden">Score</span></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="apex-legend"><span><span class="apex-mark" aria-hidden="true">▲</span> strongest</span>'
        '<span><span class="apex-mark" aria-hidden="true">▽</span> weakest</span>'
        "<span>Each row is shaded from its own weakest to its own strongest segment.</span>"
        f"{_describe_short_end(segments)}</p></section>"
    )


def _describe_short_end(segments: Sequence[Mapping[str, Any]]) -> str:
    """Warn of a last segment that is mostly the silence it is filled up with; empty if it is not."""
    first, last = (segment["end_seconds"] - segment["start_seconds"] for segment in (segments[0], segments[-1]))
    if last >= first / 2:
        return ""
    return (
        f"<span>The last segment holds only {format_length(last)} of sound and is filled up with silence: read its "
        "scores with care.</span>"
    )


def _build_timeline_row(report: Mapping[str, Any], name: str, segments: Sequence[Mapping[str, Any]]) -> str:
    scores = [segment["scores"][name] for segment in segments]
    low, high, maximum = min(scores), max(scores), report["ranges"][name][1]
    cells = []
    for score in scores:
        share = (score - low) / (high - low) if high > low else 0.5
        mark, word = "", ""
        if high > low and score in (low, high):
            mark, word = ("▲", "strongest") if score == high else ("▽", "weakest")
        cells.append(
            f'<td style="--share:{100 * share:.0f}%"><span>{format_number(score, maximum)}</span>'
            f'<span class="apex-mark" aria-hidden="true">{mark}</span>'
            + (f'<span class="apex-hidden">{word}</span>' if word else "")
            + "</td>"
        )
    return f'<tr><th scope="row">{escape(format_title(name))}</th>{"".join(cells)}</tr>'


def render_report(report: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a report as HTML: the scores, the timeline, the download links."""
    downloads = build_downloads(f"{Path(report['song']).stem}-scores", dict(report), format_csv([report]))
    return build_scores(report), build_timeline(report), downloads
