"""
Split-conformal intervals: how wide a score's interval must be for a stated share of new songs to lie within.

What comes in are the errors of a model on songs that it did not learn from; what leaves is a width. Nothing is
assumed of the errors but that new songs come as these did: where songs go together, that new groups do.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def compute_conformal_width(errors: ArrayLike, level: float, groups: Sequence[Any] | None = None) -> float | None:
    """
    Compute the width on either side of a score that covers the label of a new song with probability `level`.

    Every group counts the same, and one more stands for the song to come, at infinity (Lee, Barber and Willett 2023);
    with one song a group this is the quantile of split-conformal prediction.

    Args:
        errors (`np.ndarray` of shape `(num_songs,)`):
            Label minus score of songs that the model did not learn from; NaN where a song has no label.
        level (`float`):
            Share of new songs whose label is to lie within, such as 0.9.
        groups (`Sequence`, *optional*):
            What group each song belongs to; by default, and where it is `None`, one of its own.

    Returns:
        `float` or `None`: the width, in units of the score; `None` where there are too few groups for the level.

    Raises:
        `ValueError`: If the level is not between 0 and 1, or groups and errors differ in number.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}.")
    sizes = np.abs(np.asarray(errors, np.float64))
    names = [None] * len(sizes) if groups is None else list(groups)
    if len(names) != len(sizes):
        raise ValueError(f"{len(names)} groups for {len(sizes)} songs; give one for each, or none at all.")
    known = np.flatnonzero(~np.isnan(sizes))
    if not len(known):
        return None
    keys = [("song", row) if names[row] is None else ("group", names[row]) for row in known.tolist()]
    index = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    of_song = np.array([index[key] for key in keys])
    weights = 1.0 / np.bincount(of_song)[of_song] / (len(index) + 1)
    order = np.argsort(sizes[known], kind="stable")
    enough = np.flatnonzero(np.cumsum(weights[order]) >= level - 1e-12)
    return float(sizes[known][order][enough[0]]) if len(enough) else None
