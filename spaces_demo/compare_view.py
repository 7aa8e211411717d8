"""
The Compare tab: two reports become an answer, who would win and why.

With a preference head beside the model the answer is a probability and what each score adds to it, in the head's own
terms: weight times difference, and the sum of each group of scores. The words follow from these sums. Without one
there is no probability to give, and none is made up: the page says so and compares score by score.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modeling_apex import format_csv
from spaces_demo.markup import render, render_downloads
from spaces_demo.wording import format_chance, format_list, format_title

PEOPLE = "The probability that people, hearing both, would prefer each song."
SIMULATED = "The probability that a simulated listener would prefer each song: no person's vote went into this model."
NO_HEAD = (
    "This model comes without a preference head, the part that learned from people's votes, so there is no "
    "probability to give. Below, the two songs are compared score by score."
)

WORTH_NAMING = 0.1
"""Part of all pushes that a score must make to be named among the reasons."""

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
        decisive first; `groups`, the sum of that for each group of scores, empty without a head; and `reasons`, what
        decides in words.
    """
    differences: list[dict[str, Any]] = []
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
    groups: dict[str, float] = {}
    for row in differences if head is not None else ():
        group = report_a["groups"].get(row["score"], "other")
        groups[group] = groups.get(group, 0.0) + row["weight_in_logits"]
    decisive = "share" if head is None else "weight_in_logits"
    differences.sort(key=lambda row: -abs(row[decisive]))
    return {
        "song_a": report_a,
        "song_b": report_b,
        "probability_a": None if head is None else head.compute_probability(report_a, report_b),
        "note": NO_HEAD if head is None else SIMULATED if head.training.get("votes") == "simulated" else PEOPLE,
        "scores": differences,
        "groups": groups,
        "reasons": [] if head is None else _explain(differences, head.weights),
    }


def _explain(rows: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> list[str]:
    """Say for whom the scores speak, and what is odd about the weights: sentences that the bars bear out."""
    pushes = {row["score"]: row["weight_in_logits"] for row in rows}
    total = sum(map(abs, pushes.values()))
    sentences = []
    for song, sign in (("A", 1), ("B", -1)):
        names = [name for name, push in pushes.items() if sign * push > WORTH_NAMING * total]
        if names:
            titles = format_list([format_title(name).lower() for name in names])
            sentences.append(f"For song {song}: {titles}.")
    if sum(pushes.values()) < 0:
        sentences.reverse()  # the winner's come first
    silent = [format_title(name).lower() for name in pushes if not weights.get(name)]
    if silent:
        sentences.append(f"Not used by this model: {format_list(silent)}.")
    turned = [format_title(name).lower() for name in pushes if weights.get(name, 0.0) < 0]
    if turned:
        sentences.append(
            f"In this model higher {format_list(turned)} {'counts' if len(turned) == 1 else 'count'} against a song: "
            "it sets scores that rise and fall together against each other. Read the sum of a group, not single bars."
        )
    return sentences


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as HTML: the verdict, then what decides, then the downloads."""
    reports, probability_a = [comparison["song_a"], comparison["song_b"]], comparison["probability_a"]
    field = "share" if probability_a is None else "weight_in_logits"
    group_of, sums = reports[0]["groups"], comparison["groups"]
    # Without a head half the width is the whole range of a score; with one, the strongest push or sum of this pair.
    pushes = [*(row[field] for row in comparison["scores"]), *sums.values()]
    widest = 1.0 if probability_a is None else max(map(abs, pushes)) or 1.0
    members: dict[str, list[dict[str, Any]]] = {}
    for row in comparison["scores"]:
        group = group_of.get(row["score"], "other") if sums else ""
        members.setdefault(group, []).append({"score": row["score"], "push": row[field] / widest})
    verdict = None if probability_a is None else _describe_verdict(probability_a)
    page = render(
        "comparison.html",
        reports=reports,
        probability_a=probability_a,
        note=comparison["note"],
        verdict=verdict,
        reasons=comparison["reasons"],
        # A group of one score is that score, and songs without a head have no sums.
        groups=[
            {"name": name, "push": sums[name] / widest if len(rows) > 1 and sums else None, "rows": rows}
            for name, rows in sorted(members.items(), key=lambda item: -abs(sums.get(item[0], 0.0)))
        ],
        announcement=" ".join([_announce(probability_a, verdict), *comparison["reasons"]]),
    )
    return page + render_downloads("comparison", dict(comparison), format_csv(reports))


def _announce(probability_a: float | None, verdict: str | None) -> str:
    if probability_a is None:
        return "The two songs are compared score by score."
    return f"{verdict} Song A {format_chance(probability_a)}, song B {format_chance(1 - probability_a)}."


def _describe_verdict(probability_a: float) -> str:
    percent_a = 100 * probability_a
    winner, percent = ("A", percent_a) if percent_a >= 50 else ("B", 100 - percent_a)
    if percent < 55:
        return "Too close to call."
    return f"Song {winner} is {'' if percent < 75 else 'clearly '}more likely to win."
