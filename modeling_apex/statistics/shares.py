"""The interval of a share; by the standard library and numpy alone, because cards are made where nothing else is."""

from statistics import NormalDist

import numpy as np

INTERVAL_LEVEL = 0.95


def compute_wilson_interval(share: float, num_items: float, level: float = INTERVAL_LEVEL) -> tuple[float, float]:
    """
    Compute Wilson's interval of a share (Wilson, 1927).

    Args:
        share (`float`): Observed share, 0 to 1.
        num_items (`float`): Over how many; a fraction where items are not independent.
        level (`float`, defaults to 0.95): Probability that the interval is meant to cover.

    Returns:
        `tuple[float, float]`: Lower and upper bound; NaN over nothing.
    """
    if not num_items > 0:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    spread = z * np.sqrt(share * (1 - share) / num_items + (z / (2 * num_items)) ** 2)
    center, scale = share + z**2 / (2 * num_items), 1 + z**2 / num_items
    low, high = (center - spread) / scale, (center + spread) / scale
    return float(np.clip(min(low, share), 0, 1)), float(np.clip(max(high, share), 0, 1))
