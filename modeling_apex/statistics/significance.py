"""
Tests: p-values from permutations that refit, and what stays significant when many are made.

What comes in is a statistic as it was observed and on permuted data; what leaves are p-values and decisions. A p-value
from draws has a smallest value, so many tests need many draws: too few are refused with the number that is needed.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

SIGNIFICANCE_LEVEL = 0.05
# Twenty draws stand behind the smallest p-value that Holm's correction has to tell apart.
DRAWS_PER_TEST = 20
POWER = 0.8


def compute_needed_draws(num_tests: int, level: float = SIGNIFICANCE_LEVEL) -> int:
    """Return how many draws a p-value needs, so that Holm's correction over `num_tests` tests can reject."""
    return math.ceil(DRAWS_PER_TEST * max(num_tests, 1) / level - 1e-9)


def compute_permutation_p_values(observed: float, null: NDArray) -> tuple[float | None, float | None]:
    """
    Compute the one-sided p-values of a statistic by its values on permuted data.

    Args:
        observed (`float`): The statistic on the data as they are.
        null (`np.ndarray` of shape `(num_draws,)`): The statistic on permuted data; NaN where undefined.

    Returns:
        `tuple[float, float]`: Of being as large, and of being as small. The data as they are count as one draw, so
        neither is ever zero. `None` where the statistic is not defined.
    """
    usable = null[np.isfinite(null)]
    if not np.isfinite(observed) or not len(usable):
        return None, None
    # What equals the observed up to rounding is as large and as small as it.
    tolerance = 1e-9 * max(1.0, abs(observed))
    larger = int((usable >= observed - tolerance).sum())
    smaller = int((usable <= observed + tolerance).sum())
    return (1 + larger) / (1 + len(usable)), (1 + smaller) / (1 + len(usable))


def compute_smallest_effect(null: NDArray, level: float = SIGNIFICANCE_LEVEL) -> float | None:
    """
    Compute the smallest effect that a permutation test would find in 4 of 5 cases: how far above the mean of the
    permuted data the statistic must lie.

    Args:
        null (`np.ndarray` of shape `(num_draws,)`): The statistic on permuted data; NaN where undefined.
        level (`float`, defaults to 0.05): Two-sided level of the test.

    Returns:
        `float` or `None`: The effect, in units of the statistic; `None` where the draws do not vary.
    """
    usable = null[np.isfinite(null)]
    if len(usable) < 2 or np.ptp(usable) == 0:
        return None
    spread = float(np.std(usable, ddof=1))
    return float(np.quantile(usable, 1 - level / 2) - usable.mean()) + float(ndtri(POWER)) * spread


def compute_holm_rejections(
    p_values: list[float], level: float = SIGNIFICANCE_LEVEL, *, num_draws: int | None = None
) -> list[bool]:
    """
    Decide which of several tests stay significant after Holm's correction.

    Args:
        p_values (`list[float]`): One p-value a test.
        level (`float`, defaults to 0.05): Chance of any false finding.
        num_draws (`int`, *optional*): Draws that each p-value comes from; without it they are exact.

    Returns:
        `list[bool]`: True where the null is rejected, in the order of `p_values`.

    Raises:
        `ValueError`: If the p-values come from fewer draws than this many tests need.
    """
    needed = compute_needed_draws(len(p_values), level)
    if num_draws is not None and p_values and num_draws < needed:
        raise ValueError(
            f"Holm's correction over {len(p_values)} tests at level {level:g} needs p-values from at least {needed} "
            f"draws ({DRAWS_PER_TEST} x tests / level), received {num_draws}. Make {needed} draws, or fewer tests."
        )
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected
