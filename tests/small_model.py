"""A random model of a few thousand weights, for benchmarks that need the whole path and no meaning."""

from typing import Any

import torch
from transformers import HubertConfig, HubertModel

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


# Convolutions of several widths, as MERT has them.
WIDE_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 24, 16, 24],
    "conv_kernel": [10, 3, 3, 2],
    "conv_stride": [5, 2, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def build_encoder(**fields: Any) -> HubertModel:
    """Build a HuBERT encoder as transformers has it, of `WIDE_ENCODER` but for some fields, without gradients."""
    torch.manual_seed(0)
    config = HubertConfig(**{**WIDE_ENCODER, "conv_bias": False, "feat_proj_layer_norm": True, **fields})
    encoder = HubertModel(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for weight in encoder.parameters():  # norms and biases start as the identity and would hide a mistake
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return encoder
