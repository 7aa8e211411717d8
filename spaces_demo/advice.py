"""
The advice above a timeline: where a song is strongest and weakest, and what to work on there.

What comes in is a report with segments; what leaves is a sentence and the two segments. Segments are ranked as songs
are, by the mean of their places, so that scores of different kinds are never added up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modeling_apex import rank_reports
from spaces_demo.wording import format_number, format_time, format_title

EVEN_SHARE = 0.02
"""A song is called even if each of its scores stays within this part of the score's range."""


def measure_short_end(segments: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the seconds of a last segment that is mostly the silence it is filled up with; `None` if it is not."""
    first, last = (segment["end_seconds"] - segment["start_seconds"] for segment in (segments[0], segments[-1]))
    return None if last >= first / 2 else float(last)


def build_advice(report: Mapping[str, Any]) -> dict[str, Any]:
    """
    Say which parts of a song are its strongest and its weakest, and which score falls most in the latter.

    Args:
        report (`Mapping`): A report with two segments or more.

    Returns:
        `dict`: `text`, and `strongest` and `weakest`, segments of the report, or `None` in a song that has no such
        parts. A last segment that is mostly silence is neither.
    """
    segments = list(report["segments"])
    if measure_short_end(segments) is not None:
        segments.pop()
    nothing = {"strongest": None, "weakest": None}
    if len(segments) < 2:
        return {**nothing, "text": "The song is too short for its parts to be compared."}
    if all(_measure_spread(name, report, segments) < EVEN_SHARE for name in report["scores"]):
        return {**nothing, "text": "The song is even: no part stands out in any score."}
    ranked = rank_reports([{**segment, "ranges": report["ranges"]} for segment in segments], by="all")
    if ranked[0].mean_place == ranked[-1].mean_place:
        return {**nothing, "text": "No part stands out: where one score rises, another falls."}
    strongest, weakest = ranked[0].report, ranked[-1].report
    text = f"Strongest {_format_span(strongest)}, weakest {_format_span(weakest)}."
    return {
        "text": f"{text} {_describe_weakness(report, weakest, segments)}",
        "strongest": strongest,
        "weakest": weakest,
    }


def _describe_weakness(
    report: Mapping[str, Any], weakest: Mapping[str, Any], segments: Sequence[Mapping[str, Any]]
) -> str:
    """Name the score that falls most in a segment: one that can be worked on, if any of these falls."""
    others = [segment["scores"] for segment in segments if segment["start_seconds"] != weakest["start_seconds"]]
    means = {name: sum(scores[name] for scores in others) / len(others) for name in report["scores"]}
    falls = {
        name: (mean - weakest["scores"][name]) / (report["ranges"][name][1] - report["ranges"][name][0])
        for name, mean in means.items()
    }
    groups = report.get("groups", {})
    quality = {name: fall for name, fall in falls.items() if groups.get(name) != "popularity" and fall > 0}
    name = max(quality or falls, key=lambda name: falls[name])
    here, rest = (format_number(score, report["ranges"][name][1]) for score in (weakest["scores"][name], means[name]))
    numbers = f"{here} there, {rest} in the rest of the song."
    title = format_title(name).lower()
    return (
        f"To lift that part, begin with {title}: {numbers}"
        if quality
        else f"What is weaker there is {title}: {numbers}"
    )


def _measure_spread(name: str, report: Mapping[str, Any], segments: Sequence[Mapping[str, Any]]) -> float:
    scores = [segment["scores"][name] for segment in segments]
    low, high = report["ranges"][name]
    return float((max(scores) - min(scores)) / (high - low))


def _format_span(segment: Mapping[str, Any]) -> str:
    return f"from {format_time(segment['start_seconds'])} to {format_time(segment['end_seconds'])}"
