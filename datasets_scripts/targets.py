"""
Popularity targets: raw play and like counts come in, percentiles and scores between 0 and 100 leave.

Pure functions over numpy arrays, and the same percentiles for columns that are too long for memory. A count only means
something beside the other counts of its platform, so ranks are taken per platform. Ties share the average of their
ranks, and a percentile is the mid-rank `100 * (rank - 0.5) / n`: songs with equal counts get equal targets, no song
sits at exactly 0 or 100, and the percentiles of a platform average exactly 50 however many songs tie. The paper (arXiv
2605.03395) says neither how ties rank nor whether its percentiles are per platform.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from datasets_scripts.disk_columns import (
    Column,
    DiskColumn,
    build_records,
    iterate_chunks,
    iterate_groups,
    read_near,
    save_column,
    save_group_bounds,
    sort_records,
)
from modeling_apex.inference.heads_apex import POPULARITY_EXPONENT

# Songs as they are sorted for their ranks, and as they are brought back into their order.
COUNTED_SONG = np.dtype([("platform", "<i8"), ("count", "<i8"), ("position", "<i8")])
RANKED_SONG = np.dtype([("position", "<i8"), ("percentile", "<f8")])


def compute_percentile_ranks(counts: ArrayLike, platforms: ArrayLike | None = None) -> NDArray[np.float64]:
    """
    Compute the percentile rank of every count among the counts of the same platform.

    Args:
        counts (`array` of shape `(num_songs,)`):
            Play or like counts, not negative.
        platforms (`array` of shape `(num_songs,)`, *optional*):
            The platform of each song, as names or codes. Without it all songs are ranked together.

    Returns:
        `np.ndarray` of shape `(num_songs,)`: percentiles strictly between 0 and 100, float64.

    Raises:
        `ValueError`: If `counts` is not one-dimensional, holds a negative or non-finite count, or differs in length
            from `platforms`.
    """
    values = np.asarray(counts)
    if values.ndim != 1:
        raise ValueError(f"`counts` must be one-dimensional, got shape {values.shape}.")
    if values.size and (not np.all(np.isfinite(values)) or values.min() < 0):
        raise ValueError("`counts` must be finite and not negative: clean or drop such songs before ranking them.")
    names = np.zeros(values.shape) if platforms is None else np.asarray(platforms)
    if names.shape != values.shape:
        raise ValueError(f"`platforms` has shape {names.shape} but `counts` has {values.shape}: give one per song.")
    percentiles = np.empty(values.shape, dtype=np.float64)
    for name in np.unique(names):
        of_platform = names == name
        percentiles[of_platform] = 100.0 * (rankdata(values[of_platform]) - 0.5) / of_platform.sum()
    return percentiles


def compute_percentile_column(counts: Column, platforms: Column, folder: Path | None = None) -> DiskColumn:
    """
    Compute what [`compute_percentile_ranks`] does, for more counts than memory should hold.

    Args:
        counts ([`Column`] of length `num_songs`):
            Play or like counts, not negative.
        platforms ([`Column`] of length `num_songs`):
            The platform of each song, as numbers.
        folder (`Path`, *optional*):
            Where files lie. Defaults to the system's folder for temporary files.

    Returns:
        [`DiskColumn`] of length `num_songs`: percentiles strictly between 0 and 100, float64.
    """
    songs = (
        build_records(COUNTED_SONG, platform=names, count=values, position=start + np.arange(len(values)))
        for start, (names, values) in iterate_chunks(platforms, counts)
    )
    by_count = sort_records(songs, COUNTED_SONG, ["platform", "count", "position"], folder)
    platform_bounds = save_group_bounds(by_count, ["platform"], folder)[:]
    tie_bounds = save_group_bounds(by_count, ["platform", "count"], folder)

    def iterate_ranked() -> Iterator[NDArray]:
        for chunk, ties, _ in iterate_groups(by_count, ["platform", "count"]):
            first, end = read_near(tie_bounds, ties), read_near(tie_bounds, ties + 1)
            platform = np.searchsorted(platform_bounds, first, side="right") - 1
            percentiles = _compute_mid_ranks(
                first - platform_bounds[platform], end - first, np.diff(platform_bounds)[platform]
            )
            yield build_records(RANKED_SONG, position=chunk["position"], percentile=percentiles)

    in_order = sort_records(iterate_ranked(), RANKED_SONG, ["position"], folder).field("percentile")
    return save_column((chunk for _, chunk in iterate_chunks(in_order)), np.float64, folder)


def compute_popularity_scores(percentiles: ArrayLike, *, exponent: float = POPULARITY_EXPONENT) -> NDArray[np.float64]:
    """
    Turn percentiles into popularity scores: `100 * (percentile / 100) ** exponent`.

    Args:
        percentiles (`array`):
            Percentile ranks, 0 to 100.
        exponent (`float`, defaults to `ln 0.5 / ln 0.8`):
            With the default the 80th percentile scores 50.

    Returns:
        `np.ndarray`: scores between 0 and 100, of the shape of `percentiles`, float64.

    Raises:
        `ValueError`: If a percentile is outside 0 to 100 or the exponent is not positive.
    """
    values = _validate_hundred("percentiles", percentiles)
    return 100.0 * (values / 100.0) ** _validate_exponent(exponent)


def compute_popularity_targets(counts: ArrayLike, platforms: ArrayLike | None = None) -> NDArray[np.float64]:
    """
    Compute the popularity target of every song from its raw count: percentile per platform, then the power transform.

    Args:
        counts (`array` of shape `(num_songs,)`):
            Play or like counts, not negative.
        platforms (`array` of shape `(num_songs,)`, *optional*):
            The platform of each song.

    Returns:
        `np.ndarray` of shape `(num_songs,)`: scores between 0 and 100, float64.
    """
    return compute_popularity_scores(compute_percentile_ranks(counts, platforms))


def _compute_mid_ranks(num_below: NDArray, num_equal: NDArray, num_songs: NDArray) -> NDArray[np.float64]:
    return 100.0 * (num_below + 0.5 * num_equal) / num_songs


def _validate_hundred(name: str, values: ArrayLike) -> NDArray[np.float64]:
    checked = np.asarray(values, dtype=np.float64)
    # Written so that NaN fails too.
    if not np.all((checked >= 0.0) & (checked <= 100.0)):
        raise ValueError(f"`{name}` must lie between 0 and 100, got values outside that range or NaN.")
    return checked


def _validate_exponent(exponent: float) -> float:
    if not (math.isfinite(exponent) and exponent > 0):
        raise ValueError(f"`exponent` must be a positive number, got {exponent!r}.")
    return float(exponent)
