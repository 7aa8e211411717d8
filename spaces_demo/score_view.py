"""
The Score tab's results: a report becomes seven bars, a timeline and two downloads.

Popularity is drawn as a percentile, since its scores crowd near zero; the score itself stands beside it. The timeline
is a table, so that it reads well aloud; its column heads are buttons that play the song from there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex import format_csv
from spaces_demo.markup import render, render_downloads

EMPTY_SCORES = (
    '<div class="apex-empty"><p class="apex-empty-title">Seven scores will appear here</p>'
    "<p>Two say how popular the song is likely to be, five how good it is likely to sound to people.</p></div>"
)


def build_scores(report: Mapping[str, Any]) -> str:
    """Build the panel of scores of a song, as HTML."""
    percentiles = report.get("percentiles", {})
    aesthetics = [name for name in report["scores"] if name not in percentiles]
    return render("score.html", report=report, popularity=list(percentiles), aesthetics=aesthetics)


def build_timeline(report: Mapping[str, Any]) -> str:
    """
    Build the timeline: one column a segment, one row a score, shaded from the song's weakest to its strongest part.

    A song that is a single segment gets a sentence in its place.
    """
    segments = report.get("segments", [])
    if len(segments) < 2:
        text = "This song is one segment long, so there is no timeline: the scores above are those of the whole."
        return render("notice.html", text=text, kind="note")
    rows = [
        {
            "name": name,
            "maximum": report["ranges"][name][1],
            "cells": _shade([segment["scores"][name] for segment in segments]),
        }
        for name in report["scores"]
    ]
    return render("timeline.html", segments=segments, rows=rows, short_end=_measure_short_end(segments))


def _measure_short_end(segments: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the seconds of a last segment that is mostly the silence it is filled up with; `None` if it is not."""
    first, last = (segment["end_seconds"] - segment["start_seconds"] for segment in (segments[0], segments[-1]))
    return None if last >= first / 2 else float(last)


def _shade(scores: Sequence[float]) -> list[dict[str, Any]]:
    """Place each score between the lowest and the highest, and name these two."""
    low, high = min(scores), max(scores)
    if low == high:
        return [{"score": score, "share": 0.5, "word": ""} for score in scores]
    words = {low: "weakest", high: "strongest"}
    return [{"score": score, "share": (score - low) / (high - low), "word": words.get(score, "")} for score in scores]


def render_report(report: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a report as HTML: the scores, the timeline, the download links."""
    downloads = render_downloads(f"{Path(report['song']).stem}-scores", dict(report), format_csv([report]))
    return build_scores(report), build_timeline(report), downloads
