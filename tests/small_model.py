"""A random model of a few thousand weights, for benchmarks that need the whole path and no meaning."""

import torch

from modeling_apex import ApexConfig, ApexModel

SMALL_ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8],
    "conv_kernel": [10, 4],
    "conv_stride": [5, 4],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
}


def build_small_model(segment_seconds: float = 0.1, conv_stride: tuple[int, int] = (5, 4)) -> ApexModel:
    """Build the model: short segments, seven heads, the same weights each time."""
    torch.manual_seed(0)
    config = ApexConfig(
        encoder_config={**SMALL_ENCODER, "conv_stride": list(conv_stride)},
        layer_indices=[0, 1, 2, -1],
        segment_seconds=segment_seconds,
        shared_dims=[12, 8],
    )
    return ApexModel(config).eval()
