"""The torch engine: precisions, one compiled shape, and switches that are left as they were found."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from modeling_apex import ApexModel
from modeling_apex.engines import torch_engine
from modeling_apex.engines.arranged_cache import ARRANGEMENTS
from modeling_apex.engines.choice import choose_encoder
from modeling_apex.engines.encoder_graph import EncoderGraph, compute_relative_error
from modeling_apex.engines.gpu_encoder import GpuEncoder
from modeling_apex.engines.torch_engine import TorchEngine, allow_tf32


@pytest.fixture
def expected(tiny_model: ApexModel, probe: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return EncoderGraph(tiny_model)(probe)


def test_bf16_is_close_and_comes_out_in_float32(
    tiny_model: ApexModel, probe: torch.Tensor, expected: torch.Tensor
) -> None:
    found = TorchEngine(tiny_model, "bf16")(probe)
    assert found.dtype == torch.float32
    assert 1e-4 < compute_relative_error(found, expected) < 0.05


def test_float32_is_the_default_path(tiny_model: ApexModel, probe: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(TorchEngine(tiny_model)(probe), expected)


def test_compiled_shape_never_changes(
    tiny_model: ApexModel, expected: torch.Tensor, probe: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def compile_nothing(pool, device):
        def run(segments: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(segments.shape))
            return pool(segments)

        return run

    monkeypatch.setattr(torch_engine, "compile_encoder", compile_nothing)
    tiny_model.segments_per_pass = 2
    engine = TorchEngine(tiny_model, compile=True)
    found = engine(torch.cat([probe, probe[:1]]))
    assert shapes == [(2, 2400), (2, 2400)], "the last group is filled up"
    assert compute_relative_error(found, torch.cat([expected, expected[:1]])) < 1e-6
    assert engine.describe() == "engine torch, float32, compiled: equal to the default path within rounding"


@pytest.mark.parametrize(("precision", "factor"), [("float32", 1.001), ("bf16", 1.11)])
def test_compiled_encoder_that_differs_is_refused(
    precision: str, factor: float, tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = EncoderGraph(tiny_model)
    monkeypatch.setattr(torch_engine, "compile_encoder", lambda run, device: lambda x: factor * exact(x.float()))
    with pytest.raises(RuntimeError, match=r"the engine torch differs from torch by a relative 1\.[01]e-0"):
        choose_encoder(tiny_model, precision=precision, compile=True, require_validation=False)


@pytest.mark.slow
def test_compiled_equals_torch(tiny_model: ApexModel, probe: torch.Tensor, expected: torch.Tensor) -> None:
    engine = choose_encoder(tiny_model, compile=True)
    assert engine is not None
    assert compute_relative_error(engine(probe), expected) < 1e-5
    torch._dynamo.config.error_on_recompile = True
    try:
        with torch.inference_mode():
            assert compute_relative_error(engine(probe.clone()), expected) < 1e-5
    finally:
        torch._dynamo.config.error_on_recompile = False


def test_engine_is_shared_by_copies_of_a_model(tiny_model: ApexModel) -> None:
    tiny_model.encoder_engine = TorchEngine(tiny_model, "bf16")
    assert deepcopy(tiny_model).encoder_engine is tiny_model.encoder_engine


@pytest.mark.parametrize("is_allowed", [True, False])
def test_tf32_is_switched_and_put_back(is_allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    with allow_tf32(is_allowed):
        assert torch.backends.cuda.matmul.allow_tf32 is is_allowed
        assert torch.backends.cudnn.allow_tf32 is is_allowed
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_float32_on_a_gpu_forbids_tf32(
    tiny_model: ApexModel, probe: torch.Tensor, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Encoder(GpuEncoder):
        def forward(self, *arguments: Any) -> torch.Tensor:
            seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return super().forward(*arguments)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(ARRANGEMENTS, "cpu", Encoder)
    encode = choose_encoder(tiny_model.requires_grad_(False))
    assert encode is not None
    assert compute_relative_error(encode(probe), expected) < 1e-6
    assert seen == [(False, False)]


def test_encoder_that_is_not_plain_runs_as_it_is_on_a_gpu(
    tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ApexModel, "device", torch.device("cuda"))
    tiny_model.encoder.feature_projection.register_forward_hook(lambda *arguments: None)
    engine = choose_encoder(tiny_model)
    assert isinstance(engine, TorchEngine)
    assert engine.precision == "float32"


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(("precision", "largest_error"), [("float32", 1e-6), ("tf32", 1e-6), ("bf16", 0.05)])
def test_gpu_runs_the_arranged_encoder(
    tiny_model: ApexModel,
    probe: torch.Tensor,
    expected: torch.Tensor,
    precision: str,
    largest_error: float,
    is_compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything but the GPU: its arrangement on a CPU, by the way that a model on `cuda` takes."""
    built = []

    def build(weights: Any, config: Any, dtype: torch.dtype) -> GpuEncoder:
        built.append(dtype)
        return GpuEncoder(weights, config, dtype)

    monkeypatch.setitem(ARRANGEMENTS, "cpu", build)
    monkeypatch.setattr(ApexModel, "device", torch.device("cuda"))
    monkeypatch.setattr(torch_engine, "compile_encoder", lambda run, device: run)
    found = TorchEngine(tiny_model, precision, compile=is_compiled)(probe)
    assert built == [torch.bfloat16 if precision == "bf16" else torch.float32]
    assert found.dtype == torch.float32
    assert compute_relative_error(found, expected) < largest_error


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("tf32", 1e-2), ("bf16", 5e-2)])
@pytest.mark.parametrize("compile", [False, True])
def test_gpu_equals_cpu(
    tiny_model: ApexModel, probe: torch.Tensor, expected: torch.Tensor, precision: str, tolerance: float, compile: bool
) -> None:
    engine = TorchEngine(tiny_model.to("cuda"), precision, compile=compile)
    assert compute_relative_error(engine(probe).cpu(), expected) < tolerance
