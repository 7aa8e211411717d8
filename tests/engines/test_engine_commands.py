"""Engines on the command line and in long runs: exports, journals and stored embeddings that never mix."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from modeling_apex import ApexModel, load_preference_head
from modeling_apex.cli import main
from modeling_apex.corpus.embed import embed_songs
from modeling_apex.corpus.embedding_manifest import build_expected_identity, build_identity, refuse_other_identity
from modeling_apex.engines import encoder_graph
from modeling_apex.engines.validation import NotValidatedError


@pytest.fixture
def album(song_file) -> Path:
    for seed in range(3):
        song_file(f"album/{seed}.wav", 0.15 + 0.1 * seed, seed=seed)
    return song_file("album/3.wav", 0.12).parent


def read_embeddings(folder: Path) -> np.ndarray:
    return np.array(
        [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path)["embedding"].to_pylist()]
    )


def test_export_command_writes_a_graph_that_scores(
    tiny_folder: Path,
    openvino_folder: Path,
    song_file,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def copy_graph(graph: object, example: object, path: Path) -> None:  # the exporter itself has tests of its own
        for suffix in (".xml", ".bin"):
            shutil.copy(openvino_folder / f"encoder{suffix}", path.with_suffix(suffix))

    monkeypatch.setattr(encoder_graph, "write_openvino_graph", copy_graph)
    song, out = str(song_file(seconds=0.35)), str(tmp_path / "out")
    head = load_preference_head()
    assert head is not None
    head.save_pretrained(tiny_folder)
    words = ["export", "--model", str(tiny_folder), "--output", out]
    assert main([*words, "--format", "openvino", "--precision", "int8", "--calibrate", song]) == 0
    assert "encoder_int8.xml" in (streams := capsys.readouterr().out)
    assert "relative error of the pooled layers against torch, on noise: float32 " in streams
    assert load_preference_head(out) == head, "a ranking goes by the same head"
    assert main(["score", song, "--model", out, "--engine", "openvino"]) == 0
    by_graph = capsys.readouterr().out
    assert main(["score", song, "--model", str(tiny_folder)]) == 0
    assert capsys.readouterr().out == by_graph
    assert main(["score", song, "--model", out]) == 2
    assert "is an export for the engine openvino, not torch" in capsys.readouterr().err
    assert main([*words, "--format", "onnx"]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "int8"], "--precision is for --format onnx or openvino"),
        (["--format", "onnx", "--calibrate", "a.wav"], "--calibrate is for --format openvino --precision int8"),
        (["--format", "openvino", "--precision", "int8"], "int8 for OpenVINO is calibrated on songs"),
    ],
)
def test_export_options_that_do_not_fit_are_refused(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    assert main(["export", "--model", str(tiny_folder), "--output", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unfinished_journal_of_another_engine_is_refused(
    tiny_folder: Path, onnx_folder: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "scores.jsonl"
    settings = {"weights_sha256": "0" * 64, "dtype": "float32", "engine": "torch"}
    settings |= {"precision": "float32", "resampler": "sinc", "segments": False, "embeddings": False}
    (tmp_path / "scores.jsonl.partial").write_text(json.dumps({"format": 2, "settings": settings}) + "\n")
    words = ["score", str(album), "--model", str(onnx_folder), "--engine", "onnx", "--output", str(output)]
    assert main(words) == 2
    assert "an unfinished run with other settings" in capsys.readouterr().err
    (tmp_path / "scores.jsonl.partial").unlink()
    assert main(words) == 0
    assert len(output.read_text().splitlines()) == 4


def test_embeddings_of_a_graph_are_those_of_torch_and_are_not_mixed_with_them(
    tiny_model: ApexModel, onnx_folder: Path, album: Path, tmp_path: Path
) -> None:
    embed_songs(album, tmp_path / "torch", tiny_model)
    embed_songs(album, tmp_path / "onnx", onnx_folder, engine="onnx", batch_size=3)
    assert read_embeddings(tmp_path / "onnx") == pytest.approx(read_embeddings(tmp_path / "torch"), rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match="engine 'torch' instead of 'onnx'"):
        embed_songs(album, tmp_path / "torch", onnx_folder, engine="onnx")
    with pytest.raises(ValueError, match="engine 'onnx' instead of 'torch'"):
        embed_songs(album, tmp_path / "onnx", tiny_model)
    with pytest.raises(ValueError, match="`dtype` 'bfloat16' is for the default path; with an engine, name a"):
        embed_songs(album, tmp_path / "other", onnx_folder, engine="onnx", dtype="bfloat16")
    with pytest.raises(NotValidatedError, match="was never validated"):
        embed_songs(album, tmp_path / "other", onnx_folder, engine="onnx", precision="int8")
    assert not (tmp_path / "other").exists(), "a refused run leaves nothing that another would have to match"
    with pytest.raises(ValueError, match="`engine` must be one of"):
        embed_songs(album, tmp_path / "third", tiny_model, engine="tensorrt")
    manifest = json.loads((tmp_path / "onnx" / "manifest.json").read_text())
    assert (manifest["identity"]["engine"], manifest["identity"]["precision"]) == ("onnx", "float32")


def test_embeddings_from_before_there_were_engines_are_of_torch(tiny_model: ApexModel) -> None:
    identity = build_identity(tiny_model, dtype="float32", resampler="soxr")
    older = {name: value for name, value in identity.items() if name not in ("engine", "precision")}
    assert build_expected_identity(tiny_model, older) == identity
    refuse_other_identity("folder", older, identity)
    with pytest.raises(ValueError, match="precision 'float32' instead of 'bf16'"):
        refuse_other_identity("folder", older, {**identity, "precision": "bf16"})


def test_embed_command_takes_an_engine(
    onnx_folder: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["embed", str(album), "--model", str(onnx_folder), "--output", str(tmp_path / "out")]
    assert main([*words, "--engine", "onnx"]) == 0
    assert "4 songs" in capsys.readouterr().out
    assert main([*words, "--engine", "openvino"]) == 2
    assert "is an export for the engine onnx, not openvino" in capsys.readouterr().err
