"""Engine folders from strangers or from a broken disk: refused by the name of the file, with what to do."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE

from modeling_apex import ApexModel
from modeling_apex.cli import main
from modeling_apex.engines.encoder_engine import MAX_JSON_BYTES, check_graph, read_json
from modeling_apex.engines.encoder_graph import load_exported_model, measure_probe_error, open_graph, read_engine_facts
from modeling_apex.engines.validation import load_records, require_record
from modeling_apex.loading import load_scorer

DEEP: Any = []
for _ in range(3000):
    DEEP = [DEEP]
BAD: tuple[Any, ...] = (None, True, -1, 0, 10**400, float("nan"), float("inf"), "", "text", [], [1], {}, {"a": "b"})
HASH = "0" * 64


@pytest.fixture
def exported(onnx_folder: Path, tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    return shutil.copytree(onnx_folder, tmp_path / "exported")


@pytest.mark.parametrize("name", ["engine", "fingerprint", "weights_sha256", "relative_error_on_noise"])
def test_each_field_of_engine_json(tmp_path: Path, name: str) -> None:
    facts = {
        "engine": "onnx",
        "fingerprint": HASH,
        "weights_sha256": HASH,
        "relative_error_on_noise": {"float32": 1e-7},
    }
    (tmp_path / "engine.json").write_text(json.dumps(facts))
    assert read_engine_facts(tmp_path) == facts
    for value in BAD:
        (tmp_path / "engine.json").write_text(json.dumps({**facts, name: value}))
        with pytest.raises(ValueError, match=r"engine\.json: does not describe an export; expected `engine`"):
            read_engine_facts(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "{", "[" * 100_000, "\x00"])
def test_an_engine_json_that_is_none(
    exported: Path, content: str, song_file: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    (exported / "engine.json").write_text(content)
    with pytest.raises(ValueError, match=r"engine\.json: (does not describe an export|is not JSON)"):
        load_exported_model(exported)
    assert main(["score", str(song_file()), "--model", str(exported), "--engine", "onnx"]) == 2
    assert "engine.json" in capsys.readouterr().err


def test_json_without_end(tmp_path: Path) -> None:
    with open(tmp_path / "engine.json", "wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(ValueError, match=r"engine\.json: 16,777,217 bytes; at most 16,777,216 are read"):
        read_json(tmp_path / "engine.json")


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "weights cut", "no weights"])
def test_a_damaged_graph(
    exported: Path, damage: str, song_file: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    graph, weights = exported / "encoder.onnx", exported / "encoder.onnx.data"
    if damage == "cut":
        graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif damage == "no weights":
        weights.unlink()
    else:
        graph.write_bytes(os.urandom(10_000) if damage == "noise" else b"")
    with pytest.raises(ValueError, match=r"encoder\.onnx: not a valid graph of an encoder, .*apex-music export"):
        open_graph(graph, "onnx", "float32")
    assert main(["score", str(song_file()), "--model", str(exported), "--engine", "onnx"]) == 2
    assert "encoder.onnx" in capsys.readouterr().err


def test_a_damaged_graph_of_openvino(openvino_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = shutil.copytree(openvino_folder, tmp_path / "exported")
    (folder / "encoder.xml").write_text("<net></net>")
    with pytest.raises(ValueError, match=r"encoder\.xml: not a valid graph of an encoder"):
        open_graph(folder / "encoder.xml", "openvino", "float32")


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({}, {"pooled": ["n", 4, 16]}),
        ({"other": ["n", 2400]}, {"pooled": ["n", 4, 16]}),
        ({"segments": ["n", 2400], "more": [1]}, {"pooled": ["n", 4, 16]}),
        ({"segments": ["n", 2400]}, {}),
        ({"segments": ["n", 2400]}, {"pooled": [4, 16]}),
        ({"segments": ["n", "samples"]}, {"pooled": ["n", 4, 16]}),
        ({"segments": ["n", 0]}, {"pooled": ["n", 4, 16]}),
    ],
)
def test_a_graph_of_something_else(inputs: dict, outputs: dict) -> None:
    assert check_graph(Path("x.onnx"), {"segments": ["n", 2400]}, {"pooled": ["n", 4, 16]}) == 2400
    with pytest.raises(ValueError, match=r"x\.onnx: not a valid graph of an encoder, `segments` \(n, samples\)"):
        check_graph(Path("x.onnx"), inputs, outputs)


@pytest.mark.parametrize("name", ["heads.safetensors", "probe.safetensors"])
def test_damaged_weights(exported: Path, name: str) -> None:
    path = exported / name
    whole = path.read_bytes()
    engine = open_graph(exported / "encoder.onnx", "onnx", "float32")
    for content in (whole[: len(whole) // 2], b"", None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: cannot be read \(.*Export the checkpoint again"):
            load_exported_model(exported) if name.startswith("heads") else measure_probe_error(engine, exported)
        path.write_bytes(whole)
    if name.startswith("probe"):
        shutil.copy(exported / "heads.safetensors", path)
        with pytest.raises(ValueError, match=r"probe\.safetensors: does not hold an answer to the probe"):
            measure_probe_error(engine, exported)


KEY = {"fingerprint": HASH, "engine": "onnx", "precision": "int8", "library": "onnxruntime 1", "hardware": "x86"}
RECORD = {
    "key": {**KEY, "is_compiled": False},
    "largest_change": {"clarity": 0.01},
    "ranges": {"clarity": 4.0},
    "reference": "onnx float32",
    "speed_ratio": 2.0,
    "num_songs": 3,
    "tolerance": 0.01,
    "is_within_tolerance": True,
}


@pytest.mark.parametrize("name", [*RECORD, "file", "records"])
def test_each_field_of_a_validation_record(tmp_path: Path, name: str) -> None:
    path = tmp_path / "validation.json"
    path.write_text(json.dumps({"records": [RECORD]}))
    assert require_record(tmp_path, RECORD["key"], "model") == RECORD
    for value in BAD:
        record = {**copy.deepcopy(RECORD), name: value}
        content = value if name == "file" else {"records": value if name == "records" else [record]}
        path.write_text(json.dumps(content))
        is_fitting = name in ("tolerance", "num_songs", "speed_ratio") and value in (-1, 0) and value is not True
        if (name == "reference" and isinstance(value, str)) or (name == "is_within_tolerance" and value is True):
            is_fitting = True
        if is_fitting or (name == "records" and value == []):
            continue
        with pytest.raises((ValueError, RuntimeError), match=r"validation\.json: .*measure again|never validated for"):
            require_record(tmp_path, RECORD["key"], "model")


def test_a_record_of_the_probe_is_none_of_a_shortcut(tmp_path: Path) -> None:
    (tmp_path / "validation.json").write_text(json.dumps({"records": [{"key": RECORD["key"]}]}))
    assert load_records(tmp_path) == [{"key": RECORD["key"]}]
    with pytest.raises(ValueError, match="the record of the engine onnx in int8 is damaged"):
        require_record(tmp_path, RECORD["key"], "model")


PROGRAM = """
import os, sys
from modeling_apex.engines.onnx_engine import import_onnxruntime
from modeling_apex.engines.openvino_engine import import_openvino
asked = []
sys.addaudithook(lambda event, words: asked.append(event) if event.startswith("socket.") else None)
import_onnxruntime()
import_openvino()
for name in ("nncf", "datasets", "gradio"):
    try:
        __import__(name)
    except ImportError:
        pass
assert not [event for event in asked if event not in ("socket.__new__", "socket.gethostname")], asked
"""


def test_nothing_is_asked_or_written_by_what_is_imported(tmp_path: Path) -> None:
    for name in ("onnxruntime", "openvino"):
        pytest.importorskip(name)
    places = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    for place in places.values():
        os.mkdir(place)
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | places
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.parent != tmp_path] == []


def test_an_exported_model_does_not_change_with_its_files(
    exported: Path, tiny_model: ApexModel, song_file: Callable[..., Path]
) -> None:
    scorer = load_scorer(exported, engine="onnx")
    before = next(iter(scorer.score([str(song_file())])))["scores"]
    with open(exported / "heads.safetensors", "r+b") as file:
        file.seek(-400, os.SEEK_END)
        file.write(bytes(400))
    assert next(iter(scorer.score([str(song_file())])))["scores"] == before
    with open(exported / "encoder.onnx.data", "r+b") as file:
        file.write(bytes(5000))
    segments = torch.zeros(1, tiny_model.config.segment_num_samples)
    with pytest.raises(ValueError, match=r"encoder\.onnx\.data: was changed while it was in use"):
        scorer.model.encoder_engine(segments)
