"""
The bootstrap: samples of units with replacement, and the intervals that they give.

What comes in is what was measured; what leaves is how far chance alone moves it. A unit is drawn as a whole: a song or
a battle, or all that share an artist, a user or a prompt. Where units cross, such as prompts and users, the variances
of both are added and that of their cells is taken off (Cameron, Gelbach and Miller, 2011). What is measured on the
same draws is paired. Every result says which unit was drawn and how many there were.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit

from modeling_apex.statistics.shares import INTERVAL_LEVEL, compute_wilson_interval

MINIMUM_UNITS = 2
METHODS = ("bias_corrected", "joined", "mirrored")
NO_SPREAD = "every resample gives the same value"


def draw_bootstrap_weights(num_items: int, num_draws: int, seed: int, groups: NDArray | None = None) -> NDArray:
    """
    Draw bootstrap samples as counts, for what is computed of all samples at once.

    Args:
        num_items (`int`): Number of songs, battles or systems.
        num_draws (`int`): Number of bootstrap samples.
        seed (`int`): Seed of the draws.
        groups (`np.ndarray` of shape `(num_items,)`, *optional*): Draw whole groups instead of single items.

    Returns:
        `np.ndarray` of shape `(num_draws, num_items)`: How often each item stands in each sample, float64.

    Raises:
        `ValueError`: If there is nothing to draw from.
    """
    if num_items < 1 or num_draws < 1:
        raise ValueError(f"A bootstrap needs items and draws, received {num_items} items and {num_draws} draws.")
    names, indices = np.unique(np.arange(num_items) if groups is None else groups, return_inverse=True)
    chances = np.full(len(names), 1.0 / len(names))
    counts = np.random.default_rng(seed).multinomial(len(names), chances, size=num_draws)
    return counts[:, indices].astype(np.float64)


@dataclass(frozen=True)
class Resamples:
    """
    Hold bootstrap samples of items with the unit that they were drawn by.

    Args:
        weights (`np.ndarray` of shape `(num_blocks * num_draws, num_items)`):
            How often each item stands in each sample. One block, or three for two crossed units: the first unit, the
            second, and their cells.
        units (`dict[str, int]`): Name of each unit that was drawn, and how many of it there are.
        num_blocks (`int`, defaults to 1): 1 or 3.
    """

    weights: NDArray
    units: Mapping[str, int]
    num_blocks: int = 1

    def select(self, rows: NDArray) -> "Resamples":
        """Keep some items, given as a mask or as indices."""
        return Resamples(self.weights[:, rows], self.units, self.num_blocks)

    def describe(self) -> dict[str, Any]:
        """Say what was resampled: `unit`, and `num_units` by its name. Survives JSON."""
        return {"unit": " and ".join(self.units), "num_units": dict(self.units)}

    def combine(self, draws: NDArray) -> NDArray:
        """Give the draws of one block as they are; of three, draws with the variance of both units together."""
        if self.num_blocks == 1:
            return draws
        first, second, cells = np.split(draws, 3)
        variances = [float(np.nanvar(block)) if np.isfinite(block).any() else 0.0 for block in (first, second, cells)]
        widest = first if variances[0] >= variances[1] else second
        largest = max(variances[:2])
        if not largest > 0:
            return widest
        # Taking the cells off may leave less than one unit alone shows: then that one stands.
        stretch = np.sqrt(max(variances[0] + variances[1] - variances[2], largest) / largest)
        center = np.nanmean(widest)
        return center + stretch * (widest - center)

    def summarize(self, estimate: float, draws: NDArray, *, method: str = "bias_corrected") -> dict[str, Any]:
        """Build the JSON form of an estimate with its interval; see [`summarize_draws`]."""
        return summarize_draws(estimate, self.combine(draws), num_units=min(self.units.values()), method=method)

    def summarize_share(self, estimate: float, draws: NDArray, num_items: int) -> dict[str, Any]:
        """
        Build the JSON form of a share with Wilson's interval, which is not empty at 0 and 1 either.

        Args:
            estimate (`float`): The share, 0 to 1.
            draws (`np.ndarray` of shape `(num_blocks * num_draws,)`): The share on the bootstrap samples.
            num_items (`int`): Songs or battles that the share is taken over.

        Returns:
            `dict`: `estimate`, `low`, `high`. Where units hold several items, the share counts as one over fewer
            items, as many fewer as its variance over the units is larger.
        """
        if not np.isfinite(estimate):
            return summarize_draws(estimate, draws)
        effective, num_units = float(num_items), min(self.units.values())
        if num_units < MINIMUM_UNITS:
            return summarize_draws(estimate, draws, num_units=num_units)
        if num_units < num_items:
            variance = float(np.nanvar(self.combine(draws))) * num_units / (num_units - 1)
            effective = min(effective, estimate * (1 - estimate) / variance if variance > 0 else float(num_units))
        low, high = compute_wilson_interval(estimate, effective)
        return {"estimate": float(estimate), "low": low, "high": high}


def draw_resamples(
    num_items: int, num_draws: int, seed: int, groups: Mapping[str, ArrayLike] | None = None, *, item: str = "song"
) -> Resamples:
    """
    Draw bootstrap samples by the unit that repeats.

    Args:
        num_items (`int`): Number of songs or battles.
        num_draws (`int`): Number of bootstrap samples.
        seed (`int`): Seed of the draws.
        groups (`dict[str, array of shape (num_items,)]`, *optional*):
            What may repeat, by its name: one or two. A unit that never repeats is no unit: then the item itself is.
        item (`str`, defaults to `"song"`): What an item is called.

    Returns:
        [`Resamples`]: The samples.

    Raises:
        `ValueError`: If there is nothing to draw from, a group is not as long as the items, or there are three.
    """
    numbered = {name: np.unique(np.asarray(values), return_inverse=True)[1] for name, values in (groups or {}).items()}
    if len(numbered) > 2 or any(len(values) != num_items for values in numbered.values()):
        raise ValueError(
            f"`groups` must be one or two, each with {num_items} values, received "
            f"{ {name: len(values) for name, values in numbered.items()} }."
        )
    repeated = {name: values for name, values in numbered.items() if values.max(initial=-1) + 1 < num_items}
    # One unit within the other, such as the prompts of each user: drawing the larger draws both.
    listed = sorted(repeated.items(), key=lambda pair: pair[1].max())
    if len(listed) == 2 and len(np.unique(np.stack([listed[0][1], listed[1][1]]), axis=1).T) == listed[1][1].max() + 1:
        listed = listed[:1]
    if not listed:
        return Resamples(draw_bootstrap_weights(num_items, num_draws, seed), {item: num_items})
    units = {name: int(values.max()) + 1 for name, values in listed}
    blocks = [draw_bootstrap_weights(num_items, num_draws, seed + n, v) for n, (_, v) in enumerate(listed)]
    if len(listed) == 2:
        cells = listed[0][1] * units[listed[1][0]] + listed[1][1]
        blocks.append(draw_bootstrap_weights(num_items, num_draws, seed + 2, cells))
    return Resamples(np.concatenate(blocks), units, len(blocks))


def compute_interval(
    draws: NDArray,
    level: float = INTERVAL_LEVEL,
    *,
    estimate: float | None = None,
    num_units: int | None = None,
    method: str = "bias_corrected",
) -> tuple[float, float]:
    """
    Compute the interval of bootstrap draws.

    Args:
        draws (`np.ndarray` of shape `(num_draws,)`): The values on the bootstrap samples; NaN where undefined.
        level (`float`, defaults to 0.95): Probability that the interval is meant to cover.
        estimate (`float`, *optional*):
            The value on the items as they are. With it the interval is corrected for the bias of the draws (Efron,
            1987) and never excludes it; without, it is that of their percentiles.
        num_units (`int`, *optional*):
            How many units were drawn. Few units spread less than what they come from does, so the percentiles are
            taken further out (Hesterberg, 2015).
        method (`str`, defaults to `"bias_corrected"`):
            `"joined"` spans the percentiles, the normal interval around the estimate, and the lower percentile
            mirrored at it, for rank correlations of few items: noise pulls them down, and that of the draws a second
            time. `"mirrored"` mirrors the upper percentile at the estimate, for what noise pulls up, such as a sum of
            absolute gaps.

    Returns:
        `tuple[float, float]`: Lower and upper bound over the draws that are defined; NaN where none is.

    Raises:
        `ValueError`: If `method` is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"`method` is {method!r}. Choose one of {METHODS}.")
    usable = draws[np.isfinite(draws)]
    if not len(usable):
        return float("nan"), float("nan")
    z = float(ndtri(0.5 + level / 2))
    if num_units is not None:
        z = float(np.sqrt(num_units / (num_units - 1)) * stdtrit(num_units - 1, 0.5 + level / 2))
    shift = 0.0
    if estimate is not None and method == "bias_corrected":
        below = np.mean(usable < estimate) + 0.5 * np.mean(usable == estimate)
        shift = 2 * float(ndtri(np.clip(below, 0.5 / len(usable), 1 - 0.5 / len(usable))))
    low, high = (float(bound) for bound in np.quantile(usable, ndtr([shift - z, shift + z])))
    if estimate is None:
        return low, high
    if method == "mirrored":
        low = 2 * estimate - high
    elif method == "joined":
        margin = z * float(np.std(usable))
        low, high = min(low, estimate - margin), max(high, estimate + margin, 2 * estimate - low)
    return min(low, float(estimate)), max(high, float(estimate))


