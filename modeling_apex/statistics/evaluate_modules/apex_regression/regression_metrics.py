"""
Metrics of one score: errors, correlations, and bootstrap intervals over songs.

What comes in are predictions and labels of the same songs; what leaves are plain numbers. Pure functions on numpy
alone, so that this folder also works outside the package.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray


def compute_mse(predictions: NDArray, labels: NDArray) -> float:
    """Compute the mean squared error."""
    return float(np.mean((predictions - labels) ** 2))


def compute_mae(predictions: NDArray, labels: NDArray) -> float:
    """Compute the mean absolute error."""
    return float(np.mean(np.abs(predictions - labels)))


def compute_pearson(predictions: NDArray, labels: NDArray) -> float:
    """Compute Pearson's correlation; NaN where one side does not vary, since no correlation is defined there."""
    x = predictions - predictions.mean()
    y = labels - labels.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def compute_ranks(values: NDArray) -> NDArray:
    """Rank values from 1 upwards; ties share their average rank."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(values)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return ranks


def compute_spearman(predictions: NDArray, labels: NDArray) -> float:
    """Compute Spearman's rank correlation; ties share their average rank, NaN where one side does not vary."""
    return compute_pearson(compute_ranks(predictions), compute_ranks(labels))


METRICS: Mapping[str, Callable[[NDArray, NDArray], float]] = {
    "mse": compute_mse,
    "mae": compute_mae,
    "pearson": compute_pearson,
    "spearman": compute_spearman,
}


def select_labelled(predictions: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """
    Keep the songs that have a label, in float64.

    Args:
        predictions (array of shape `(num_songs,)`):
            Scores in native units.
        labels (array of shape `(num_songs,)`):
            Labels in native units; NaN where a song has none.

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
    Compute every metric over the songs that have a label.

    Args:
        predictions (array of shape `(num_songs,)`):
            Scores in native units.
        labels (array of shape `(num_songs,)`):
            Labels in native units; NaN where a song has none.

    Returns:
        `dict[str, float]`: `mse`, `mae`, `pearson`, `spearman`; all NaN if no song has a label.

    Raises:
        `ValueError`: If the shapes differ or a prediction is not finite.
    """
    predicted, wanted = select_labelled(predictions, labels)
    if not len(wanted):
        return dict.fromkeys(METRICS, float("nan"))
    return {name: metric(predicted, wanted) for name, metric in METRICS.items()}


def compute_bootstrap_intervals(
    predictions: ArrayLike, labels: ArrayLike, *, num_draws: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """
    Compute percentile bootstrap intervals of every metric, resampling songs.

    Args:
        predictions (array of shape `(num_songs,)`):
            Scores in native units.
        labels (array of shape `(num_songs,)`):
            Labels in native units; NaN where a song has none.
        num_draws (`int`, defaults to 1000):
            Number of resamples.
        confidence (`float`, defaults to 0.95):
            Probability that an interval is meant to cover.
        seed (`int`, defaults to 0):
            Seed of the resampling.

    Returns:
        `dict[str, tuple[float, float]]`: lower and upper bound per metric; NaN where fewer than two songs have labels.

    Raises:
        `ValueError`: If the shapes differ, a prediction is not finite, or `num_draws` or `confidence` make no sense.
    """
    if num_draws < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"`num_draws` must be at least 1 and `confidence` between 0 and 1, got {num_draws} and {confidence}."
        )
    predicted, wanted = select_labelled(predictions, labels)
    if len(wanted) < 2:
        return dict.fromkeys(METRICS, (float("nan"), float("nan")))
    generator = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(num_draws):
        chosen = generator.integers(len(wanted), size=len(wanted))
        for name, metric in METRICS.items():
            draws[name].append(metric(predicted[chosen], wanted[chosen]))
    tail = (1 - confidence) / 2
    intervals = {}
    for name, values in draws.items():
        defined = np.asarray(values)[~np.isnan(values)]  # a resample of one repeated song has no correlation
        low, high = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (float("nan"), float("nan"))
        intervals[name] = (float(low), float(high))
    return intervals
