"""The encoder as a GPU runs it against transformers' own, on the CPU: shapes, lengths, kinds of norm, bfloat16."""

from typing import Any

import pytest
import torch

from modeling_apex.engines.encoder_graph import compute_relative_error
from modeling_apex.engines.gpu_encoder import FRAMES_PER_BAND, GpuEncoder
from modeling_apex.inference.modeling_apex import pool_hidden_states

from small_model import build_encoder

LAYERS = [0, 1, -1]
KINDS: dict[str, dict[str, Any]] = {
    "95M": {},
    "330M": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "no norm before the projection": {"feat_proj_layer_norm": False},
    "odd positional convolution": {"num_conv_pos_embeddings": 15},
    "narrow positional convolution": {"num_conv_pos_embeddings": FRAMES_PER_BAND // 2},
    "strides of several kinds": {"conv_kernel": [10, 5, 3, 2], "conv_stride": [5, 2, 3, 1]},
}


def build_samples(num_samples: int) -> torch.Tensor:
    """Two segments of noise beside an offset, and one that ends in the zeros of its padding."""
    samples = torch.randn(3, num_samples, generator=torch.Generator().manual_seed(2))
    samples[1] += 3.0
    samples[2, num_samples // 2 :] = 0.0
    return samples


@pytest.mark.parametrize("num_samples", [2_000, 2_011, 9_003])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_equals_transformers(kind: str, num_samples: int) -> None:
    encoder, samples = build_encoder(**KINDS[kind]), build_samples(num_samples)
    found = GpuEncoder(encoder.state_dict(), encoder.config)(samples, LAYERS)
    assert found.dtype == torch.float32
    assert compute_relative_error(found, pool_hidden_states(encoder, samples, LAYERS)) < 2e-6


@pytest.mark.parametrize("kind", ["95M", "330M"])
def test_bfloat16_stays_close(kind: str) -> None:
    encoder, samples = build_encoder(**KINDS[kind]), build_samples(4_000)
    found = GpuEncoder(encoder.state_dict(), encoder.config, torch.bfloat16)(samples, LAYERS)
    assert found.dtype == torch.float32
    assert 1e-5 < compute_relative_error(found, pool_hidden_states(encoder, samples, LAYERS)) < 0.02


def test_weights_are_copied_and_the_samples_left_alone() -> None:
    encoder, samples = build_encoder(), build_samples(2_000)
    kept = samples.clone()
    arranged = GpuEncoder(encoder.state_dict(), encoder.config)
    before = arranged(samples, LAYERS)
    for weight in encoder.parameters():
        weight.zero_()
    assert torch.equal(arranged(samples, LAYERS), before)
    assert torch.equal(samples, kept)
    assert not any(weight.requires_grad for weight in arranged.parameters())


def test_segments_do_not_see_each_other() -> None:
    encoder, samples = build_encoder(), build_samples(2_000)
    arranged = GpuEncoder(encoder.state_dict(), encoder.config)
    alone = torch.cat([arranged(segment[None], LAYERS) for segment in samples])
    assert compute_relative_error(arranged(samples, LAYERS), alone) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["95M", "330M"])
def test_compiled_it_is_the_same(kind: str) -> None:
    encoder, samples = build_encoder(**KINDS[kind]), build_samples(2_000)
    compiled = torch.compile(GpuEncoder(encoder.state_dict(), encoder.config), dynamic=False)
    with torch.no_grad():
        assert compute_relative_error(compiled(samples, LAYERS), pool_hidden_states(encoder, samples, LAYERS)) < 2e-6
