"""Exported graphs: complete, equal to torch, honest about what they are, and whole or not there."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_apex import ApexModel
from modeling_apex.engines import choice, encoder_graph
from modeling_apex.engines.choice import choose_encoder
from modeling_apex.engines.encoder_graph import (
    EncoderGraph,
    add_int8_graph,
    build_probe,
    compute_relative_error,
    export_engine,
    has_graph,
    load_exported_model,
    name_graph,
    open_graph,
    quantize_openvino_graph,
    read_engine_facts,
    write_onnx_graph,
)
from modeling_apex.engines.validation import NotValidatedError

FILES = {
    "onnx": {"encoder.onnx", "encoder.onnx.data", "encoder_int8.onnx", "encoder_int8.onnx.data"},
    "openvino": {"encoder.xml", "encoder.bin"},
}
ALWAYS = {"config.json", "preprocessor_config.json", "heads.safetensors", "probe.safetensors", "engine.json"}


@pytest.fixture(params=["onnx", "openvino"])
def exported(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_folder")


def compute_pooled(model: ApexModel, segments: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return EncoderGraph(model)(segments)


def test_folder_is_complete(exported: Path, tiny_model: ApexModel) -> None:
    facts = read_engine_facts(exported)
    names = {path.name for path in exported.iterdir()} - {"validation.json"}
    assert names == FILES[facts["engine"]] | ALWAYS
    assert facts["relative_error_on_noise"]["float32"] < 1e-5
    assert len({path.stat().st_mode for path in exported.iterdir() if path.name != "validation.json"}) == 1
    assert facts["input"]["shape"] == ["n", 2400]
    assert facts["output"]["shape"] == ["n", 4, 16]
    assert not [name for name in load_file(exported / "heads.safetensors") if name.startswith("encoder.")]


@pytest.mark.parametrize("num_segments", [1, 2, 5])
def test_graph_equals_torch_for_any_number_of_segments(
    exported: Path, tiny_model: ApexModel, num_segments: int
) -> None:
    engine = read_engine_facts(exported)["engine"]
    graph = open_graph(name_graph(exported, engine, "float32"), engine, "float32")
    segments = torch.randn(num_segments, 2400, generator=torch.Generator().manual_seed(3))
    first = graph(segments)
    kept = first.clone()
    assert first.dtype == torch.float32
    assert compute_relative_error(first, compute_pooled(tiny_model, segments)) < 1e-5
    with pytest.raises(ValueError, match=r"runs segments of 2400 samples, got the shape \(1, 2000\)"):
        graph(torch.zeros(1, 2000))
    graph(torch.zeros_like(segments) + 0.5)
    assert torch.equal(first, kept), "a result must outlive the next call"


@pytest.mark.parametrize(
    "encoder", [{"do_stable_layer_norm": True}, {"feat_extract_norm": "layer", "conv_bias": True}]
)
def test_graph_equals_torch_for_the_encoder_of_the_large_model(tiny_config, tmp_path: Path, encoder: dict) -> None:
    torch.manual_seed(0)
    model = ApexModel(tiny_config(encoder)).eval()
    folder = export_engine(model, tmp_path / "out", "openvino")
    assert read_engine_facts(folder)["relative_error_on_noise"]["float32"] < 1e-5


def test_model_of_an_export_has_the_heads_and_no_encoder(exported: Path, tiny_model: ApexModel) -> None:
    model = load_exported_model(exported)
    embeddings = torch.randn(2, 3, 16)
    assert torch.equal(model(segment_embeddings=embeddings).scores, tiny_model(segment_embeddings=embeddings).scores)
    assert not list(model.encoder.parameters())
    with pytest.raises(RuntimeError, match="loaded from an exported graph, which has no weights to train"):
        model(input_values=torch.zeros(1, 1, 2400))


def test_heads_of_another_model_are_refused(openvino_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(openvino_folder, tmp_path / "copy")
    heads = load_file(folder / "heads.safetensors")
    heads.pop("aggregator.weight")
    save_file(heads, folder / "heads.safetensors")
    with pytest.raises(RuntimeError, match=r"does not match config\.json beside it"):
        load_exported_model(folder)


def test_a_graph_that_is_wrong_is_not_written(
    tiny_model: ApexModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = encoder_graph.write_openvino_graph

    def write_other_graph(graph: EncoderGraph, example: torch.Tensor, path: Path) -> None:
        with torch.no_grad():
            graph.encoder.encoder.layer_norm.weight.mul_(1.01)
        write(graph, example, path)

    monkeypatch.setattr(encoder_graph, "write_openvino_graph", write_other_graph)
    with pytest.raises(RuntimeError, match=r"differs from torch by a relative .* Nothing was written"):
        export_engine(tiny_model, tmp_path / "out", "openvino")
    assert not list(tmp_path.iterdir())


def test_openvino_int8_is_calibrated(openvino_folder: Path, tmp_path: Path, probe: torch.Tensor) -> None:
    folder = shutil.copytree(openvino_folder, tmp_path / "copy")
    add_int8_graph(folder, probe)
    errors = read_engine_facts(folder)["relative_error_on_noise"]
    assert errors["float32"] < 1e-5 < errors["int8"] < 0.5
    with pytest.raises(ValueError, match="int8 for OpenVINO is calibrated on songs"):
        add_int8_graph(folder)


def test_export_from_a_folder_by_name(
    tiny_folder: Path, tmp_path: Path, openvino_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_graph(graph: EncoderGraph, example: torch.Tensor, path: Path) -> None:
        for suffix in (".xml", ".bin"):
            shutil.copy(openvino_folder / f"encoder{suffix}", path.with_suffix(suffix))

    monkeypatch.setattr(encoder_graph, "write_openvino_graph", copy_graph)
    (tmp_path / "out").mkdir()
    folder = export_engine(ApexModel.from_pretrained(tiny_folder), tmp_path / "out", "openvino")
    first, second = read_engine_facts(folder), read_engine_facts(openvino_folder)
    assert first["fingerprint"] == second["fingerprint"]
    assert json.loads((folder / "config.json").read_text())["segment_seconds"] == 0.1


def test_what_cannot_be_exported_is_refused(tiny_model: ApexModel, tmp_path: Path, openvino_folder: Path) -> None:
    with pytest.raises(ValueError, match="the format must be one of onnx, openvino, got 'tflite'"):
        export_engine(tiny_model, tmp_path / "out", "tflite")
    with pytest.raises(ValueError, match="onnx has no precision 'bf16'; choose from float32, int8"):
        export_engine(tiny_model, tmp_path / "out", "onnx", ["bf16"])
    with pytest.raises(ValueError, match="int8 for OpenVINO is calibrated on songs"):
        export_engine(tiny_model, tmp_path / "out", "openvino", ["int8"])
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        export_engine(tiny_model, openvino_folder, "openvino")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("onnxscript", "exporting to ONNX needs onnx and onnxscript"),
        ("onnxruntime", "the engine onnx needs ONNX Runtime"),
    ],
)
def test_missing_libraries_of_onnx_are_named(
    tiny_model: ApexModel,
    probe: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        write_onnx_graph(EncoderGraph(tiny_model), probe, tmp_path / "encoder.onnx")


@pytest.mark.parametrize(
    ("module", "message"),
    [("openvino", "the engine openvino needs OpenVINO"), ("nncf", "int8 for OpenVINO needs nncf")],
)
def test_missing_libraries_of_openvino_are_named(
    openvino_folder: Path,
    probe: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        quantize_openvino_graph(openvino_folder / "encoder.xml", tmp_path / "int8.xml", probe)


def test_a_graph_that_a_kill_cut_off_is_made_again(
    onnx_folder: Path, tmp_path: Path, tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the cache, where the int8 graph is added to a folder that has its name already."""
    folder = shutil.copytree(onnx_folder, tmp_path / "cached")
    facts = json.loads((folder / "engine.json").read_text())
    del facts["relative_error_on_noise"]["int8"]  # it is noted last
    (folder / "engine.json").write_text(json.dumps(facts))
    for name in ("encoder_int8.onnx", "encoder_int8.onnx.data"):
        os.truncate(folder / name, 100)
    assert has_graph(folder, "onnx", "float32")
    assert not has_graph(folder, "onnx", "int8")
    monkeypatch.setattr(choice, "find_engine_folder", lambda *names: folder)
    with pytest.raises(NotValidatedError, match="the engine onnx in int8 was never validated"):
        choose_encoder(tiny_model, "onnx", "int8")
    assert has_graph(folder, "onnx", "int8")
    for name in ("encoder_int8.onnx", "encoder_int8.onnx.data"):
        assert (folder / name).read_bytes() == (onnx_folder / name).read_bytes()


def test_probe_is_the_same_everywhere() -> None:
    probe = build_probe(5)
    assert probe.shape == (2, 5)
    assert probe[0].tolist() == pytest.approx([1.7640524, 0.4001572, 0.978738, 2.2408931, 1.867558])
