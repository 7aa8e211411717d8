"""The fast encoder against transformers' own, shape by shape, and when it steps aside."""

import copy
import pickle
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import HubertConfig, HubertModel

from modeling_apex import ApexModel
from modeling_apex.engines import packed_encoder, packed_linear
from modeling_apex.engines.arranged_cache import ArrangedEncoderCache
from modeling_apex.engines.packed_encoder import PackedEncoder, can_arrange
from modeling_apex.engines.packed_linear import PackedLinear, PlainLinear, can_pack
from modeling_apex.inference.modeling_apex import pool_hidden_states

from small_model import WIDE_ENCODER, build_encoder

HOP = 40
LAYERS = [0, 1, -1]


def build_segment(num_samples: int, num_real: int | None = None) -> torch.Tensor:
    samples = torch.randn(num_samples, generator=torch.Generator().manual_seed(2)).cumsum(0) * 0.05
    samples -= samples.mean()
    if num_real is not None:
        samples[num_real:] = 0.125
    return samples


def compare(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest relative error of a pooled layer (L2)."""
    return float(((got - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("num_samples", [2_000, 9_003])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"do_stable_layer_norm": True},
        {"feat_extract_norm": "layer"},
        {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
        {"conv_bias": True},
        {"feat_proj_layer_norm": False},
        {"num_conv_pos_embeddings": 15},
        {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16},
    ],
    ids=str,
)
def test_equals_the_encoder_of_transformers(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], num_samples: int, is_packed: bool
) -> None:
    if not is_packed:
        monkeypatch.setattr(packed_linear, "can_pack", lambda dtype: False)
    encoder = build_encoder(**fields)
    packed = PackedEncoder(encoder.state_dict(), encoder.config)
    segments = torch.stack([build_segment(num_samples), build_segment(num_samples).flip(0)])
    expected = pool_hidden_states(encoder.double(), segments.double(), LAYERS)
    assert compare(packed(segments, LAYERS), expected) < 1e-5


@pytest.mark.parametrize("short", [0, 10_000], ids=["blocks", "whole"])
@pytest.mark.parametrize("num_real", [0, 1, 37, 900, 4_000, 7_500, 8_000, 9_000])
@pytest.mark.parametrize("fields", [{}, {"num_conv_pos_embeddings": 15, "do_stable_layer_norm": True}], ids=str)
def test_padding_is_counted_and_not_computed(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], num_real: int, short: int
) -> None:
    sizes = {"SHORT_SEQUENCE": short, "QUERIES_PER_BLOCK": 48, "ROWS_PER_BLOCK": 50, "FRAMES_PER_TILE": 21}
    sizes |= {"FRAMES_PER_LENGTH": 7, "FRAMES_PER_CONVOLUTION": 30}
    monkeypatch.setattr(packed_encoder, "has_fast_attention", lambda: False)
    for name, value in sizes.items():
        monkeypatch.setattr(packed_encoder, name, value)
    encoder = build_encoder(**fields)
    packed = PackedEncoder(encoder.state_dict(), encoder.config)
    segment = build_segment(9_000, num_real)
    frames, num_repeats, _ = packed.front_end(segment, packed.position.width)
    num_frames = encoder.feature_extractor(segment[None]).shape[-1]
    assert len(frames) + num_repeats - 1 == num_frames
    needed = -(-num_real // HOP) + encoder.config.num_conv_pos_embeddings
    assert len(frames) == min(num_frames, -(-needed // 7) * 7)
    expected = pool_hidden_states(encoder.double(), segment[None].double(), LAYERS)
    assert compare(packed(segment[None], LAYERS), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_fused_where_that_is_faster(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    encoder = build_encoder()
    packed = PackedEncoder(encoder.state_dict(), encoder.config, dtype)
    segment = build_segment(9_000, 4_000)[None]
    expected = pool_hidden_states(encoder.double(), segment.double(), LAYERS)
    fuse, num_fused = torch.nn.functional.scaled_dot_product_attention, 0

    def note(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal num_fused
        num_fused += 1
        return fuse(*arguments, **options)

    monkeypatch.setattr(packed_encoder, "SHORT_SEQUENCE", 0)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
    for is_fast in (False, True):
        monkeypatch.setattr(packed_encoder, "has_fast_attention", lambda is_fast=is_fast: is_fast)
        assert compare(packed(segment, LAYERS), expected) < (1e-5 if dtype == torch.float32 else 2e-2)
        assert (num_fused > 0) == is_fast


@pytest.mark.parametrize(
    ("text", "name", "is_fast"),
    [
        ("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Processor\n", "", True),
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n", "GenuineIntel", False),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", "", False),
        (None, "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel", True),
        (None, "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", False),
    ],
)
def test_fused_attention_is_for_processors_of_intel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, name: str, is_fast: bool
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: name)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    description = tmp_path / "cpuinfo"
    if text is not None:
        description.write_text(text)
    assert packed_linear.has_fast_attention(str(description)) is is_fast


def test_fused_attention_is_not_fast_without_mkl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    (tmp_path / "cpuinfo").write_text("vendor_id\t: GenuineIntel\n")
    assert not packed_linear.has_fast_attention(str(tmp_path / "cpuinfo"))


def test_a_last_segment_of_five_seconds_is_a_quarter_of_a_full_one() -> None:
    """At the shape of MERT: frames, which linear layers cost in proportion to, and attention by their square."""
    geometry = {"conv_dim": [4] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
    encoder = build_encoder(**geometry, num_conv_pos_embeddings=128)
    packed = PackedEncoder(encoder.state_dict(), encoder.config)
    full, _, _ = packed.front_end(build_segment(720_000), 128)
    short, num_repeats, _ = packed.front_end(build_segment(720_000, 120_000), 128)
    assert (len(full), len(short), num_repeats) == (2_249, 384 + 128, 2_249 - 384 - 127)
    assert len(short) < 0.25 * len(full)


def test_songs_of_any_length_need_products_of_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    # oneDNN keeps the code of every shape, up to a thousand of them: memory would grow with each song.
    encoder = build_encoder()
    packed = PackedEncoder(encoder.state_dict(), encoder.config)
    shapes = set()
    for kind in (PlainLinear, PackedLinear):
        compute = kind.__call__

        def note(linear: Any, inputs: torch.Tensor, *, compute: Any = compute, **options: Any) -> torch.Tensor:
            shapes.add(tuple(inputs.shape))
            return compute(linear, inputs, **options)

        monkeypatch.setattr(kind, "__call__", note)
    packed(build_segment(9_000)[None], LAYERS)
    num_of_full = len(shapes)
    for num_real in range(0, 9_000, 60):
        packed(build_segment(9_000, num_real)[None], LAYERS)
    assert len(shapes) < 3 * num_of_full + 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_segments_side_by_side_are_as_alone(dtype: torch.dtype) -> None:
    encoder = build_encoder()
    packed = PackedEncoder(encoder.state_dict(), encoder.config, dtype)
    segments = torch.stack([build_segment(4_000), build_segment(4_000, 1_500), build_segment(4_000, 30)])
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = packed(segments, [1, 2])
        torch.set_num_threads(2)
        with torch.inference_mode():
            together = packed(segments, [1, 2])
    finally:
        torch.set_num_threads(own)
    assert compare(together, alone) < (1e-6 if dtype == torch.float32 else 1e-2)  # on most CPUs it is 0
    assert not alone.requires_grad


def test_bfloat16_is_close_and_pools_in_float32() -> None:
    encoder = build_encoder()
    segment = build_segment(9_000, 5_000)[None]
    exact = pool_hidden_states(encoder, segment, LAYERS)
    pooled = PackedEncoder(encoder.state_dict(), encoder.config, torch.bfloat16)(segment, LAYERS)
    assert pooled.dtype == torch.float32
    assert 1e-5 < compare(pooled, exact) < 2e-2


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_act": "relu"},
        {"feat_extract_activation": "relu"},
        {"conv_pos_batch_norm": True},
        {"num_conv_pos_embeddings": 200},
    ],
    ids=str,
)
def test_variants_that_mert_does_not_use_take_the_plain_path(fields: dict[str, Any]) -> None:
    assert can_arrange(HubertConfig(**WIDE_ENCODER))
    assert not can_arrange(HubertConfig(**{**WIDE_ENCODER, **fields}))
    assert ArrangedEncoderCache().get(HubertModel(HubertConfig(**{**WIDE_ENCODER, **fields})).eval()) is None


def count_uses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one for every segment that the packed encoder gets."""
    uses: list[int] = []
    compute = PackedEncoder.__call__

    def count(self: PackedEncoder, *arguments: Any) -> torch.Tensor:
        uses.extend([1] * len(arguments[0]))
        return compute(self, *arguments)

    monkeypatch.setattr(PackedEncoder, "__call__", count)
    return uses


def test_the_model_uses_it_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch, tiny_model: ApexModel) -> None:
    uses = count_uses(monkeypatch)
    segments = torch.randn(2, 3, 2_400, generator=torch.Generator().manual_seed(0))
    fast = tiny_model(segments).scores  # the encoder is frozen
    assert len(uses) == 6
    monkeypatch.setattr(ArrangedEncoderCache, "get", lambda self, encoder, **_: None)
    torch.testing.assert_close(fast, tiny_model(segments).scores, rtol=1e-5, atol=0)
    assert len(uses) == 6


