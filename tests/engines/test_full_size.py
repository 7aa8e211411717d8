"""Every shortcut at the size of MERT-v1-95M, on random weights and noise: about arithmetic, not about songs."""

from pathlib import Path

import pytest
import torch

from modeling_apex import ApexConfig, ApexModel
from modeling_apex.engines.encoder_graph import (
    EncoderGraph,
    add_int8_graph,
    build_probe,
    compute_relative_error,
    export_engine,
    name_graph,
    open_graph,
)
from modeling_apex.engines.torch_engine import TorchEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TOLERANCES = {"float32": 1e-5, "bf16": 0.02, "int8": 0.1}


@pytest.fixture(scope="module")
def model() -> ApexModel:
    torch.manual_seed(0)
    return ApexModel(ApexConfig()).eval()


@pytest.fixture(scope="module")
def segment(model: ApexModel) -> torch.Tensor:
    return build_probe(model.config.segment_num_samples)[:1]


@pytest.fixture(scope="module")
def expected(model: ApexModel, segment: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return EncoderGraph(model)(segment)


@pytest.mark.parametrize(("engine", "precisions"), [("onnx", ["float32", "int8"]), ("openvino", ["float32", "bf16"])])
def test_graphs(
    model: ApexModel,
    segment: torch.Tensor,
    expected: torch.Tensor,
    tmp_path: Path,
    engine: str,
    precisions: list[str],
) -> None:
    folder = export_engine(model, tmp_path / "out", engine)
    if "int8" in precisions:
        add_int8_graph(folder)
    for precision in precisions:
        found = open_graph(name_graph(folder, engine, precision), engine, precision)(segment)
        assert compute_relative_error(found, expected) < TOLERANCES[precision], precision


def test_torch_in_bf16(model: ApexModel, segment: torch.Tensor, expected: torch.Tensor) -> None:
    assert compute_relative_error(TorchEngine(model, "bf16")(segment), expected) < TOLERANCES["bf16"]


def test_torch_compiled(model: ApexModel, segment: torch.Tensor, expected: torch.Tensor) -> None:
    assert compute_relative_error(TorchEngine(model, compile=True)(segment), expected) < TOLERANCES["float32"]
