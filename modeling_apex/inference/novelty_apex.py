"""
How unlike the songs of its reference set a model finds a song: the Mahalanobis distance of the song's embedding.

What comes in are an embedding and what `config.reference` knows of the embeddings of the reference set: their mean,
their principal directions with the variance along each, and the variance that is left in every other direction. What
leaves is a distance, beside the one that few songs of the reference set are beyond. Not shipped with checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def measure_novelty(embedding: Sequence[float], reference: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """
    Measure how unlike the songs of the reference set a song is.

    Args:
        embedding (`Sequence[float]` of length `hidden_size`): The song embedding.
        reference (`dict`): `config.reference`, with `novelty`.

    Returns:
        `tuple[dict, list[str]]`: `distance`, `threshold` and `is_novel` of the report; the warning that a novel song
        needs, or none.

    Raises:
        `ValueError`: If the reference set was embedded by another encoder.
    """
    known = reference["novelty"]
    if len(embedding) != len(known["mean"]):
        raise ValueError(
            f"`reference` describes embeddings of {len(known['mean'])} numbers, but this model's have "
            f"{len(embedding)}. Make it again: apex-music calibrate MODEL SONGS"
        )
    distance, threshold = float(compute_distances([embedding], known)[0]), float(known["threshold"])
    measured = {"distance": distance, "threshold": threshold, "is_novel": distance > threshold}
    if not measured["is_novel"]:
        return measured, []
    warning = (
        f"unlike the songs that the model was calibrated on ({reference['name']}): distance {distance:.2f}, threshold "
        f"{threshold:.2f}; scores, percentiles and intervals are less certain than they look"
    )
    return measured, [warning]


def compute_distances(embeddings: ArrayLike, known: Mapping[str, Any]) -> NDArray[np.float64]:
    """
    Compute Mahalanobis distances under the covariance of probabilistic principal components (Tipping & Bishop 1999).

    Args:
        embeddings (`np.ndarray` of shape `(num_songs, hidden_size)`): Song embeddings.
        known (`dict`): `mean`, `directions` `(num_directions, hidden_size)`, `variances` and `residual_variance`.

    Returns:
        `np.ndarray` of shape `(num_songs,)`: root mean squares over the dimensions, so that 1 is what is usual.
    """
    centered = np.asarray(embeddings, np.float64) - np.asarray(known["mean"])  # (B, D)
    directions = np.asarray(known["directions"], np.float64)  # (K, D)
    along = centered @ directions.T  # (B, K)
    rest = np.square(centered - along @ directions).sum(1) / known["residual_variance"]
    squares = (np.square(along) / np.asarray(known["variances"])).sum(1) + rest
    distances: NDArray[np.float64] = np.sqrt(squares / centered.shape[1])
    return distances