def test_scores_do_not_depend_on_the_packed_operators(monkeypatch: pytest.MonkeyPatch, tiny_model: ApexModel) -> None:
    segments = torch.randn(1, 2, 2_400, generator=torch.Generator().manual_seed(0))
    fast = tiny_model(segments).scores
    monkeypatch.setenv("APEX_PACKED_OPERATORS", "0")
    can_pack.cache_clear()
    try:
        plain = copy.deepcopy(tiny_model)(segments).scores
    finally:
        monkeypatch.undo()
        can_pack.cache_clear()
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "alter",
    [
        lambda encoder: encoder.train(),
        lambda encoder: encoder.to(torch.float16),
        lambda encoder: encoder.to("meta"),
        lambda encoder: encoder.set_attn_implementation("eager"),
        lambda encoder: encoder.encoder.layers[1].register_forward_hook(lambda *_: None),
        lambda encoder: encoder.feature_projection.register_forward_pre_hook(lambda *_: None),
    ],
    ids=["training", "half", "device", "attention", "hook", "pre-hook"],
)
def test_an_altered_encoder_takes_the_plain_path(alter: Any) -> None:
    encoder = build_encoder()
    cache = ArrangedEncoderCache()
    assert cache.get(encoder) is not None
    alter(encoder)
    assert cache.get(encoder) is None


