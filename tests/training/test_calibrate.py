"""`apex-music calibrate`: what it writes, by which door it is read again, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_apex import (
    ApexConfig,
    ApexModel,
    SpectrogramFusionConfig,
    SpectrogramFusionModel,
    load_pipeline,
    load_scorer,
)
from modeling_apex.checkpoints.export import export_model
from modeling_apex.cli import main
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.engines.plain_folder import PlainModel
from modeling_apex.training.calibration import calibrate, save_reference
from modeling_apex.training.reference import build_reference

from song_folders import HEAD_NAMES, make_wav, write_dataset
from track_folders import SMALL, write_tracks

NAMES = {"percentiles", "target_percentiles", "reference_percentiles", "percentile_basis", "intervals", "novelty"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "songs", {"train": 2, "validation": 104}, broken=("validation-song-3",))


@pytest.fixture
def reference() -> dict:
    generator = np.random.default_rng(0)
    scores = generator.uniform(1, 5, (120, 7)).astype(np.float32)
    embeddings = generator.normal(size=(120, 16)).astype(np.float32)
    labels = scores + generator.normal(size=scores.shape).astype(np.float32)
    names = ["x"] * 120
    return build_reference(scores, HEAD_NAMES, name="a", song_ids=names, labels=labels, embeddings=embeddings)


def test_calibrates_a_folder_in_its_place(
    dataset: Path, tiny_folder: Path, capsys: pytest.CaptureFixture, tmp_path: Path, song_file: Callable
) -> None:
    song = str(song_file(seconds=0.25))
    before = next(iter(load_scorer(tiny_folder).score([song])))
    files = {path.name for path in tiny_folder.iterdir()}
    assert main(["calibrate", str(tiny_folder), str(dataset), "--device", "cpu", "--name", "the first\x1b[31m"]) == 1
    captured = capsys.readouterr()
    assert "not scored: validation-song-3: " in captured.err
    assert "103 songs in 52 groups: the first\\x1b[31m" in captured.out
    assert "90 % interval" in captured.out
    assert {path.name for path in tiny_folder.iterdir()} == files
    scorer = load_scorer(tiny_folder)
    assert type(scorer.model) is PlainModel
    report = next(iter(scorer.score([song])))
    assert report["scores"] == before["scores"]
    assert set(report) - set(before) == NAMES - {"percentiles", "target_percentiles", "percentile_basis"} | {
        "interval_level"
    }
    assert before["percentile_basis"].startswith("the inverted target")
    assert report["target_percentiles"] == before["percentiles"] == before["target_percentiles"]
    assert set(report["reference_percentiles"]) == set(HEAD_NAMES)
    assert report["percentiles"] == {name: report["reference_percentiles"][name] for name in before["percentiles"]}
    for name, (low, high) in report["intervals"].items():
        minimum, maximum = report["ranges"][name]
        assert minimum <= low <= report["scores"][name] <= high <= maximum
    assert load_pipeline(tiny_folder, device="cpu")(song) == report
    # A new folder, for a model that is not to be written to; and anew, with the same result.
    assert main(["calibrate", str(tiny_folder), str(dataset), "--device", "cpu", "--output", str(tmp_path / "b")]) == 1
    found, other = (ApexModel.from_pretrained(folder).config.reference for folder in (tiny_folder, tmp_path / "b"))
    assert (found.pop("name"), other.pop("name")) == ("the first\x1b[31m", "songs")
    assert found == other


def test_songs_without_labels_have_ranks_and_no_intervals(
    tiny_folder: Path, song_file: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for seed in range(20):
        song_file(f"album/{seed}.wav", 0.1, seed=seed)
    words = ["calibrate", str(tiny_folder), str(tmp_path / "album"), "--device", "cpu"]
    assert main(words) == 0
    assert "no labels" in capsys.readouterr().out
    report = next(iter(load_scorer(tiny_folder).score([str(tmp_path / "album" / "1.wav")])))
    assert "intervals" not in report
    assert "novelty" not in report
    assert report["percentile_basis"] == "share of songs with a lower score among 20: album"
    (tmp_path / "album" / "0.wav").unlink()
    assert main(words) == 2
    assert "album: 19 songs are too few to compute ranks; give at least 20" in capsys.readouterr().err


def test_refuses_what_it_cannot_do(
    dataset: Path, tiny_folder: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no split dev; there are train, validation"):
        calibrate(load_scorer(tiny_folder), dataset, splits=["dev"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "song.txt").write_text("mine")
    words = ["calibrate", str(tiny_folder), str(dataset)]
    assert main([*words, "--output", str(tmp_path / "full")]) == 2
    assert "exists and is not an empty folder; choose a new one" in capsys.readouterr().err
    for level, message in (("1", "must be between 0 and 1"), ("many", "must be a number")):
        with pytest.raises(SystemExit):
            main([*words, "--level", level])
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="owner/name: no folder, so its config cannot be written"):
        save_reference("owner/name", {})


def test_a_reference_travels(tiny_model: ApexModel, reference: dict, tmp_path: Path) -> None:
    before = compute_scores_hash(tiny_model)
    tiny_model.config.reference = reference
    assert compute_scores_hash(tiny_model) != before
    tiny_model.save_pretrained(tmp_path / "saved")
    saved = ApexModel.from_pretrained(tmp_path / "saved")
    assert saved.config.reference == reference
    export_model(saved, tmp_path / "exported")
    assert ApexConfig.from_pretrained(tmp_path / "exported").reference == reference
    plain = load_scorer(tmp_path / "saved").model
    assert type(plain) is PlainModel
    assert compute_scores_hash(plain) == compute_scores_hash(saved)


def test_a_song_that_is_unlike_the_reference_is_said_to_be(
    tiny_model: ApexModel, reference: dict, song_file: Callable
) -> None:
    song = str(song_file(seconds=0.25))
    tiny_model.config.reference = {**reference, "novelty": {**reference["novelty"], "threshold": 1e-3}}
    report = next(iter(load_scorer(tiny_model).score([song])))
    assert report["novelty"]["is_novel"] is True
    assert report["warnings"][-1].startswith("unlike the songs that the model was calibrated on (a): distance ")
    tiny_model.config.reference["novelty"]["threshold"] = 1e6
    report = next(iter(load_scorer(tiny_model).score([song])))
    assert (report["novelty"]["is_novel"], report["warnings"]) == (False, [])


DAMAGE = {
    "exactly name, num_songs": {"name": ...},
    "`name` must be text": {"num_songs": "many"},
    "must be between 0 and 1": {"interval_level": 1.5},
    "must be dicts": {"intervals": [1.0]},
    "a percentile table for each of the heads": {"percentile_tables": {}},
    "must be a list of 101 finite numbers": {"percentile_tables": {name: [1.0] for name in HEAD_NAMES}},
    "must not descend": {"percentile_tables": {name: [2.0, *[1.0] * 100] for name in HEAD_NAMES}},
    "must be a width of at least 0": {"intervals": {"coherence": -1.0}},
    "exactly mean, directions": {"novelty": {"mean": [1.0]}},
}
NOVELTY_DAMAGE = {
    "directions` must be a list of at most 1000": {"directions": 5},
    "mean` must be a list of finite numbers": {"mean": [float("nan")]},
    "variances` must be a list of 8 finite": {"variances": [1.0]},
    "directions` must be a list of 16 finite": {"directions": [[1.0]] * 8},
    "must be above 0": {"threshold": 0.0},
}


@pytest.mark.parametrize(
    ("message", "change"),
    [*DAMAGE.items(), *((message, {"novelty": change}) for message, change in NOVELTY_DAMAGE.items())],
)
def test_a_damaged_reference_is_refused(
    tiny_config: Callable[..., ApexConfig], reference: dict, message: str, change: dict
) -> None:
    assert tiny_config(reference=reference).reference == reference
    if message in NOVELTY_DAMAGE:
        change = {"novelty": {**reference["novelty"], **change["novelty"]}}
    damaged = {name: value for name, value in {**reference, **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        tiny_config(reference=damaged)
    with pytest.raises(TypeError, match="`reference` must be a dict, got list"):
        tiny_config(reference=[1])


def test_an_export_and_a_fusion_model_are_calibrated_too(tmp_path: Path) -> None:
    tracks = write_tracks(tmp_path / "tracks", {"validation": 24})
    torch.manual_seed(0)
    features = [{"name": "genre", "kind": "categorical", "categories": ["pop", "rock"], "is_leaking": False}]
    model = SpectrogramFusionModel(SpectrogramFusionConfig(features=features, **SMALL)).eval()
    model.save_pretrained(tmp_path / "fusion")
    shutil.copytree(tmp_path / "fusion", tmp_path / "copy")
    assert main(["calibrate", str(tmp_path / "copy"), str(tracks), "--device", "cpu", "--level", "0.5"]) == 0
    report = next(iter(load_scorer(tmp_path / "copy").score([{"audio": str(_write_song(tmp_path)), "features": {}}])))
    assert set(report["reference_percentiles"]) == {"popularity", "hit_probability"}
    assert set(report["intervals"]) == {"popularity"}
    assert report["interval_level"] == 0.5
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["reference"]["num_songs"] == 24


def _write_song(folder: Path) -> Path:
    (folder / "one.wav").write_bytes(make_wav(1, 0.2))
    return folder / "one.wav"
