"""
The bootstrap: samples of units with replacement, the intervals that they give, and tests of differences.

What comes in is what was measured; what leaves is how far chance alone moves it. A unit is drawn as a whole: a song or
a battle, or with `groups` all that share an artist, a user or a prompt. What is measured on the same draws is paired.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

INTERVAL_LEVEL = 0.95


def draw_bootstrap_rows(num_items: int, num_draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """
    Draw bootstrap samples as rows, for what has no form with weights, such as ranks.

    Args:
        num_items (`int`): Number of songs, battles or systems.
        num_draws (`int`): Number of bootstrap samples.
        seed (`int`): Seed of the draws.

    Returns:
        `Iterator[np.ndarray]`: The rows of each sample, of shape `(num_items,)`.

    Raises:
        `ValueError`: If there is nothing to draw from.
    """
    _check_draws(num_items, num_draws)
    generator = np.random.default_rng(seed)
    return (generator.integers(num_items, size=num_items) for _ in range(num_draws))


def draw_bootstrap_weights(num_items: int, num_draws: int, seed: int, groups: NDArray | None = None) -> NDArray:
    """
    Draw bootstrap samples as counts, for what is computed of all samples at once.

    Args are those of [`draw_bootstrap_rows`], and `groups` (`np.ndarray` of shape `(num_items,)`, *optional*), to draw
    whole groups instead of single items.

    Returns:
        `np.ndarray` of shape `(num_draws, num_items)`: How often each item stands in each sample, float64.

    Raises:
        `ValueError`: If there is nothing to draw from.
    """
    _check_draws(num_items, num_draws)
    names, indices = np.unique(np.arange(num_items) if groups is None else groups, return_inverse=True)
    chances = np.full(len(names), 1.0 / len(names))
    counts = np.random.default_rng(seed).multinomial(len(names), chances, size=num_draws)
    return counts[:, indices].astype(np.float64)


def _check_draws(num_items: int, num_draws: int) -> None:
    if num_items < 1 or num_draws < 1:
        raise ValueError(f"A bootstrap needs items and draws, received {num_items} items and {num_draws} draws.")


def compute_interval(draws: NDArray, level: float = INTERVAL_LEVEL) -> tuple[float, float]:
    """
    Compute the percentile interval of bootstrap draws.

    Args:
        draws (`np.ndarray` of shape `(num_draws,)`): The values on the bootstrap samples; NaN where undefined.
        level (`float`, defaults to 0.95): Probability that the interval is meant to cover.

    Returns:
        `tuple[float, float]`: Lower and upper bound over the draws that are defined; NaN where none is.
    """
    usable = draws[np.isfinite(draws)]
    if not len(usable):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return float(low), float(high)


def summarize_draws(estimate: float, draws: NDArray) -> dict[str, float | None]:
    """
    Build the JSON form of an estimate with its percentile interval.

    Args:
        estimate (`float`): The value on the items as they are.
        draws (`np.ndarray` of shape `(num_draws,)`): The values on the bootstrap samples; NaN where undefined.

    Returns:
        `dict`: `estimate`, `low` and `high`, each `None` where undefined.
    """
    low, high = compute_interval(draws) if np.isfinite(estimate) else (np.nan, np.nan)
    return drop_undefined({"estimate": estimate, "low": low, "high": high})


def drop_undefined(numbers: dict[str, float]) -> dict[str, float | None]:
    """Build the JSON form of numbers: `None` for each that is not finite."""
    return {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}


def compute_bootstrap_p_value(draws: NDArray) -> float | None:
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
