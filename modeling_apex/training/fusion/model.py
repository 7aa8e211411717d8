"""
The spectrogram-fusion model that a run trains: its config from the songs, its start from their statistics.

What comes in are the training songs and the arguments; what leaves is a config with the track features that the songs
have, and an untrained model that knows how loud each band is and what the mean label is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_apex.corpus.song_store import SongSplit
from modeling_apex.inference.configuration_spectrogram_fusion_apex import SpectrogramFusionConfig
from modeling_apex.inference.heads_apex import POPULARITY_EXPONENT
from modeling_apex.inference.modeling_spectrogram_fusion_apex import SpectrogramFusionModel
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.batches import seeded
from modeling_apex.training.fusion.data import build_feature_specs

# Targets that are percentiles under the power transform of the paper, so that reports can turn them back.
PERCENTILE_TARGETS = ("score_streams", "score_likes")
SHARED_FIELDS = ("branches", "hit_threshold", "segment_seconds", "tail")  # of arguments and config


def build_front_end_config(
    arguments: ApexTrainingArguments, differences: Mapping[str, Any] | None = None
) -> SpectrogramFusionConfig:
    """Build a config that knows the front end and whether there is audio, before any feature is known."""
    features = [{"name": "any", "kind": "categorical", "categories": ["any"], "is_leaking": False}]
    return _build_config(arguments, [] if arguments.branches == "audio" else features, differences)


def build_fusion_config(
    split: SongSplit, arguments: ApexTrainingArguments, differences: Mapping[str, Any] | None = None
) -> SpectrogramFusionConfig:
    """
    Build the config of the model that a run will train: what the arguments say, and the features that the songs have.

    Args:
        split ([`SongSplit`]), arguments ([`ApexTrainingArguments`]):
            The training songs; branches, threshold, target, whether leaking features are kept.
        differences (`Mapping`, *optional*):
            Fields of [`SpectrogramFusionConfig`] that differ from its defaults.

    Raises:
        `ValueError`: If the songs have no track feature and the model needs some.
    """
    features: list[dict[str, Any]] = []
    if arguments.branches != "audio":
        features = build_feature_specs(split, arguments.leaking_features, arguments.target_column)
        if not features:
            raise ValueError(
                "the songs have no track features that vary, so there is nothing to fuse. Build them from a table "
                "with features (python -m datasets_scripts.build spotify), or train with branches='audio'."
            )
    return _build_config(arguments, features, differences)


def _build_config(
    arguments: ApexTrainingArguments, features: list[dict[str, Any]], differences: Mapping[str, Any] | None
) -> SpectrogramFusionConfig:
    fields: dict[str, Any] = {name: getattr(arguments, name) for name in SHARED_FIELDS}
    fields["popularity_exponent"] = POPULARITY_EXPONENT if arguments.target_column in PERCENTILE_TARGETS else None
    return SpectrogramFusionConfig(**{**fields, "features": features, **(differences or {})})


def build_fusion_model(
    config: SpectrogramFusionConfig, split: SongSplit, labels: NDArray[np.float32], seed: int
) -> SpectrogramFusionModel:
    """
    Build the untrained model: band statistics of the training songs, heads that start at the mean label.

    Args:
        config ([`SpectrogramFusionConfig`]), seed (`int`):
            Its config, and the seed of its weights.
        split ([`SongSplit`]), labels (`np.ndarray` of shape `(num_songs, 2)`):
            The training songs and their labels.
    """
    with seeded(seed):
        model = SpectrogramFusionModel(config)
    with torch.no_grad():
        if model.encoder is not None:
            mean, std = compute_band_statistics(split)
            model.encoder.band_mean.copy_(torch.from_numpy(mean))
            model.encoder.band_std.copy_(torch.from_numpy(std))
        for column, head in enumerate(config.heads):
            share = float(np.clip(np.nanmean(labels[:, column]) / head["maximum"], 0.01, 0.99))
            model.scores.bias[column] = float(np.log(share / (1 - share)))
    return model


def compute_band_statistics(split: SongSplit) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Compute mean and standard deviation of each band over all frames of a split, a few segments at a time.

    Returns:
        `tuple[np.ndarray, np.ndarray]` of shape `(num_bands,)` each, float32. A band that never changes has spread 1.
    """
    num_bands = split.segments.shape[1]
    sums, squares, count = np.zeros(num_bands), np.zeros(num_bands), 0
    for start in range(0, split.num_segments, 256):
        rows = np.asarray(split.segments[start : start + 256], np.float64)
        sums += rows.sum((0, 2))
        squares += np.square(rows).sum((0, 2))
        count += rows.shape[0] * rows.shape[2]
    mean = sums / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0.0))
    return mean.astype(np.float32), np.where(std > 1e-4, std, 1.0).astype(np.float32)
