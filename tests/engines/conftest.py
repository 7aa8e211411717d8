"""Shared by the tests of engines: one export a session, since exporters take seconds even for a tiny model."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from modeling_apex import ApexModel
from modeling_apex.engines.encoder_graph import build_probe, export_engine


@pytest.fixture(scope="session")
def onnx_folder(_tiny_model: ApexModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model exported for ONNX Runtime, in float32 and int8."""
    folder = tmp_path_factory.mktemp("onnx") / "exported"
    return export_engine(deepcopy(_tiny_model), folder, "onnx", ["float32", "int8"])


@pytest.fixture(scope="session")
def openvino_folder(_tiny_model: ApexModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model exported for OpenVINO, in float32."""
    return export_engine(deepcopy(_tiny_model), tmp_path_factory.mktemp("openvino") / "exported", "openvino")


@pytest.fixture
def probe(tiny_model: ApexModel) -> torch.Tensor:
    """Two segments of noise, `(2, T)`."""
    return build_probe(tiny_model.config.segment_num_samples)
