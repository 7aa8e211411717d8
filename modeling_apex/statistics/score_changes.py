"""
What a treatment of songs does to a score: how far it moves, which way, and whether it orders the songs otherwise.

What comes in are the scores of the same songs before and after; what leaves are estimates with intervals over songs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_apex.statistics.bootstrap import draw_resamples


def compare_orders(before: NDArray, after: NDArray) -> tuple[NDArray, NDArray]:
    """
    Compare the order of every pair of songs.

    Args:
        before (`np.ndarray` of shape `(num_songs,)`), after (`np.ndarray` of shape `(num_songs,)`): Their scores.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Of shape `(num_songs, num_songs)`, symmetric, float64: whether a pair has an
        order before, and whether it has the opposite one after. A pair that is tied after is not flipped.
    """
    order, new_order = (np.sign(scores[:, None] - scores[None, :]) for scores in (before, after))
    return (order != 0).astype(np.float64), (order * new_order < 0).astype(np.float64)


def summarize_changes(before: NDArray, after: NDArray, *, num_draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """
    Summarize how one score of the same songs changed.

    Args:
        before (`np.ndarray` of shape `(num_songs,)`), after (`np.ndarray` of shape `(num_songs,)`): Scores.
        num_draws (`int`, defaults to 1000), seed (`int`, defaults to 0): Of the bootstrap.

    Returns:
        `dict`: `mean` and `mean_absolute` of the changes with intervals; `largest`, the change that is farthest from
        zero, and `largest_index`, whose it is; `flipped_pairs`, the share of pairs of songs whose order turned round,
        with Wilson's interval. Survives JSON.

    Raises:
        `ValueError`: If there is no song.
    """
    changes = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    resamples = draw_resamples(len(changes), num_draws, seed)
    weights = resamples.weights  # (num_draws, num_songs)
    means = {}
    for name, values in (("mean", changes), ("mean_absolute", np.abs(changes))):
        means[name] = resamples.summarize(float(values.mean()), weights @ values / weights.sum(axis=1))
    ordered, flipped = compare_orders(before, after)
    num_pairs = ordered.sum() / 2
    with np.errstate(invalid="ignore", divide="ignore"):  # no pair has an order
        share = float(flipped.sum() / ordered.sum())
        # A pair counts as often as both of its songs stand in the sample; a song makes no pair with itself.
        draws = np.einsum("ds,ds->d", weights @ flipped, weights) / np.einsum("ds,ds->d", weights @ ordered, weights)
    index = int(np.argmax(np.abs(changes)))
    return {
        **means,
        "largest": float(changes[index]),
        "largest_index": index,
        "flipped_pairs": resamples.summarize_share(share, draws, int(num_pairs)),
    }
