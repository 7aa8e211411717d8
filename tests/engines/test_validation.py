"""Validation records: what is measured, what it holds for, and how the command tells it."""

import re
from pathlib import Path

import pytest
import torch

from modeling_apex import ApexModel
from modeling_apex.checkpoints import validate_shortcut as validate_module
from modeling_apex.checkpoints.validate_shortcut import validate_shortcut
from modeling_apex.cli import main
from modeling_apex.engines import choice
from modeling_apex.engines.calibration import read_calibration_segments
from modeling_apex.engines.validation import (
    build_record_key,
    describe_hardware,
    find_record,
    load_records,
    measure_shortcut,
    save_record,
)

KEY = {"hardware": "cpu", "engine": "onnx", "precision": "int8"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        choice, "cached_assets_path", lambda name, namespace, subfolder: tmp_path / "cache" / subfolder
    )


def make_reports(*scores: float) -> list[dict]:
    return [
        {"scores": {"streams": 10 * score, "clarity": score}, "num_segments": 2}
        | {"ranges": {"streams": [0, 100], "clarity": [1, 5]}}
        for score in scores
    ]


def test_record_holds_the_largest_change_of_every_score() -> None:
    record = measure_shortcut(
        lambda songs: make_reports(*([1.0, 2.0, 3.0][: len(songs)])),
        lambda songs: make_reports(*([1.0, 2.1, 2.95][: len(songs)])),
        ["a", "b", "c"],
        KEY,
        reference="torch float32",
        tolerance=0.03,
    )
    assert record["largest_change"] == pytest.approx({"streams": 1.0, "clarity": 0.1})
    assert record["ranges"] == {"streams": 100, "clarity": 4}
    assert (record["num_songs"], record["num_segments"]) == (3, 6)
    assert record["is_within_tolerance"]
    assert record["speed_ratio"] > 0


def test_change_beyond_the_tolerance_is_not_accepted() -> None:
    record = measure_shortcut(
        lambda songs: make_reports(1.0),
        lambda songs: make_reports(1.5),
        ["a"],
        KEY,
        reference="torch float32",
        tolerance=0.1,
    )
    assert not record["is_within_tolerance"], "0.5 is more than a tenth of clarity's range, if not of that of streams"


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="validated on songs, and none was given"):
        measure_shortcut(make_reports, make_reports, [], KEY, reference="torch")
    with pytest.raises(ValueError, match="`tolerance` must be positive, got 0"):
        measure_shortcut(make_reports, make_reports, ["a"], KEY, reference="torch", tolerance=0)


def test_a_new_record_takes_the_place_of_the_old(tmp_path: Path) -> None:
    assert load_records(tmp_path) == []
    for number in (1, 2):
        save_record(tmp_path / "folder", {"key": KEY, "number": number})
    save_record(tmp_path / "folder", {"key": {**KEY, "precision": "bf16"}, "number": 3})
    assert [record["number"] for record in load_records(tmp_path / "folder")] == [2, 3]
    assert find_record(tmp_path / "folder", KEY) == {"key": KEY, "number": 2}
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["validation.json"]


def test_key_names_what_numbers_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    key = build_record_key("abc", "torch", "bf16", torch.device("cpu"), is_compiled=True)
    assert key["library"].startswith("torch 2.")
    assert torch.backends.cpu.get_cpu_capability() in key["hardware"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert describe_hardware(torch.device("cuda")) == "cuda NVIDIA H200"
    assert describe_hardware(torch.device("mps")) == "mps"


def test_validated_shortcut_scores(
    onnx_folder: Path, tiny_folder: Path, song_file, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    songs = [str(song_file(f"{seed}.wav", 0.35, seed=seed)) for seed in (1, 2)]
    words = ["--model", str(tiny_folder), "--precision", "bf16"]
    assert main(["score", songs[0], *words]) == 2
    assert "apex-music validate SONG..." in capsys.readouterr().err
    # Random heads magnify rounding, so this model needs more tolerance than a trained one.
    assert main(["validate", *songs, *words, "--tolerance", "0.5"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"clarity +[\d.e-]+ +[\d.]+%", out)
    assert "torch bf16 against torch float32: " in out
    assert "2 songs, 8 segments" in out
    assert main(["score", songs[0], *words]) == 0
    streams = capsys.readouterr()
    assert "engine torch, bf16: " in streams.err
    assert "largest change of a score" in streams.err
    assert main(["validate", *songs, *words, "--tolerance", "1e-9"]) == 1
    assert "not accepted: more than" in capsys.readouterr().out
    assert main(["score", songs[0], *words]) == 2
    assert "failed its validation" in capsys.readouterr().err


def test_an_export_is_validated_against_its_own_float32(onnx_folder: Path, song_file) -> None:
    song = str(song_file(seconds=0.35))
    record, path = validate_shortcut([song], onnx_folder, engine="onnx", precision="int8", tolerance=0.9)
    assert record["reference"] == "onnx float32"
    assert path == onnx_folder / "validation.json"
    with pytest.raises(ValueError, match="its float32 graph was compared with torch"):
        validate_shortcut([song], onnx_folder, engine="onnx")
    path.unlink()


def test_nothing_to_validate_is_said(
    tiny_model: ApexModel, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="there is nothing to validate: torch in float32 is the exact path"):
        validate_shortcut(["a.wav"], tiny_folder)
    with pytest.raises(TypeError, match="each path loads its own; got ApexModel"):
        validate_shortcut(["a.wav"], tiny_model, precision="bf16")
    monkeypatch.setattr(validate_module, "load_scorer", None)
    with pytest.raises(ValueError, match="`engine` must be one of"):
        validate_shortcut(["a.wav"], tiny_folder, engine="tensorrt")


def test_calibration_takes_segments_from_each_song_in_turn(song_file, tiny_model: ApexModel) -> None:
    songs = [str(song_file(f"{seed}.wav", 0.1 * length, seed=seed)) for seed, length in ((1, 1), (2, 3), (3, 2))]
    segments = read_calibration_segments(songs, tiny_model.config, max_segments=5)
    assert segments.shape == (5, 2400)
    assert segments.mean(1).abs().max() < 1e-3
    alone = read_calibration_segments(songs[1:2], tiny_model.config)
    assert len(alone) == 3
    assert torch.equal(alone[:2], segments[[1, 3]])
