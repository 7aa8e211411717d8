"""
Metrics of scores against labels: errors, correlations, bootstrap intervals, and the trivial baselines.

What comes in are predictions and labels of the same songs, for one score or for all; what leaves are plain numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from modeling_apex.statistics.bootstrap import draw_resamples, drop_undefined
from modeling_apex.statistics.pair_metrics import divide_or_nan

BASELINES = ("mean", "median")
MINIMUM_SONGS = 3  # two points always lie on a line
ROUNDING = 1e-14  # of a mean, relative: what varies less is constant
DRAWN_AT_ONCE = 4_000_000  # songs times samples, so that memory does not grow with the songs


def _compute_mean(values: NDArray, weights: NDArray | None) -> NDArray[np.float64]:
    """Average along the last axis, for the items as they are or for bootstrap samples of shape `(num_draws, n)`."""
    if weights is None:
        return np.mean(values, axis=-1)
    return divide_or_nan(np.vecdot(weights, values), weights.sum(axis=-1))


def compute_mse(predictions: NDArray, labels: NDArray, weights: NDArray | None = None) -> NDArray[np.float64]:
    """Compute the mean squared error along the last axis."""
    return _compute_mean((predictions - labels) ** 2, weights)


def compute_mae(predictions: NDArray, labels: NDArray, weights: NDArray | None = None) -> NDArray[np.float64]:
    """Compute the mean absolute error along the last axis."""
    return _compute_mean(np.abs(predictions - labels), weights)


def compute_pearson(predictions: NDArray, labels: NDArray, weights: NDArray | None = None) -> NDArray[np.float64]:
    """
    Compute Pearson's correlation along the last axis; NaN where none is defined: one side does not vary beyond the
    rounding of its mean, or there are fewer than three items, which always lie on a line.
    """
    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    counts = np.ones(x.shape[-1]) if weights is None else weights
    total = counts.sum(axis=-1, keepdims=True)
    sums = []
    for values in (x, y):
        mean = divide_or_nan(np.sum(counts * values, axis=-1, keepdims=True), np.maximum(total, 1e-300))
        centered = values - mean
        square = np.sum(counts * centered**2, axis=-1)
        varies = square > total[..., 0] * (ROUNDING * np.abs(mean[..., 0])) ** 2
        sums.append((centered, np.where(varies, square, 0.0)))
    (x, x_square), (y, y_square) = sums
    found = divide_or_nan(np.sum(counts * x * y, axis=-1), np.sqrt(x_square * y_square))
    return np.where(np.sum(counts > 0, axis=-1) >= MINIMUM_SONGS, found, np.nan)[()]


def compute_spearman(predictions: NDArray, labels: NDArray, weights: NDArray | None = None) -> NDArray[np.float64]:
    """Compute Spearman's rank correlation along the last axis; ties share their average rank."""
    if weights is None:
        return compute_pearson(rankdata(predictions, axis=-1), rankdata(labels, axis=-1))
    return compute_pearson(_rank_weighted(predictions, weights), _rank_weighted(labels, weights), weights)


