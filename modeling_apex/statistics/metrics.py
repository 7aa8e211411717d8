"""
Metrics of scores against labels: errors, correlations, bootstrap intervals over songs, and the trivial baselines.

What comes in are predictions and labels of the same songs, for one score or for all; what leaves are plain numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from modeling_apex.statistics.bootstrap import compute_interval, draw_bootstrap_rows, drop_undefined
from modeling_apex.statistics.pair_metrics import divide_or_nan

BASELINES = ("mean", "median")


def compute_mse(predictions: NDArray, labels: NDArray) -> NDArray[np.float64]:
    """Compute the mean squared error along the last axis."""
    return np.mean((predictions - labels) ** 2, axis=-1)


def compute_mae(predictions: NDArray, labels: NDArray) -> NDArray[np.float64]:
    """Compute the mean absolute error along the last axis."""
    return np.mean(np.abs(predictions - labels), axis=-1)


def compute_pearson(predictions: NDArray, labels: NDArray) -> NDArray[np.float64]:
    """
    Compute Pearson's correlation along the last axis; NaN where one side does not vary, since none is defined there.
    """
    x = predictions - predictions.mean(axis=-1, keepdims=True)
    y = labels - labels.mean(axis=-1, keepdims=True)
    return divide_or_nan(np.vecdot(x, y), np.sqrt(np.vecdot(x, x) * np.vecdot(y, y)))


def compute_spearman(predictions: NDArray, labels: NDArray) -> NDArray[np.float64]:
    """Compute Spearman's rank correlation along the last axis; ties share their average rank."""
    return compute_pearson(rankdata(predictions, axis=-1), rankdata(labels, axis=-1))


METRICS: Mapping[str, Callable[[NDArray, NDArray], NDArray[np.float64]]] = {
    "mse": compute_mse,
    "mae": compute_mae,
    "pearson": compute_pearson,
    "spearman": compute_spearman,
}


def select_labelled(predictions: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """
    Keep the songs that have a label, in float64.

    Args:
        predictions (array of shape `(num_songs,)`): Scores in native units.
        labels (array of shape `(num_songs,)`): Labels in native units; NaN where a song has none.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: predictions and labels of the labelled songs.

    Raises:
        `ValueError`: If the shapes differ or are not one-dimensional, or a prediction is not finite.
    """
    predicted = np.asarray(predictions, np.float64)
    wanted = np.asarray(labels, np.float64)
    if predicted.shape != wanted.shape or predicted.ndim != 1:
        raise ValueError(
            f"predictions {predicted.shape} and labels {wanted.shape} must be one-dimensional and of one length."
        )
    if not np.isfinite(predicted).all():
        raise ValueError(f"{np.sum(~np.isfinite(predicted))} predictions are NaN or infinite; metrics need numbers.")
    is_labelled = ~np.isnan(wanted)
    return predicted[is_labelled], wanted[is_labelled]


def compute_metrics(predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """
    Compute every metric over the songs that have a label; arguments are those of [`select_labelled`].

    Returns:
        `dict[str, float]`: `mse`, `mae`, `pearson`, `spearman`; all NaN if no song has a label.

    Raises:
        `ValueError`: If the shapes differ or a prediction is not finite.
    """
    predicted, wanted = select_labelled(predictions, labels)
    if not len(wanted):
        return dict.fromkeys(METRICS, float("nan"))
    return {name: float(metric(predicted, wanted)) for name, metric in METRICS.items()}


def compute_bootstrap_intervals(
    predictions: ArrayLike, labels: ArrayLike, *, num_draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """
    Compute 95 % percentile bootstrap intervals of every metric, resampling songs.

    Args:
        predictions (array of shape `(num_songs,)`), labels (array of shape `(num_songs,)`):
            As for [`select_labelled`].
        num_draws (`int`, defaults to 1000): Number of resamples.
        seed (`int`, defaults to 0): Seed of the resampling.

    Returns:
        `dict[str, tuple[float, float]]`: lower and upper bound per metric; NaN where fewer than two songs have labels.

    Raises:
        `ValueError`: If the shapes differ, a prediction is not finite, or there are no draws.
    """
    predicted, wanted = select_labelled(predictions, labels)
    if len(wanted) < 2:
        return dict.fromkeys(METRICS, (float("nan"), float("nan")))
    draws: dict[str, list[float]] = {name: [] for name in METRICS}
    for rows in draw_bootstrap_rows(len(wanted), num_draws, seed):
        for name, metric in METRICS.items():
            draws[name].append(float(metric(predicted[rows], wanted[rows])))
    return {name: compute_interval(np.array(values)) for name, values in draws.items()}


def compute_head_metrics(scores: NDArray, labels: NDArray, head_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """
    Compute the metrics of each head.

    Args:
        scores (`np.ndarray` of shape `(num_songs, num_heads)`): Scores in native units.
        labels (`np.ndarray` of shape `(num_songs, num_heads)`): Labels in native units; NaN where a song has none.
        head_names (`Sequence[str]`): Names of the columns.

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
        labels (`np.ndarray` of shape `(num_songs,)`): Labels to predict; NaN where a song has none.
        training_labels (`np.ndarray` of shape `(num_training_songs,)`): Labels that the number comes from.
        kind (`str`): `"mean"` (the best constant for the squared error) or `"median"` (for the absolute error).

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
        scores (`np.ndarray` of shape `(num_songs,)`), labels (`np.ndarray` of shape `(num_songs,)`):
            In native units; NaN where a song has no label.
        training_labels (`np.ndarray` of shape `(num_training_songs,)`): Labels that the baselines come from.
        num_draws (`int`): Bootstrap resamples.
        seed (`int`, defaults to 0): Seed of the resampling.

    Returns:
        `dict`: `num_songs`, per metric `value`, `low` and `high` (95 %), and `baselines`. What is not defined is
        `None`, so that the result survives JSON.
    """
    results: dict[str, Any] = {"num_songs": int(np.sum(~np.isnan(labels)))}
    values = compute_metrics(scores, labels)
    intervals = compute_bootstrap_intervals(scores, labels, num_draws=num_draws, seed=seed)
    for name in METRICS:
        low, high = intervals[name]
        results[name] = drop_undefined({"value": values[name], "low": low, "high": high})
    results["baselines"] = {
        kind: drop_undefined(compute_baseline(labels, training_labels, kind)) for kind in BASELINES
    }
    return results
