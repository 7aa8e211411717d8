"""
Metrics of pairwise predictions; numpy only.

What comes in is a margin per battle (above zero: A is predicted to win) and an outcome (1 where A won, 0 where B won,
0.5 for a tie). What leaves is AUC, accuracy and F1, each for one weight vector or for many bootstrap draws at once.
Every metric here is the same when A and B are exchanged everywhere, unless its docstring says otherwise.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

OUTCOMES = {"A": 1.0, "B": 0.0, "TIE": 0.5, "BOTH_BAD": math.nan}


def read_votes(votes: Iterable[str]) -> np.ndarray:
    """
    Turn votes into outcomes.

    Args:
        votes (`Iterable[str]`): `"A"`, `"B"`, `"TIE"` or `"BOTH_BAD"`.

    Returns:
        `np.ndarray` of shape `(num_battles,)`: 1, 0, 0.5, and NaN for `"BOTH_BAD"`, which compares nothing.

    Raises:
        `ValueError`: If a vote is another.
    """
    listed = list(votes)
    if unknown := sorted({str(vote) for vote in listed if vote not in OUTCOMES}):
        raise ValueError(f"Unknown votes {unknown}. Expected A, B, TIE or BOTH_BAD.")
    return np.array([OUTCOMES[vote] for vote in listed], dtype=np.float64)


def _prepare(margins: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Give margins, outcomes and weights of the decisive battles, and which those are."""
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
    return margins[is_decisive], outcomes[is_decisive], drawn[:, is_decisive], is_decisive


def divide_or_nan(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide where the denominator is above zero; elsewhere the quotient is not defined, and NaN."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)[()]


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
    margins, outcomes, drawn, is_decisive = _prepare(margins, outcomes, weights)
    if not len(margins):
        return np.full(len(drawn), np.nan)
    if strata is None:
        return divide_or_nan(*_count_auc_pairs(margins, outcomes, drawn))
    strata = np.asarray(strata)[is_decisive]
    right, compared = np.zeros(len(drawn)), np.zeros(len(drawn))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        if len(np.unique(outcomes[rows])) == 2:
            more_right, more_compared = _count_auc_pairs(margins[rows], outcomes[rows], drawn[:, rows])
            right, compared = right + more_right, compared + more_compared
    return divide_or_nan(right, compared)


def compute_accuracy(margins: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """
    Compute the share of decisive battles whose winner was predicted; a margin of zero counts as half.

    Args and returns are those of [`compute_auc`], without strata.
    """
    margins, outcomes, drawn, _ = _prepare(margins, outcomes, weights)
    votes = 0.5 + 0.5 * np.sign(margins)
    return divide_or_nan(drawn @ (1.0 - np.abs(votes - outcomes)), drawn.sum(axis=1))


def compute_f1(
    margins: np.ndarray, outcomes: np.ndarray, weights: np.ndarray | None = None, *, average: str = "macro"
) -> np.ndarray:
    """
    Compute the F1 of decisive battles; a margin of zero is half a prediction for each side.

    Args and returns are those of [`compute_auc`], without strata. An `average` of `"macro"` is the mean over "A wins"
    and "B wins", which does not change when A and B are exchanged; `"a"` is the F1 of "A wins" alone, which does.

    Raises:
        `ValueError`: If `average` is unknown, shapes differ or a margin is NaN.
    """
    if average not in ("macro", "a"):
        raise ValueError(f"`average` is {average!r}. Choose 'macro' or 'a'.")
    margins, outcomes, drawn, _ = _prepare(margins, outcomes, weights)
    votes = 0.5 + 0.5 * np.sign(margins)
    num_a_right = drawn @ (votes * outcomes)
    f1_a = divide_or_nan(2.0 * num_a_right, drawn @ (votes + outcomes))
    if average == "a":
        return f1_a
    num_b_right = drawn @ ((1.0 - votes) * (1.0 - outcomes))
    f1_b = divide_or_nan(2.0 * num_b_right, drawn @ ((1.0 - votes) + (1.0 - outcomes)))
    return 0.5 * (f1_a + f1_b)


METRICS: dict[str, Callable[..., np.ndarray]] = {"auc": compute_auc, "accuracy": compute_accuracy, "f1": compute_f1}
# The F1 of the paper, of "A wins" alone: it changes when A and B are exchanged.
PUBLISHED_F1 = "f1_of_a"
