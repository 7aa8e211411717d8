"""
Calibration: how far predicted chances lie from what happened, and how far they would lie by luck alone.

What comes in are the predicted chances that A wins and the outcomes (1, 0, or 0.5 for a tie, which is left out). What
leaves is the expected calibration error over tenths of the predicted chance, with its interval, and beside it the
error that a perfectly calibrated head would show on as many battles: it is never zero.
"""

from typing import Any

import numpy as np

from modeling_apex.statistics.bootstrap import Resamples
from modeling_apex.statistics.pair_metrics import divide_or_nan
from modeling_apex.statistics.shares import INTERVAL_LEVEL

NUM_BINS = 10  # of equal width


def find_bins(probabilities: np.ndarray) -> np.ndarray:
    """Number the tenth of each probability, 0 to 9: 0.3 is the first of its tenth, however it is rounded."""
    # 0.3 * 10 is 3.0000000000000004 and 0.7 * 10 is 7.000000000000001, but 0.29 * 100 is 28.999999999999996.
    return np.clip(np.floor(np.round(probabilities * NUM_BINS, 9)).astype(int), 0, NUM_BINS - 1)


def _select_decisive(probabilities: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probabilities, outcomes = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if probabilities.shape != outcomes.shape or probabilities.ndim != 1:
        raise ValueError(
            f"`probabilities` of shape {probabilities.shape} and `outcomes` of shape {outcomes.shape} must be "
            "one-dimensional and equally long."
        )
    if len(probabilities) and not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            f"Probabilities must lie between 0 and 1, received {probabilities.min()} to {probabilities.max()}."
        )
    is_decisive = (outcomes == 0) | (outcomes == 1)
    return probabilities[is_decisive], outcomes[is_decisive], is_decisive


def compute_calibration_error(
    probabilities: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """
    Compute the expected calibration error over decisive battles: the mean gap between predicted and observed share of
    wins, weighted by the size of the bins of [`compute_calibration_bins`].

    Args:
        probabilities (`np.ndarray` of shape `(num_battles,)`): Predicted chance that A wins.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1, 0, or 0.5 for ties, which are left out.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`, *optional*): Bootstrap counts.

    Returns:
        `np.ndarray` of shape `(num_draws,)`: The errors; NaN where no battle is decisive.

    Raises:
        `ValueError`: If shapes differ or a probability lies outside 0 to 1.
    """
    chances, won, is_decisive = _select_decisive(probabilities, outcomes)
    drawn = np.ones((1, len(won))) if weights is None else np.atleast_2d(weights)[:, is_decisive]
    members = np.eye(NUM_BINS)[find_bins(chances)]
    gaps = np.abs((drawn * (chances - won)) @ members).sum(axis=1)
    return np.atleast_1d(divide_or_nan(gaps, drawn.sum(axis=1)))


def compute_calibrated_errors(probabilities: np.ndarray, *, num_draws: int = 1000, seed: int = 0) -> np.ndarray:
    """
    Compute the calibration errors that a perfectly calibrated head with these probabilities would show by luck.

    Args:
        probabilities (`np.ndarray` of shape `(num_battles,)`): Predicted chances, of decisive battles.
        num_draws (`int`, defaults to 1000): How often all battles are fought again.
        seed (`int`, defaults to 0): Seed of the battles.

    Returns:
        `np.ndarray` of shape `(num_draws,)`: The errors.
    """
    chances = np.asarray(probabilities, dtype=np.float64)
    members, generator = np.eye(NUM_BINS)[find_bins(chances)], np.random.default_rng(seed)
    won = generator.random((num_draws, len(chances))) < chances
    return np.abs((chances - won) @ members).sum(axis=1) / max(len(chances), 1)


def summarize_calibration(
    probabilities: np.ndarray, outcomes: np.ndarray, resamples: Resamples, *, seed: int = 0
) -> dict[str, Any]:
    """
    Build the JSON form of a calibration error: its interval, and what a calibrated head would show.

    Args:
        probabilities (`np.ndarray` of shape `(num_battles,)`): Predicted chance that A wins.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1, 0, or 0.5 for ties, which are left out.
        resamples ([`Resamples`]): Samples of the battles.
        seed (`int`, defaults to 0): Seed of the battles of a calibrated head.

    Returns:
        `dict`: `estimate`, `low`, `high` (the gap of bins is above zero by luck alone, so the interval reaches down to
        zero wherever a calibrated head would show as much), `expected_if_calibrated`, `is_beyond_luck`, and `reason`
        where something is `None`.
    """
    chances, _, _ = _select_decisive(probabilities, outcomes)
    estimate = float(compute_calibration_error(probabilities, outcomes)[0])
    if not len(chances):
        return {
            **dict.fromkeys(("estimate", "low", "high", "expected_if_calibrated", "is_beyond_luck")),
            "reason": "no battle has a winner",
        }
    lucky = compute_calibrated_errors(chances, seed=seed)
    draws = compute_calibration_error(probabilities, outcomes, resamples.weights)
    summary = resamples.summarize(estimate, draws, method="mirrored")
    is_beyond_luck = bool(estimate > np.quantile(lucky, INTERVAL_LEVEL))
    if summary["low"] is not None:
        summary["low"] = max(summary["low"], 0.0) if is_beyond_luck else 0.0
    return {**summary, "expected_if_calibrated": float(lucky.mean()), "is_beyond_luck": is_beyond_luck}


def compute_calibration_bins(probabilities: np.ndarray, outcomes: np.ndarray) -> list[dict[str, float]]:
    """
    Compute predicted and observed share of wins per tenth of predicted probability.

    Args:
        probabilities (`np.ndarray` of shape `(num_battles,)`): Predicted chance that A wins.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1, 0, or 0.5 for ties, which are left out.

    Returns:
        `list[dict]`: `predicted`, `observed` and `weight` (share of the battles) of each bin that is not empty.

    Raises:
        `ValueError`: If shapes differ or a probability lies outside 0 to 1.
    """
    chances, won, _ = _select_decisive(probabilities, outcomes)
    bins = find_bins(chances)
    return [
        {
            "predicted": float(chances[bins == index].mean()),
            "observed": float(won[bins == index].mean()),
            "weight": float((bins == index).mean()),
        }
        for index in np.unique(bins)
    ]
