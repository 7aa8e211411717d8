"""
How well judgements are told by the personal head, and how well by the scores that everyone gets.

What comes in are judgements, what the head says of each that it has not seen, and strengths of songs by other scores;
what leaves are the metric of each with its interval, and paired differences.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_apex.personal.fitting import TasteData
from modeling_apex.statistics.bootstrap import Resamples, draw_resamples
from modeling_apex.statistics.metrics import compute_spearman
from modeling_apex.statistics.pair_metrics import compute_accuracy


def compare_tastes(
    data: TasteData,
    held_out: NDArray[np.float64],
    rivals: dict[str, NDArray[np.float64]],
    unit: str,
    num_draws: int,
    seed: int,
) -> dict[str, Any]:
    """
    Measure the personal head and the scores that the model has anyway on the same judgements.

    Args:
        data ([`TasteData`]), held_out (`np.ndarray` of shape `(num_judgements,)`):
            The judgements, and what the personal head says of each that it has not seen.
        rivals (`dict[str, np.ndarray]`): Strength of each song by other scores, `(num_songs,)`.
        unit (`str`), num_draws (`int`), seed (`int`): What repeats and is drawn as a whole; the bootstrap.

    Returns:
        `dict`: `metric` (Spearman's correlation with ratings, or the share of pairs with a winner that is told right),
        `resampled`, `personal`, `generic` and `differences` (personal minus generic, paired), each with its interval,
        `not_beaten` (scores that it is not shown to be better than) and `conclusion`. Survives JSON.
    """
    is_decisive = np.isin(data.values, (0.0, 1.0)) if data.is_of_pairs else np.ones(len(data.values), bool)
    data, held_out = data.select(is_decisive), held_out[is_decisive]
    # Pairs that share songs are drawn by both of them, crossed; a unit that never repeats is none.
    units = {unit: data.groups[:, 0]}
    if data.is_of_pairs and (data.groups[:, 0] != data.groups[:, 1]).any():
        units = {"first song": data.groups[:, 0], "second song": data.groups[:, 1]}
    resamples = draw_resamples(len(data.values), num_draws, seed, units, item="pair" if data.is_of_pairs else "song")
    measure = compute_accuracy if data.is_of_pairs else compute_spearman
    predictions = {"": held_out} | {name: data.predict(strengths) for name, strengths in rivals.items()}
    estimates = {name: float(np.ravel(measure(values, data.values))[0]) for name, values in predictions.items()}
    draws = {name: measure(values, data.values, resamples.weights) for name, values in predictions.items()}
    summaries = {
        name: _summarize(resamples, estimates[name], draws[name], len(data.values), is_share=data.is_of_pairs)
        for name in predictions
    }
    differences = {
        name: resamples.summarize(estimates[""] - estimates[name], draws[""] - draws[name]) for name in rivals
    }
    not_beaten = [name for name, found in differences.items() if not (found["low"] or 0.0) > 0]
    return {
        "metric": "accuracy" if data.is_of_pairs else "spearman",
        "resampled": resamples.describe(),
        "personal": summaries.pop(""),
        "generic": summaries,
        "differences": differences,
        "not_beaten": not_beaten,
        "conclusion": _conclude(not_beaten, len(rivals)),
    }


def _summarize(
    resamples: Resamples, estimate: float, draws: NDArray[np.float64], num_items: int, *, is_share: bool
) -> dict[str, Any]:
    if is_share:
        return resamples.summarize_share(estimate, draws, num_items)
    return resamples.summarize(estimate, draws, method="joined")


def _conclude(not_beaten: list[str], num_rivals: int) -> str:
    if not not_beaten:
        return (
            f"The personal head predicts this listener's judgements better than each of the {num_rivals} other scores."
        )
    return (
        f"The personal head is not shown to be better than {', '.join(not_beaten)}: the interval of the difference is "
        "not above zero. Judge more songs, or keep to those scores."
    )