def test_changed_weights_are_packed_anew() -> None:
    encoder, cache = build_encoder(), ArrangedEncoderCache()
    segment = build_segment(2_000)[None]
    before = cache.get(encoder)
    assert cache.get(encoder) is before
    encoder.encoder.layers[0].feed_forward.output_dense.weight.mul_(2)
    after = cache.get(encoder)
    assert after is not before
    assert compare(after(segment, LAYERS), pool_hidden_states(encoder, segment, LAYERS)) < 1e-5
    encoder.load_state_dict(build_encoder().state_dict())
    torch.testing.assert_close(cache.get(encoder)(segment, LAYERS), before(segment, LAYERS))


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_training_is_noticed(fused: bool) -> None:
    """Fused optimizers do not count up the version of what they change."""
    encoder, cache = build_encoder().requires_grad_(True), ArrangedEncoderCache()
    segment = build_segment(2_000)[None]
    with torch.no_grad():
        before = cache.get(encoder)(segment, LAYERS)
    pool_hidden_states(encoder, segment, LAYERS).square().sum().backward()
    torch.optim.AdamW(encoder.parameters(), lr=1e-3, fused=fused).step()
    with torch.no_grad():
        after = cache.get(encoder)(segment, LAYERS)
        expected = pool_hidden_states(encoder, segment, LAYERS)
    assert compare(after, before) > 1e-4
    assert compare(after, expected) < 1e-5


def test_a_used_model_can_be_copied(tiny_model: ApexModel) -> None:
    segments = torch.randn(1, 2, 2_400, generator=torch.Generator().manual_seed(0))
    scores = tiny_model(segments).scores
    torch.testing.assert_close(copy.deepcopy(tiny_model)(segments).scores, scores, rtol=0, atol=0)


def test_a_cache_travels_empty() -> None:
    encoder, cache = build_encoder(), ArrangedEncoderCache()
    cache.get(encoder)
    assert vars(pickle.loads(pickle.dumps(cache)))["_arranged"] is None  # noqa: S301 (our own)


def test_threads_share_one_packed_encoder(tiny_model: ApexModel) -> None:
    segments = torch.randn(16, 1, 1, 2_400, generator=torch.Generator().manual_seed(0))
    fresh = copy.deepcopy(tiny_model)  # nothing is packed yet, so that threads meet at the packing
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda segment: fresh(segment).scores, segments))
    for scores, segment in zip(together, segments, strict=True):
        assert torch.equal(scores, tiny_model(segment).scores)
