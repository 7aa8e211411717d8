"""A small spectrogram-fusion model for tests, and features for its songs."""

from typing import Any

import torch

from modeling_apex import SpectrogramFusionConfig, SpectrogramFusionModel

FEATURES: list[dict[str, Any]] = [
    {"name": "genre", "kind": "categorical", "categories": ["folk", "pop"], "is_leaking": False},
    {"name": "tempo", "kind": "numeric", "transform": "identity", "mean": 110.0, "std": 20.0, "is_leaking": False},
    {"name": "play_count", "kind": "numeric", "transform": "log1p", "mean": 8.0, "std": 2.0, "is_leaking": True},
]
SMALL: dict[str, Any] = {
    "segment_seconds": 0.1,
    "fft_size": 256,
    "hop_size": 120,
    "num_mel_bands": 16,
    "channels": [8, 8],
    "hidden_size": 8,
    "feature_dims": [8, 6],
    "category_size": 3,
    "fusion_size": 8,
}


def build_fusion_config(**fields: Any) -> SpectrogramFusionConfig:
    """Build the config of a model that runs in milliseconds."""
    features = [] if fields.get("branches") == "audio" else FEATURES
    return SpectrogramFusionConfig(**{**SMALL, "features": features, **fields})


def build_fusion_model(seed: int = 0, **fields: Any) -> SpectrogramFusionModel:
    """Build a random model whose statistics are not trivial, in evaluation mode."""
    torch.manual_seed(seed)
    model = SpectrogramFusionModel(build_fusion_config(**fields)).eval()
    with torch.no_grad():
        if model.encoder is not None:
            model.encoder.band_mean.normal_()
            model.encoder.band_std.uniform_(0.5, 2.0)
        for name, parameter in model.named_parameters():
            if name.startswith(("scores", "fusion.0", "encoder.projection")):
                parameter.normal_()  # spreads the scores, so that two songs differ by more than rounding
    return model
