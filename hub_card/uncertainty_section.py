"""
What a card says of uncertainty: what its percentiles are of, what its intervals hold, which songs it is warned of.

What comes in is `config.reference` of a model, and what was measured of it on songs with known labels; what leaves is
Markdown. What was not measured is said to be so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hub_card.markdown import format_number
from hub_card.result_files import Uncertainty
from modeling_apex.inference.song_report_apex import INVERTED_TARGET
from modeling_apex.statistics.shares import compute_wilson_interval
from modeling_apex.storage.markdown import build_table, escape_markdown


def describe_percentiles(reference: Mapping[str, Any]) -> str:
    """Say what the percentile beside a score is of: songs that are named and counted, or the formula turned round."""
    if not reference.get("percentile_tables"):
        return (
            f"Here it is {INVERTED_TARGET}. Reports say so in `percentile_basis`; `percentiles` and "
            "`target_percentiles` are the same."
        )
    return (
        f"In `percentiles` of a report it is a rank: the percentage of songs with a lower score among "
        f"{format_number(reference['num_songs'], 0)}, which are {escape_markdown(reference['name'])}. "
        "`reference_percentiles` give that rank for every score, `percentile_basis` says what it is of, and "
        "`target_percentiles` hold the inverted formula."
    )


def describe_uncertainty(
    reference: Mapping[str, Any], uncertainty: Uncertainty | None, heads: Sequence[Mapping[str, Any]]
) -> str:
    """Say how wide the intervals are, how often they held, and what is called novel, right and wrong."""
    if not reference:
        return (
            "The model has no reference set, so its reports have no intervals and do not warn of unfamiliar songs. "
            "`apex-music calibrate MODEL SONGS` gives it one."
        )
    parts = [_describe_intervals(reference, uncertainty, heads), _describe_novelty(reference, uncertainty)]
    return "\n\n".join(parts)


def _describe_intervals(
    reference: Mapping[str, Any], uncertainty: Uncertainty | None, heads: Sequence[Mapping[str, Any]]
) -> str:
    if not reference["intervals"]:
        return "The songs of the reference set had no labels, so reports have no intervals."
    level, num_songs, num_groups = (reference[name] for name in ("interval_level", "num_songs", "num_groups"))
    unit = (
        "each song on its own"
        if num_groups == num_songs
        else f"in {format_number(num_groups, 0)} groups that each count as one, such as those of an artist"
    )
    text = (
        f"An interval in `intervals` of a report is meant to contain the label of {100 * level:g} % of new songs "
        f"(`interval_level`), by split-conformal prediction from {format_number(num_songs, 0)} songs, {unit}: "
        f"{escape_markdown(reference['name'])}. The promise holds for songs drawn as these were, over all of them and "
        "not for each kind."
    )
    sets = uncertainty.coverage if uncertainty else {}
    rows = [
        [
            f"`{head['name']}`",
            f"± {format_number(reference['intervals'][head['name']])}",
            *(_format_share(*shares[head["name"]]) for shares in sets.values()),
        ]
        for head in heads
        if head["name"] in reference["intervals"]
    ]
    table = build_table(["score", "interval", *map(escape_markdown, sets)], rows)
    return f"{text}\n\n{table}\n\n{_judge_coverage(level, uncertainty)}"


def _judge_coverage(level: float, uncertainty: Uncertainty | None) -> str:
    if uncertainty is None:
        return "How many labels of other songs these intervals contain was not measured."
    share, head, songs = min(
        (share, head, songs) for songs, found in uncertainty.coverage.items() for head, (share, _) in found.items()
    )
    counts = ", ".join(
        f"{max(count for _, count in found.values())} {escape_markdown(name)}"
        for name, found in uncertainty.coverage.items()
    )
    return (
        f"The columns on the right have the share of labels that lay within ({counts}), in brackets Wilson's 95 % "
        f"interval. The least is {share:.2f}, for `{head}` on {escape_markdown(songs)}, where {level:g} was meant: "
        "coverage is lost where songs are unlike the reference set."
    )


def _format_share(share: float, count: int) -> str:
    low, high = compute_wilson_interval(share, count)
    return f"{share:.2f} [{low:.2f}, {high:.2f}]"


def _describe_novelty(reference: Mapping[str, Any], uncertainty: Uncertainty | None) -> str:
    known = reference["novelty"]
    if not known:
        return "The reference set is too small to show which songs are unlike it, so reports warn of none."
    text = (
        "A song that is unlike the reference set is flagged in `novelty` of a report, with a warning: its embedding "
        f"is farther away than that of {100 * known['level']:g} % of the reference songs (a distance above "
        f"{format_number(known['threshold'])}, where 1 is usual)."
    )
    if uncertainty is None:
        return f"{text} How often that is right was not measured."
    rows = [
        [escape_markdown(name), f"{count}", f"{100 * share:.1f} %"]
        for name, (share, count) in uncertainty.novel.items()
    ]
    table = build_table(["what was heard", "how many", "called unlike the reference set"], rows)
    return (
        f"{text} For songs like those of the reference set that is a false alarm; for everything else, a hit."
        f"\n\n{table}"
    )
