"""
The Compare tab: two reports become an answer, who would win and why.

With a preference head beside the model the answer is a probability and what each score adds to it, in the head's own
terms. Without one there is no probability to give, and none is made up: the page says so and compares score by score.
"""

from collections.abc import Mapping
from typing import Any

from modeling_apex import format_csv
from spaces_demo.markup import build_downloads, build_notice, build_warnings, escape
from spaces_demo.wording import format_chance, format_number, format_time, format_title

PEOPLE = "The probability that people, hearing both, would prefer each song."
SIMULATED = "The probability that a simulated listener would prefer each song: no person's vote went into this model."
NO_HEAD = (
    "This model comes without a preference head, the part that learned from people's votes, so there is no "
    "probability to give. Below, the two songs are compared score by score."
)

EMPTY_COMPARISON = (
    '<div class="apex-empty"><p class="apex-empty-title">Two songs, one answer</p>'
    "<p>Add song A and song B, then press Compare.</p></div>"
)


def build_comparison(report_a: dict[str, Any], report_b: dict[str, Any], head: Any = None) -> dict[str, Any]:
    """
    Compare two reports, by the preference head of the model that made both if it has one.

    Returns:
        `dict`: `song_a` and `song_b` (the reports); `probability_a`, the probability that A is preferred, or `None`
        without a head; `note`, what that means; and `scores`: for each score its `difference` (A minus B), its `share`
        of the range and its `weight_in_logits` (what it adds to the decision; `None` without a head), the most
        decisive first.
    """
    differences = []
    for name, score in report_a["scores"].items():
        difference = score - report_b["scores"][name]
        minimum, maximum = report_a["ranges"][name]
        weight = None if head is None else head.weights.get(name, 0.0) * difference
        differences.append(
            {
                "score": name,
                "difference": difference,
                "share": difference / (maximum - minimum),
                "weight_in_logits": weight,
            }
        )
    decisive = "share" if head is None else "weight_in_logits"
    differences.sort(key=lambda row: -abs(row[decisive]))
    return {
        "song_a": report_a,
        "song_b": report_b,
        "probability_a": None if head is None else head.compute_probability(report_a, report_b),
        "note": NO_HEAD if head is None else SIMULATED if head.training.get("votes") == "simulated" else PEOPLE,
        "scores": differences,
    }


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as HTML: the verdict, then what decides, then the downloads."""
    reports = [comparison["song_a"], comparison["song_b"]]
    parts = ['<section class="apex-panel" aria-label="Comparison">', _render_songs(reports)]
    if comparison["probability_a"] is None:
        parts.append(build_notice(comparison["note"], "note"))
    else:
        parts.append(_render_verdict(comparison["probability_a"], comparison["note"]))
    parts += [build_warnings(reports), _render_differences(comparison), "</section>"]
    parts.append(build_downloads("comparison", dict(comparison), format_csv(reports)))
    return "".join(parts)


def _render_songs(reports: list[Mapping[str, Any]]) -> str:
    cards = [
        f'<div class="apex-side apex-side-{letter.lower()}"><span class="apex-letter">{letter}</span>'
        f"<div><h3>{escape(report['song'])}</h3><p>{format_time(report['duration_seconds'])}</p></div></div>"
        for letter, report in zip("AB", reports, strict=True)
    ]
    return f'<header class="apex-sides">{"".join(cards)}</header>'


def _render_verdict(probability_a: float, note: str) -> str:
    percent_a = 100 * probability_a
    chances = format_chance(probability_a), format_chance(1 - probability_a)
    winner, percent = ("A", percent_a) if percent_a >= 50 else ("B", 100 - percent_a)
    if percent < 55:
        sentence = "Too close to call."
    elif percent < 75:
        sentence = f"Song {winner} is more likely to win."
    else:
        sentence = f"Song {winner} is clearly more likely to win."
    return (
        f'<div class="apex-verdict"><p class="apex-verdict-line">{sentence}</p>'
        f'<div class="apex-split" role="img" aria-label="{chances[0]} for song A, {chances[1]} for song B">'
        f'<span style="width:{percent_a:.1f}%"></span></div>'
        f'<p class="apex-split-ends"><span>A {chances[0]}</span><span>B {chances[1]}</span></p>'
        f'<p class="apex-meaning">{note}</p></div>'
    )


def _render_differences(comparison: Mapping[str, Any]) -> str:
    has_head = comparison["probability_a"] is not None
    field = "weight_in_logits" if has_head else "share"
    # Without a head the full half-width is the full range of a score; with one, the strongest push of this pair.
    widest = max(abs(row[field]) for row in comparison["scores"]) if has_head else 1.0
    rows = "".join(_render_difference(comparison, row, row[field] / (widest or 1.0)) for row in comparison["scores"])
    title = "What decides" if has_head else "Score by score"
    legend = (
        "Each bar is how strongly a score pushes the decision, the strongest first."
        if has_head
        else "Each bar is the difference as a part of the score's range, the largest first."
    )
    return (
        f'<h4>{title}</h4><table class="apex-differences"><thead><tr><th scope="col">Score</th>'
        '<th scope="col" class="apex-number">A</th><th scope="col" class="apex-toward"><span>← A</span>'
        '<span>B →</span></th><th scope="col" class="apex-number">B</th></tr></thead>'
        f'<tbody>{rows}</tbody></table><p class="apex-legend"><span>{legend}</span></p>'
    )


def _render_difference(comparison: Mapping[str, Any], row: Mapping[str, Any], push: float) -> str:
    name = row["score"]
    report_a, report_b = comparison["song_a"], comparison["song_b"]
    maximum = report_a["ranges"][name][1]
    side = "a" if push > 0 else "b"
    label = f"toward {side.upper()}" if push else "even"
    width = 50 * min(abs(push), 1.0)
    return (
        f'<tr><th scope="row">{escape(format_title(name))}</th>'
        f'<td class="apex-number">{format_number(report_a["scores"][name], maximum)}</td>'
        f'<td><span class="apex-push apex-push-{side}" role="img" aria-label="{label}">'
        f'<span style="width:{width:.1f}%"></span></span></td>'
        f'<td class="apex-number">{format_number(report_b["scores"][name], maximum)}</td></tr>'
    )
