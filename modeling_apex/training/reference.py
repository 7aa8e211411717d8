"""
What a model knows of a reference set: how its scores are spread, how far they miss, and what its songs are like.

What comes in are a model's scores of songs that it did not learn from, their labels where they have any, and their
embeddings; what leaves is `config.reference`, which turns a score into a rank, an interval, and a warning where a song
is unlike all of them. Training makes it of the validation songs: on its training songs a model errs less and spreads
its scores wider than on any other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_apex.corpus.identity import hash_json
from modeling_apex.inference.novelty_apex import compute_distances
from modeling_apex.statistics.conformal import compute_conformal_width
from modeling_apex.training.trained_model import build_percentile_tables

INTERVAL_LEVEL = 0.9
NOVELTY_LEVEL = 0.99  # share of the reference set that is not called novel
MINIMUM_NUM_SONGS = 20  # for a rank to mean anything
MINIMUM_NOVELTY_SONGS = 100  # one in a hundred is told by a hundred songs at least
MAXIMUM_NUM_DIRECTIONS = 8


def build_reference(
    scores: NDArray[np.float32],
    head_names: Sequence[str],
    *,
    name: str,
    song_ids: Sequence[str],
    labels: NDArray[np.float32] | None = None,
    groups: Sequence[Any] | None = None,
    embeddings: NDArray[np.float32] | None = None,
    interval_level: float = INTERVAL_LEVEL,
) -> dict[str, Any]:
    """
    Build what `config.reference` holds.

    Args:
        scores (`np.ndarray` of shape `(num_songs, num_heads)`), head_names (`Sequence[str]`):
            The model's scores of songs that it did not learn from, and the names of their columns.
        name (`str`), song_ids (`Sequence[str]`):
            What reports call these songs; their ids, which are hashed with the scores.
        labels (`np.ndarray` of shape `(num_songs, num_heads)`, *optional*):
            Labels in native units, NaN where one is missing. Without any there are no intervals.
        groups (`Sequence`, *optional*):
            Which songs go together, such as an artist's; `None` for a song on its own.
        embeddings (`np.ndarray` of shape `(num_songs, hidden_size)`, *optional*), interval_level (`float`):
            Song embeddings; without a hundred, no song is called novel. Share of new songs whose label is to lie in
            its interval.

    Returns:
        `dict`: `name`, `num_songs`, `num_groups`, `sha256`, `percentile_tables`; `interval_level` and `intervals`, the
        width to either side of each score; `novelty`. Survives JSON.

    Raises:
        `ValueError`: If there are fewer than twenty songs, or a score is not finite.
    """
    if len(scores) < MINIMUM_NUM_SONGS:
        raise ValueError(
            f"{name}: {len(scores)} songs are too few to compute ranks; give at least {MINIMUM_NUM_SONGS}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{name}: a score is NaN or infinite; the model or one of the songs is damaged.")
    own = [f"song {row}" if group is None else group for row, group in enumerate(groups or [None] * len(scores))]
    reference: dict[str, Any] = {
        "name": name,
        "num_songs": len(scores),
        "num_groups": len(set(own)),
        "sha256": hash_json([list(song_ids), scores.astype(float).tolist()]),
        "percentile_tables": build_percentile_tables(scores, head_names),
        "interval_level": interval_level,
        "intervals": {},
        "novelty": {},
    }
    if labels is not None:
        errors = zip(head_names, (labels.astype(np.float64) - scores).T, strict=True)
        widths = {head: compute_conformal_width(column, interval_level, groups) for head, column in errors}
        reference["intervals"] = {head: width for head, width in widths.items() if width is not None}
    if embeddings is not None and len(embeddings) >= MINIMUM_NOVELTY_SONGS:
        reference["novelty"] = fit_novelty(embeddings)
    return reference


def fit_novelty(embeddings: NDArray[np.float32], level: float = NOVELTY_LEVEL) -> dict[str, Any]:
    """
    Describe embeddings so that one that is unlike them can be told.

    The threshold comes from songs that the description they are held against does not know: each half of the songs
    is described once and the other held against it.

    Returns:
        `dict`: `mean`, `directions`, `variances`, `residual_variance`, `level` and `threshold`.
    """
    halves = (slice(0, None, 2), slice(1, None, 2))
    distances = [
        compute_distances(embeddings[other], _describe(embeddings[half])) for half, other in (halves, halves[::-1])
    ]
    found = np.concatenate(distances)
    threshold = compute_conformal_width(found, level)
    threshold = float(found.max()) if threshold is None else threshold
    return {**_describe(embeddings), "level": level, "threshold": max(threshold, 1e-6)}


def _describe(embeddings: NDArray[np.float32]) -> dict[str, Any]:
    values = embeddings.astype(np.float64)
    mean = values.mean(0)
    _, spreads, directions = np.linalg.svd(values - mean, full_matrices=False)
    variances = np.square(spreads) / (len(values) - 1)
    num_directions = min(MAXIMUM_NUM_DIRECTIONS, len(variances) - 1, values.shape[1] - 1)
    rest = variances[num_directions:].sum() / max(values.shape[1] - num_directions, 1)
    floor = max(float(variances.sum()) * 1e-9, 1e-12)  # embeddings that hardly differ
    rounded = {"mean": mean, "directions": directions[:num_directions], "variances": variances[:num_directions]}
    described: dict[str, Any] = {key: _round(value).tolist() for key, value in rounded.items()}
    described["variances"] = [max(value, floor) for value in described["variances"]]
    return {**described, "residual_variance": max(float(rest), floor)}


def _round(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep six digits, which is what float32 embeddings bear and a config has room for."""
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape)
