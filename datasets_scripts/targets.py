"""
Popularity targets: raw play and like counts come in, percentiles and scores between 0 and 100 leave.

Pure functions over numpy arrays. A count only means something beside the other counts of its platform, so ranks are
taken per platform. Ties share the average of their ranks, and a percentile is the mid-rank `100 * (rank - 0.5) / n`:
songs with equal counts get equal targets, no song sits at exactly 0 or 100, and the percentiles of a platform average
exactly 50 however many songs tie. The paper (arXiv 2605.03395) says neither how ties rank nor whether its percentiles
are per platform.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from modeling_apex.inference.heads_apex import POPULARITY_EXPONENT


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
    values = np.asarray(percentiles, dtype=np.float64)
    # Written so that NaN fails too.
    if not np.all((values >= 0.0) & (values <= 100.0)):
        raise ValueError("`percentiles` must lie between 0 and 100, got values outside that range or NaN.")
    if not (math.isfinite(exponent) and exponent > 0):
        raise ValueError(f"`exponent` must be a positive number, got {exponent!r}.")
    return 100.0 * (values / 100.0) ** exponent


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
