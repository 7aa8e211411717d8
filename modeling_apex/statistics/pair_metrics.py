"""
Metrics of pairwise predictions and their bootstrap.

What comes in is a margin per battle (above zero: A is predicted to win) and an outcome (1 where A won, 0 where B won,
0.5 for a tie). What leaves is AUC, accuracy and F1, each for one weight vector or for many bootstrap draws at once.
Every metric here is the same when A and B are exchanged everywhere, unless its docstring says otherwise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

INTERVAL_LEVEL = 0.95


def _prepare(margins: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, ...]:
    margins, outcomes = np.asarray(margins, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if margins.shape != outcomes.shape or margins.ndim != 1:
        raise ValueError(
            f"`margins` of shape {margins.shape} and `outcomes` of shape {outcomes.shape} must be one-dimensional and "
            "equally long."
        )
    if np.isnan(margins).any():
        raise ValueError(f"{int(np.isnan(margins).sum())} margins are NaN. Leave battles without a prediction out.")
    drawn = np.ones((1, len(margins))) if weights is None else np.atleast_2d(np.asarray(weights, dtype=np.float64))
    is_decisive = (outcomes == 0) | (outcomes == 1)
    return margins[is_decisive], outcomes[is_decisive], drawn[:, is_decisive]


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _count_auc_pairs(margins: np.ndarray, outcomes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(margins, kind="stable")
    sorted_margins, sorted_outcomes, sorted_weights = margins[order], outcomes[order], weights[:, order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(sorted_margins) != 0]))
    won = np.add.reduceat(sorted_weights * sorted_outcomes, starts, axis=1)
    lost = np.add.reduceat(sorted_weights * (1.0 - sorted_outcomes), starts, axis=1)
    lost_below = np.cumsum(lost, axis=1) - lost
    return (won * (lost_below + 0.5 * lost)).sum(axis=1), won.sum(axis=1) * lost.sum(axis=1)


def compute_auc(
    margins: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None = None, strata: np.ndarray | None = None
) -> np.ndarray:
    """
    Compute the area under the ROC curve of decisive battles.

    Args:
        margins (`np.ndarray` of shape `(num_battles,)`): Predicted margins of A over B.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1, 0, or 0.5 for ties, which are left out.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`, *optional*): Bootstrap counts.
        strata (`np.ndarray` of shape `(num_battles,)`, *optional*):
            Compare battles only with battles of the same stratum.

    Returns:
        `np.ndarray` of shape `(num_draws,)`: The areas; NaN for a draw where only one side won.

    Raises:
        `ValueError`: If shapes differ or a margin is NaN.
    """
    is_decisive = (np.asarray(outcomes) == 0) | (np.asarray(outcomes) == 1)
    margins, outcomes, drawn = _prepare(margins, outcomes, weights)
    if not len(margins):
        return np.full(len(drawn), np.nan)
    if strata is None:
        return _divide(*_count_auc_pairs(margins, outcomes, drawn))
    strata = np.asarray(strata)[is_decisive]
    right, compared = np.zeros(len(drawn)), np.zeros(len(drawn))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        if len(np.unique(outcomes[rows])) == 2:
            more_right, more_compared = _count_auc_pairs(margins[rows], outcomes[rows], drawn[:, rows])
            right, compared = right + more_right, compared + more_compared
    return _divide(right, compared)


def compute_accuracy(margins: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """
    Compute the share of decisive battles whose winner was foretold; a margin of zero counts as half.

    Args and returns are those of [`compute_auc`], without strata.
    """
    margins, outcomes, drawn = _prepare(margins, outcomes, weights)
    votes = 0.5 + 0.5 * np.sign(margins)
    return _divide(drawn @ (1.0 - np.abs(votes - outcomes)), drawn.sum(axis=1))


def compute_f1(
    margins: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None = None, *, average: str = "macro"
) -> np.ndarray:
    """
    Compute the F1 of decisive battles; a margin of zero is half a prediction for each side.

    Args:
        margins (`np.ndarray` of shape `(num_battles,)`): Predicted margins of A over B.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1, 0, or 0.5 for ties, which are left out.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`, *optional*): Bootstrap counts.
        average (`str`, defaults to `"macro"`):
            `"macro"` is the mean over "A wins" and "B wins", which does not change when A and B are exchanged. `"a"`
            is the F1 of "A wins" alone, which does.

    Returns:
        `np.ndarray` of shape `(num_draws,)`: The F1 values.

    Raises:
        `ValueError`: If `average` is unknown, shapes differ or a margin is NaN.
    """
    if average not in ("macro", "a"):
        raise ValueError(f"`average` is {average!r}. Choose 'macro' or 'a'.")
    margins, outcomes, drawn = _prepare(margins, outcomes, weights)
    votes = 0.5 + 0.5 * np.sign(margins)
    num_a_right = drawn @ (votes * outcomes)
    f1_a = _divide(2.0 * num_a_right, drawn @ (votes + outcomes))
    if average == "a":
        return f1_a
    num_b_right = drawn @ ((1.0 - votes) * (1.0 - outcomes))
    f1_b = _divide(2.0 * num_b_right, drawn @ ((1.0 - votes) + (1.0 - outcomes)))
    return 0.5 * (f1_a + f1_b)


METRICS: dict[str, Callable[..., np.ndarray]] = {"auc": compute_auc, "accuracy": compute_accuracy, "f1": compute_f1}


def draw_bootstrap_weights(num_items: int, num_draws: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """
    Draw how often each battle stands in each bootstrap sample.

    Args:
        num_items (`int`): Number of battles.
        num_draws (`int`): Number of bootstrap samples.
        seed (`int`): Seed of the draws.
        groups (`np.ndarray` of shape `(num_items,)`, *optional*): Draw whole groups instead of single battles.

    Returns:
        `np.ndarray` of shape `(num_draws, num_items)`: Counts, float64.

    Raises:
        `ValueError`: If there is nothing to draw from.
    """
    if num_items < 1 or num_draws < 1:
        raise ValueError(f"A bootstrap needs items and draws, received {num_items} items and {num_draws} draws.")
    generator = np.random.default_rng(seed)
    if groups is None:
        return generator.multinomial(num_items, np.full(num_items, 1.0 / num_items), size=num_draws).astype(np.float64)
    names, indices = np.unique(groups, return_inverse=True)
    counts = generator.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=num_draws)
    return counts[:, indices].astype(np.float64)


def summarize_draws(estimate: float, draws: np.ndarray) -> dict[str, Any]:
    """
    Build the JSON form of an estimate with its percentile interval.

    Args:
        estimate (`float`): The value on the battles as they are.
        draws (`np.ndarray` of shape `(num_draws,)`): The values on the bootstrap samples; NaN where undefined.

    Returns:
        `dict`: `estimate`, `low` and `high`, each `None` where undefined.
    """
    usable = draws[np.isfinite(draws)]
    if not np.isfinite(estimate) or not len(usable):
        return {"estimate": float(estimate) if np.isfinite(estimate) else None, "low": None, "high": None}
    tail = 50.0 * (1.0 - INTERVAL_LEVEL)
    low, high = np.percentile(usable, [tail, 100.0 - tail])
    return {"estimate": float(estimate), "low": float(low), "high": float(high)}


def compute_bootstrap_p_value(draws: np.ndarray) -> float | None:
    """
    Compute the two-sided p-value of a difference from its bootstrap draws.

    Args:
        draws (`np.ndarray` of shape `(num_draws,)`): Differences on the bootstrap samples.

    Returns:
        `float` or `None`: Twice the smaller share on either side of zero, never below `2 / (num_draws + 1)`, or `None`
        when no draw is defined.
    """
    usable = draws[np.isfinite(draws)]
    if not len(usable):
        return None
    smaller = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    return float(min(1.0, 2.0 * (smaller + 1) / (len(usable) + 1)))


def compute_holm_rejections(p_values: list[float], level: float = 0.05) -> list[bool]:
    """
    Decide which of several tests stay significant after Holm's correction.

    Args:
        p_values (`list[float]`): One p-value a test.
        level (`float`, defaults to 0.05): Chance of any false finding.

    Returns:
        `list[bool]`: True where the null is rejected, in the order of `p_values`.
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def compute_calibration_error(probabilities: np.ndarray, outcomes: np.ndarray, num_bins: int = 10) -> float:
    """
    Compute the expected calibration error over decisive battles.

    Args:
        probabilities (`np.ndarray` of shape `(num_battles,)`): Predicted chance that A wins.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1, 0, or 0.5 for ties, which are left out.
        num_bins (`int`, defaults to 10): Number of bins of equal width.

    Returns:
        `float`: Mean gap between predicted and observed share of wins, weighted by the size of the bins.
    """
    return float(sum(b["weight"] * abs(b["predicted"] - b["observed"]) for b in
                     compute_calibration_bins(probabilities, outcomes, num_bins)))  # fmt: skip


def compute_calibration_bins(
    probabilities: np.ndarray, outcomes: np.ndarray, num_bins: int = 10
) -> list[dict[str, float]]:
    """
    Compute predicted and observed share of wins per bin of predicted probability.

    Args are those of [`compute_calibration_error`].

    Returns:
        `list[dict]`: `predicted`, `observed` and `weight` (share of the battles) of each bin that is not empty.

    Raises:
        `ValueError`: If a probability lies outside 0 to 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if len(probabilities) and not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            f"Probabilities must lie between 0 and 1, received {probabilities.min()} to {probabilities.max()}."
        )
    is_decisive = (outcomes == 0) | (outcomes == 1)
    probabilities, outcomes = probabilities[is_decisive], np.asarray(outcomes)[is_decisive]
    bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
    return [
        {
            "predicted": float(probabilities[bins == index].mean()),
            "observed": float(outcomes[bins == index].mean()),
            "weight": float((bins == index).mean()),
        }
        for index in np.unique(bins)
    ]
