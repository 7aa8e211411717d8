"""
The Score tab's results: a report becomes seven bars, a timeline, a picture to share and two downloads.

Popularity is drawn as a percentile, since its scores crowd near zero; the score itself stands beside it. The timeline
is as wide as the player's waveform whatever the length of the song: one strip a score, under buttons that play the
song from there. The same numbers stand in a table, for whoever wants to read them or hear them read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex import format_csv
from spaces_demo.advice import build_advice, measure_short_end
from spaces_demo.markup import render, render_downloads
from spaces_demo.picture_card import draw_card
from spaces_demo.wording import format_number, format_title

EMPTY_SCORES = (
    '<div class="apex-empty"><p class="apex-empty-title">Seven scores will appear here</p>'
    "<p>Two say how popular the song is likely to be, five how good it is likely to sound to people.</p></div>"
)
MAX_TICKS = 6
"""Times that are written over a timeline; more would touch on a phone."""


def get_percentiles(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the percentile of each score that has one, those among songs with known scores before any other."""
    return dict(report.get("reference_percentiles", report.get("percentiles", {})))


def describe_scores(report: Mapping[str, Any]) -> str:
    """Return the scores of a song in one sentence, for whoever does not see them."""
    percentiles, parts = get_percentiles(report), []
    for name, score in report["scores"].items():
        maximum = report["ranges"][name][1]
        text = f"{format_title(name)} {format_number(score, maximum)} of {maximum:g}"
        parts.append(f"{text}, percentile {percentiles[name]:.0f}" if name in percentiles else text)
    return f"Scores of {report['song']}: {'; '.join(parts)}."


def build_scores(report: Mapping[str, Any]) -> str:
    """Build the panel of scores of a song, as HTML."""
    groups: dict[str, list[str]] = {}
    for name in report["scores"]:
        groups.setdefault(report["groups"].get(name, "other"), []).append(name)
    return render(
        "score.html",
        report=report,
        groups=groups,
        percentiles=get_percentiles(report),
        announcement=describe_scores(report),
    )


def build_timeline(report: Mapping[str, Any]) -> str:
    """
    Build the timeline: a strip a score, shaded from the song's weakest to its strongest part, and advice.

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
    return render(
        "timeline.html",
        segments=segments,
        seconds=segments[-1]["end_seconds"],
        ticks=_choose_ticks(segments),
        rows=rows,
        advice=build_advice(report),
        short_end=measure_short_end(segments),
    )


def _choose_ticks(segments: Sequence[Mapping[str, Any]]) -> list[float]:
    """Choose starts of segments whose times are written over them, evenly, with room for the last one's text."""
    step = -(-len(segments) // MAX_TICKS)
    starts = [segment["start_seconds"] for segment in segments[::step]]
    return [start for start in starts if start <= 0.9 * segments[-1]["end_seconds"]]


def _shade(scores: Sequence[float]) -> list[dict[str, Any]]:
    """Place each score between the lowest and the highest, and name the first of each of these two."""
    low, high = min(scores), max(scores)
    if low == high:
        return [{"score": score, "share": 0.5, "word": ""} for score in scores]
    words = {scores.index(low): "weakest", scores.index(high): "strongest"}
    return [
        {"score": score, "share": (score - low) / (high - low), "word": words.get(number, "")}
        for number, score in enumerate(scores)
    ]


def render_report(report: Mapping[str, Any], notice: str = "") -> tuple[str, str, str]:
    """Return a report as HTML: the scores, the timeline, the picture and the download links."""
    stem = f"{Path(report['song']).stem}-scores"
    downloads = render_downloads(
        stem,
        dict(report),
        format_csv([report]),
        picture=draw_card(report, get_percentiles(report), notice),
        picture_text=describe_scores(report),
    )
    return build_scores(report), build_timeline(report), downloads