def summarize_draws(
    estimate: float, draws: NDArray, *, num_units: int | None = None, method: str = "bias_corrected"
) -> dict[str, Any]:
    """
    Build the JSON form of an estimate with its interval.

    Args:
        estimate (`float`): The value on the items as they are.
        draws (`np.ndarray` of shape `(num_draws,)`): The values on the bootstrap samples; NaN where undefined.
        num_units (`int`, *optional*), method (`str`, defaults to `"bias_corrected"`): See [`compute_interval`].

    Returns:
        `dict`: `estimate`, `low` and `high`, each `None` where undefined, and then `reason`.
    """
    if not np.isfinite(estimate):
        return {"estimate": None, "low": None, "high": None, "reason": "not defined on these items"}
    reason = None
    usable = draws[np.isfinite(draws)]
    if num_units is not None and num_units < MINIMUM_UNITS:
        reason = f"only {num_units} unit to resample, and {MINIMUM_UNITS} are needed"
    elif not len(usable):
        reason = "not defined on any resample"
    elif np.ptp(usable) == 0 and usable[0] == estimate:
        reason = NO_SPREAD
    if reason is not None:
        return {"estimate": float(estimate), "low": None, "high": None, "reason": reason}
    low, high = compute_interval(draws, estimate=estimate, num_units=num_units, method=method)
    return {"estimate": float(estimate), "low": low, "high": high}


def format_summary(summary: Mapping[str, Any] | None) -> str:
    """Return an estimate with its interval in words, `0.712 (0.650 to 0.771)`; where there is none, that it is not."""
    if summary is None or summary["estimate"] is None:
        return "not defined"
    ends = "" if summary["low"] is None else f" ({summary['low']:.3f} to {summary['high']:.3f})"
    return f"{summary['estimate']:.3f}{ends}"


def drop_undefined(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Build the JSON form of numbers: `None` for each that is not finite."""
    return {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}
