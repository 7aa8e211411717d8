"""
The Compare tab: two reports become an answer, who would win and why.

With a preference head beside the model the answer is a probability and what each score adds to it, in the head's own
terms. Without one there is no probability to give, and none is made up: the page says so and compares score by score.
"""

from collections.abc import Mapping
from typing import Any

from modeling_apex import format_csv
from spaces_demo.markup import render, render_downloads

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
    reports, probability_a = [comparison["song_a"], comparison["song_b"]], comparison["probability_a"]
    field = "share" if probability_a is None else "weight_in_logits"
    # Without a head the full half-width is the full range of a score; with one, the strongest push of this pair.
    widest = 1.0 if probability_a is None else max(abs(row[field]) for row in comparison["scores"]) or 1.0
    page = render(
        "comparison.html",
        reports=reports,
        probability_a=probability_a,
        note=comparison["note"],
        verdict=None if probability_a is None else _describe_verdict(probability_a),
        rows=[{"score": row["score"], "push": row[field] / widest} for row in comparison["scores"]],
    )
    return page + render_downloads("comparison", dict(comparison), format_csv(reports))


def _describe_verdict(probability_a: float) -> str:
    percent_a = 100 * probability_a
    winner, percent = ("A", percent_a) if percent_a >= 50 else ("B", 100 - percent_a)
    if percent < 55:
        return "Too close to call."
    return f"Song {winner} is {'' if percent < 75 else 'clearly '}more likely to win."