def _rank_weighted(values: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Rank the items of each bootstrap sample, `(num_draws, n)`, as if each stood there as often as it was drawn."""
    _, blocks = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), blocks.max() + 1))
    np.add.at(counts.T, blocks, weights.T)
    ranks: NDArray[np.float64] = (np.cumsum(counts, axis=1) - 0.5 * (counts - 1))[:, blocks]
    return ranks


METRICS: Mapping[str, Callable[..., NDArray[np.float64]]] = {
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
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_draws: int = 1000,
    seed: int = 0,
    groups: Mapping[str, ArrayLike] | None = None,
) -> dict[str, tuple[float, float]]:
    """
    Compute 95 % bootstrap intervals of every metric; see [`summarize_metrics`].

    Returns:
        `dict[str, tuple[float, float]]`: lower and upper bound per metric; NaN where there is none.

    Raises:
        `ValueError`: If the shapes differ, a prediction is not finite, or there are no draws.
    """
    found = summarize_metrics(predictions, labels, num_draws=num_draws, seed=seed, groups=groups)
    missing = float("nan")
    return {
        name: (missing, missing) if found[name]["low"] is None else (found[name]["low"], found[name]["high"])
        for name in METRICS
    }


def summarize_metrics(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    num_draws: int = 1000,
    seed: int = 0,
    groups: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Any]:
    """
    Compute every metric with its 95 % bootstrap interval, over the songs that have a label.

    Args:
        predictions (array of shape `(num_songs,)`), labels (array of shape `(num_songs,)`):
            As for [`select_labelled`].
        num_draws (`int`, defaults to 1000): Number of resamples.
        seed (`int`, defaults to 0): Seed of the resampling.
        groups (`dict[str, array of shape (num_songs,)]`, *optional*):
            What repeats, such as the creator, by its name: drawn as a whole. Without it songs are drawn.

    Returns:
        `dict`: per metric `value`, `low`, `high`, and `reason` where one of them is `None`; and `resampled`: the
        `unit` that was drawn, and `num_units`.

    Raises:
        `ValueError`: If the shapes differ, a prediction is not finite, or there are no draws.
    """
    is_labelled = ~np.isnan(np.asarray(labels, np.float64))
    predicted, wanted = select_labelled(predictions, labels)
    values = compute_metrics(predicted, wanted)
    if not len(wanted):
        nothing = {"value": None, "low": None, "high": None, "reason": "no song has a label"}
        return {**{name: dict(nothing) for name in METRICS}, "resampled": {"unit": "song", "num_units": {"song": 0}}}
    kept = {name: np.asarray(members)[is_labelled] for name, members in (groups or {}).items()}
    resamples = draw_resamples(len(wanted), num_draws, seed, kept)
    step = max(1, DRAWN_AT_ONCE // len(wanted))
    parts = [resamples.weights[start : start + step] for start in range(0, len(resamples.weights), step)]
    results: dict[str, Any] = {}
    for name, metric in METRICS.items():
        draws = np.concatenate([metric(predicted, wanted, part) for part in parts])
        summary = resamples.summarize(values[name], draws)
        results[name] = {"value": summary.pop("estimate"), **summary}
        if results[name]["value"] is None:
            results[name]["reason"] = _explain_undefined(predicted, wanted)
    return {**results, "resampled": resamples.describe()}


def _explain_undefined(predicted: NDArray, wanted: NDArray) -> str:
    if len(wanted) < MINIMUM_SONGS:
        return f"{len(wanted)} songs have a label, and a correlation needs at least {MINIMUM_SONGS}"
    constant = "labels" if np.isnan(compute_pearson(wanted, np.arange(len(wanted)))) else "scores"
    return f"the {constant} do not vary, so no correlation is defined"


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
    scores: NDArray,
    labels: NDArray,
    training_labels: NDArray,
    *,
    num_draws: int,
    seed: int = 0,
    groups: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Any]:
    """
    Compute everything that a result table says about one head on one set of songs.

    Args:
        scores (`np.ndarray` of shape `(num_songs,)`), labels (`np.ndarray` of shape `(num_songs,)`):
            In native units; NaN where a song has no label.
        training_labels (`np.ndarray` of shape `(num_training_songs,)`): Labels that the baselines come from.
        num_draws (`int`): Bootstrap resamples.
        seed (`int`, defaults to 0): Seed of the resampling.
        groups (`dict[str, array of shape (num_songs,)]`, *optional*): What repeats, drawn as a whole.

    Returns:
        `dict`: `num_songs`, what [`summarize_metrics`] returns, and `baselines`. What is not defined is `None`, so
        that the result survives JSON.
    """
    results: dict[str, Any] = {"num_songs": int(np.sum(~np.isnan(labels)))}
    results |= summarize_metrics(scores, labels, num_draws=num_draws, seed=seed, groups=groups)
    results["baselines"] = {
        kind: drop_undefined(compute_baseline(labels, training_labels, kind)) for kind in BASELINES
    }
    return results
