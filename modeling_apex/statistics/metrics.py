"""
Metrics of all scores at once, and the trivial baselines that they must beat.

The mathematics of one score lives with the `evaluate` module, so that there is one definition of it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_apex.statistics.evaluate_modules.apex_regression.regression_metrics import (
    METRICS,
    compute_bootstrap_intervals,
    compute_metrics,
)

BASELINES = ("mean", "median")


def compute_head_metrics(scores: NDArray, labels: NDArray, head_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """
    Compute the metrics of each head.

    Args:
        scores (`np.ndarray` of shape `(num_songs, num_heads)`):
            Scores in native units.
        labels (`np.ndarray` of shape `(num_songs, num_heads)`):
            Labels in native units; NaN where a song has none.
        head_names (`Sequence[str]`):
            Names of the columns.

    Returns:
        `dict[str, dict[str, float]]`: per head `mse`, `mae`, `pearson`, `spearman`.
    """
    return {name: compute_metrics(scores[:, column], labels[:, column]) for column, name in enumerate(head_names)}


def compute_mean_spearman(metrics: dict[str, dict[str, float]]) -> float:
    """
    Average Spearman's correlation over the heads; what no learned weight of the loss can move.

    A head that gives all songs one score counts 0: it ranks nothing. A head without labels does not count.
    """
    values = [0.0 if np.isnan(head["spearman"]) else head["spearman"] for head in metrics.values() if is_scored(head)]
    return float(np.mean(values)) if values else float("nan")


def is_scored(metrics: dict[str, float]) -> bool:
    """Tell whether a head had any label to be measured by."""
    return not np.isnan(metrics["mse"])


def compute_baseline(labels: NDArray, training_labels: NDArray, kind: str) -> dict[str, float]:
    """
    Compute the errors of always predicting one number, taken from the training labels.

    Args:
        labels (`np.ndarray` of shape `(num_songs,)`):
            Labels to predict; NaN where a song has none.
        training_labels (`np.ndarray` of shape `(num_training_songs,)`):
            Labels that the number comes from.
        kind (`str`):
            `"mean"` (the best constant for the squared error) or `"median"` (for the absolute error).

    Returns:
        `dict[str, float]`: `value`, `mse`, `mae`; NaN without labels. A constant has no correlation.

    Raises:
        `ValueError`: If `kind` is unknown.
    """
    if kind not in BASELINES:
        raise ValueError(f"a baseline is one of {', '.join(BASELINES)}, got {kind!r}.")
    known = training_labels[~np.isnan(training_labels)]
    if not len(known):
        return {"value": float("nan"), "mse": float("nan"), "mae": float("nan")}
    value = float(np.mean(known) if kind == "mean" else np.median(known))
    metrics = compute_metrics(np.full(len(labels), value), labels)
    return {"value": value, "mse": metrics["mse"], "mae": metrics["mae"]}


def compute_head_results(
    scores: NDArray, labels: NDArray, training_labels: NDArray, *, num_draws: int, seed: int = 0
) -> dict[str, Any]:
    """
    Compute everything that a result table says about one head on one set of songs.

    Args:
        scores (`np.ndarray` of shape `(num_songs,)`):
            Scores in native units.
        labels (`np.ndarray` of shape `(num_songs,)`):
            Labels in native units; NaN where a song has none.
        training_labels (`np.ndarray` of shape `(num_training_songs,)`):
            Labels that the baselines come from.
        num_draws (`int`):
            Bootstrap resamples.
        seed (`int`, defaults to 0):
            Seed of the resampling.

    Returns:
        `dict`: `num_songs`, per metric `value`, `low` and `high` (95 %), and `baselines`. What is not defined is
        `None`, so that the result survives JSON.
    """
    results: dict[str, Any] = {"num_songs": int(np.sum(~np.isnan(labels)))}
    values = compute_metrics(scores, labels)
    intervals = compute_bootstrap_intervals(scores, labels, num_draws=num_draws, seed=seed)
    for name in METRICS:
        low, high = intervals[name]
        results[name] = _drop_undefined({"value": values[name], "low": low, "high": high})
    results["baselines"] = {
        kind: _drop_undefined(compute_baseline(labels, training_labels, kind)) for kind in BASELINES
    }
    return results


def _drop_undefined(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in numbers.items()}
