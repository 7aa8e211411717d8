"""
How well a probability of a hit tells hits from the rest, and what predicting one class for all songs would reach.

F1 alone says little: where hits are common, calling every song a hit already has a high one. So every result stands
beside the trivial predictions, and F1 beside its mean over both classes weighted by their sizes, which is the figure
that a table of a library often shows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modeling_apex.statistics.bootstrap import draw_resamples, drop_undefined
from modeling_apex.statistics.pair_metrics import compute_auc, compute_f1, divide_or_nan

HIT_METRICS = ("f1", "precision", "recall", "auc", "accuracy", "weighted_f1")
DECISION = 0.5  # a song counts as a predicted hit from this probability on


def compute_hit_metrics(
    probabilities: ArrayLike, is_hit: ArrayLike, weights: NDArray | None = None
) -> dict[str, NDArray[np.float64]]:
    """
    Compute the metrics of a predicted hit, for the songs as they are or for many bootstrap samples at once.

    Args:
        probabilities (array of shape `(num_songs,)`):
            Probability that each song is a hit, 0 to 1; a song counts as a predicted hit from 0.5 on.
        is_hit (array of shape `(num_songs,)`): 1 for hits, 0 for the others.
        weights (`np.ndarray` of shape `(num_draws, num_songs)`, *optional*):
            How often each song stands in each bootstrap sample.

    Returns:
        `dict[str, np.ndarray]`: per metric of `HIT_METRICS` an array of shape `(num_draws,)`; NaN where undefined
        (no predicted hit has no precision). The F1 of no predicted hit is 0.

    Raises:
        `ValueError`: If the shapes differ, or a value is no probability or no class.
    """
    chances, truth = np.asarray(probabilities, np.float64), np.asarray(is_hit, np.float64)
    if chances.shape != truth.shape or chances.ndim != 1:
        raise ValueError(
            f"probabilities {chances.shape} and hits {truth.shape} must be one-dimensional, of one length."
        )
    if not np.all((chances >= 0) & (chances <= 1)):
        raise ValueError("probabilities must lie between 0 and 1, got values outside or NaN.")
    if not np.isin(truth, (0.0, 1.0)).all():
        raise ValueError("hits are 1 or 0, got other values; leave songs without a label out.")
    drawn = np.ones((1, len(truth))) if weights is None else weights
    called = (chances >= DECISION).astype(np.float64)
    right = drawn @ (called * truth)
    total, num_hits, num_called = drawn.sum(1), drawn @ truth, drawn @ called
    # The side of a margin is the decision; a margin of exactly zero would count as half a prediction.
    f1 = compute_f1(called - 0.5, truth, drawn, average="a")
    f1_of_others = compute_f1(0.5 - called, 1 - truth, drawn, average="a")
    return {
        "f1": f1,
        "precision": divide_or_nan(right, num_called),
        "recall": divide_or_nan(right, num_hits),
        "auc": compute_auc(chances, truth, drawn),
        "accuracy": divide_or_nan(drawn @ (called == truth), total),
        "weighted_f1": divide_or_nan(
            num_hits * np.nan_to_num(f1) + (total - num_hits) * np.nan_to_num(f1_of_others), total
        ),
    }


def compute_hit_results(
    probabilities: ArrayLike,
    is_hit: ArrayLike,
    *,
    threshold: float,
    num_draws: int,
    seed: int = 0,
    groups: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Any]:
    """
    Compute everything that a result says about predicted hits.

    Args:
        probabilities (array of shape `(num_songs,)`): Probability that each song is a hit.
        is_hit (array of shape `(num_songs,)`): 1 for hits, 0 for the others; NaN where a song has no label.
        threshold (`float`): Popularity from which a song is a hit; stated with the result.
        num_draws (`int`): Bootstrap samples.
        seed (`int`, defaults to 0): Seed of the samples.
        groups (`dict[str, array of shape (num_songs,)]`, *optional*):
            What repeats, such as the artist, by its name: drawn as a whole.

    Returns:
        `dict`: `threshold`, `num_songs`, `hit_share`, per metric `estimate`, `low` and `high` (95 %; Wilson's for
        shares) and `reason` where one is `None`, `resampled` (the `unit`, and `num_units`), and `baselines`: the
        metrics of predicting the majority class, and of calling every song a hit. Survives JSON.
    """
    truth = np.asarray(is_hit, np.float64)
    rows = np.flatnonzero(~np.isnan(truth))
    results: dict[str, Any] = {"threshold": float(threshold), "num_songs": len(rows), "hit_share": None}
    if not len(rows):
        return results
    truth, chances = truth[rows], np.asarray(probabilities, np.float64)[rows]
    results["hit_share"] = float(truth.mean())
    kept = {name: np.asarray(members)[rows] for name, members in (groups or {}).items()}
    resamples = draw_resamples(len(rows), num_draws, seed, kept)
    values, draws = compute_hit_metrics(chances, truth), compute_hit_metrics(chances, truth, resamples.weights)
    # What each share is taken over: the songs, those called hits, the hits.
    shares = {"accuracy": len(rows), "precision": int((chances >= DECISION).sum()), "recall": int(truth.sum())}
    for name in HIT_METRICS:
        value = float(values[name][0])
        if name in shares:
            results[name] = resamples.summarize_share(value, draws[name], shares[name])
        else:
            results[name] = resamples.summarize(value, draws[name])
    results["resampled"] = resamples.describe()
    results["baselines"] = {
        "majority_class": _describe_constant(float(truth.mean() >= DECISION), truth),
        "all_hits": _describe_constant(1.0, truth),
    }
    return results


def _describe_constant(probability: float, truth: NDArray[np.float64]) -> dict[str, float | None]:
    metrics = compute_hit_metrics(np.full(len(truth), probability), truth)
    named = drop_undefined({name: metrics[name][0] for name in ("f1", "weighted_f1", "accuracy")})
    return {"predicts_hit": probability, **named}
