"""Training and evaluation of the spectrogram-fusion model, by the loop and the command line of any model."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from modeling_apex import SpectrogramFusionModel, load_pipeline
from modeling_apex.cli import build_parser, main
from modeling_apex.commands.training_options import collect_arguments
from modeling_apex.corpus.song_source import open_song_source
from modeling_apex.training.arguments import ApexTrainingArguments, build_arguments
from modeling_apex.training.fusion.data import (
    build_feature_rows,
    build_feature_specs,
    build_fusion_labels,
    open_fusion_store,
)
from modeling_apex.training.fusion.evaluation import evaluate_fusion_model, format_fusion_results, predict_songs
from modeling_apex.training.fusion.model import (
    build_front_end_config,
    build_fusion_config,
    build_fusion_model,
    compute_band_statistics,
)
from modeling_apex.training.fusion.task import FusionTask, predict_stored_songs
from modeling_apex.training.loop import TrainingDivergedError
from modeling_apex.training.processes import build_accelerator
from modeling_apex.training.run_folder import RunFolder
from modeling_apex.training.train import train

from track_folders import GENRES, SMALL, write_tracks

SIZES = {"train": 24, "validation": 8, "test": 8}


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    return write_tracks(tmp_path / "tracks", SIZES)


def quick(**differences: Any) -> ApexTrainingArguments:
    options = {"num_epochs": 3, "batch_size": 8, "segment_seconds": 0.1, "report_to": "none"}
    return build_arguments("fusion", **{**options, **differences})


def open_store(tracks: Path, tmp_path: Path, **differences: Any) -> Any:
    config = build_front_end_config(quick(**differences), SMALL)
    return open_fusion_store(open_song_source(tracks), tmp_path / "cache", config)


def make_task(tracks: Path, tmp_path: Path, accelerator: Any = None, **differences: Any) -> FusionTask:
    arguments = quick(**differences)
    store = open_store(tracks, tmp_path, **differences)
    training = store.get_split("train")
    config = build_fusion_config(training, arguments, {**SMALL, "dropout": 0.0, "feature_dropout": 0.0})
    labels = build_fusion_labels(training, "popularity", arguments.hit_threshold)
    model = build_fusion_model(config, training, labels, arguments.seed)
    return FusionTask(store, model, arguments, accelerator or build_accelerator(arguments, tmp_path))


def test_features_are_found_by_name_and_described_by_the_training_songs(tracks: Path, tmp_path: Path) -> None:
    split = open_store(tracks, tmp_path, branches="features").get_split("train")
    specs = build_feature_specs(split, "keep", "popularity")
    assert [spec["name"] for spec in specs] == ["genre", "tempo", "play_count"], "a constant mode teaches nothing"
    assert specs[0]["categories"] == sorted(GENRES)
    plays = np.log1p(np.array(split.list_values("play_count"), np.float64))
    assert (specs[2]["mean"], specs[2]["std"]) == (pytest.approx(plays.mean()), pytest.approx(plays.std()))
    assert [spec["name"] for spec in build_feature_specs(split, "drop", "popularity")] == ["genre", "tempo"]
    assert "play_count" not in [spec["name"] for spec in build_feature_specs(split, "keep", "play_count")]
    rows = build_feature_rows(split, specs)
    assert rows.shape == (24, 3)
    assert np.isnan(rows[0, 0]), "every ninth song has no genre"
    assert not np.isnan(rows[:, 1:]).any()
    labels = build_fusion_labels(split, "popularity", 50.0)
    np.testing.assert_array_equal(labels[:, 1], labels[:, 0] >= 50)


def test_spectrograms_are_computed_once_and_equal_those_of_the_model(tracks: Path, tmp_path: Path) -> None:
    store = open_store(tracks, tmp_path)
    split = store.get_split("train")
    assert split.segments.shape == (split.num_segments, 16, 21)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    again = open_store(tracks, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == before
    assert again.manifest_sha256 == store.manifest_sha256
    mean, std = compute_band_statistics(split)
    np.testing.assert_allclose(mean, np.asarray(split.segments).mean((0, 2)), rtol=1e-4)
    np.testing.assert_allclose(std, np.asarray(split.segments).std((0, 2)), rtol=1e-3)


@pytest.mark.parametrize("branches", ["fused", "audio", "features"])
def test_stored_and_streamed_songs_get_the_same_scores(tracks: Path, tmp_path: Path, branches: str) -> None:
    task = make_task(tracks, tmp_path, branches=branches)
    model = task.module.model.eval()
    predicted = task.predict("test")
    results: list[dict[str, str]] = []
    streamed, songs = predict_songs(model, open_song_source(tracks), "test", results)
    assert [song.id for song in songs] == [f"test-track-{index}" for index in range(8)]
    np.testing.assert_allclose(predicted, streamed, rtol=5e-3)  # stored waveforms are in float16
    one = task.store.get_split("test")
    rows = build_feature_rows(one, model.config.features)
    np.testing.assert_allclose(predict_stored_songs(model, one, rows, 3, 5), predicted[3:5], rtol=1e-5)


def test_processes_share_a_batch(tracks: Path, tmp_path: Path) -> None:
    whole = make_task(tracks, tmp_path)
    whole.plan_epoch(1)
    expected, counts = whole.compute_error_sums(whole.module, 0)
    total = torch.zeros(2)
    for index in range(2):
        fake = SimpleNamespace(process_index=index, num_processes=2, device=torch.device("cpu"))
        task = make_task(tracks, tmp_path, fake)
        task.load_weights(whole.build_weights())
        task.plan_epoch(1)
        sums, same_counts = task.compute_error_sums(task.module, 0)
        total += sums.detach()
        assert torch.equal(same_counts, counts)
    torch.testing.assert_close(total, expected.detach(), rtol=1e-5, atol=1e-5)
    assert whole.describe_batch(0).startswith("songs 'train-track-")


def test_training_learns_what_the_features_say(tracks: Path, tmp_path: Path) -> None:
    arguments = quick(branches="features", num_epochs=20, learning_rate=0.01)
    wide = {**SMALL, "feature_dims": [64, 32], "fusion_size": 32, "dropout": 0.0}
    result = train(tracks, tmp_path / "run", arguments, config=wide)
    assert result.history[result.best_epoch]["validation"]["popularity"]["spearman"] > 0.7
    assert result.history[-1]["training_loss"] < 0.5 * result.history[0]["training_loss"]
    model = SpectrogramFusionModel.from_pretrained(result.best)
    assert model.config.feature_names == ["genre", "tempo"]
    assert set(model.config.percentile_tables) == {"popularity", "hit_probability"}
    assert model.config.provenance["training"]["data"]["leaking_features"] == []
    pop = load_pipeline(result.best)
    report = pop({"array": np.zeros(4800, np.float32), "sampling_rate": 24_000, "features": {"genre": "rock"}})
    assert report["training_percentiles"]["popularity"] > 50


def test_a_resumed_run_repeats_the_uninterrupted_one(
    tracks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = quick(num_epochs=4)
    whole = train(tracks, tmp_path / "whole", arguments, config=SMALL, cache_dir=tmp_path / "cache")
    save_history, saved = RunFolder.save_history, []

    def stop_after_two(self: RunFolder, history: Any) -> None:
        save_history(self, history)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_history", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train(tracks, tmp_path / "cut", arguments, config=SMALL, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(RunFolder, "save_history", save_history)
    options = {"config": SMALL, "cache_dir": tmp_path / "cache"}
    resumed = train(tracks, tmp_path / "cut", arguments, resume=True, **options)
    assert resumed.history == whole.history
    first, second = (load_file(run.best / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_command_line_trains_evaluates_and_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks = write_tracks(tmp_path / "tracks", {"train": 12, "validation": 6, "test": 6}, broken=("test-track-1",))
    run = tmp_path / "run"
    words = ["train", str(tracks), "--output", str(run), "--model-type", "spectrogram-fusion", "--num-epochs", "1"]
    words += ["--segment-seconds", "0.1", "--leaking-features", "keep", "--batch-size", "6", "--report-to", "none"]
    words += ["--hit-threshold", "40"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "hit_probability" in out
    saved = json.loads((run / "arguments.json").read_text())
    assert (saved["model_type"], saved["batch_size"], saved["loss"]) == ("spectrogram-fusion", 6, "equal")
    assert json.loads((run / "data.json").read_text())["leaking_features"] == ["play_count"]

    output = tmp_path / "results.json"
    words = ["evaluate", str(tracks), "--model", str(run / "best"), "--split", "test", "--draws", "20"]
    assert main([*words, "--output", str(output)]) == 1, "one song is broken"
    out = capsys.readouterr().out
    assert "hits (popularity from 40" in out
    assert "majority class" in out
    assert "Features that leak the target: play_count" in out
    results = json.loads(output.read_text())
    assert results["hit_threshold"] == 40
    assert [failure["id"] for failure in results["failures"]] == ["test-track-1"]
    assert results["splits"]["test"]["popularity"]["num_songs"] == 5
    assert {"f1", "precision", "recall", "auc", "baselines"} <= set(results["splits"]["test"]["hit"])
    assert main([*words, "--songs", str(tracks)]) == 2
    assert "--songs names where labels of embeddings come from; here DATA has them" in capsys.readouterr().err

    assert main(["train", str(tracks), "--output", str(run), "--model-type", "spectrogram-fusion"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    words = [
        "train",
        str(tracks),
        "--output",
        str(tmp_path / "x"),
        "--model-type",
        "spectrogram-fusion",
        "--model",
        "m",
    ]
    assert main(words) == 2
    assert "a spectrogram-fusion model starts from scratch" in capsys.readouterr().err


def test_another_target_brings_its_percentiles(tmp_path: Path) -> None:
    scores = np.linspace(1, 99, 24)
    tracks = write_tracks(tmp_path / "tracks", {"train": 24, "validation": 8}, score_streams=scores)
    arguments = quick(branches="features", target_column="score_streams", num_epochs=1)
    model = SpectrogramFusionModel.from_pretrained(train(tracks, tmp_path / "run", arguments).best)
    assert model.config.popularity_exponent == pytest.approx(3.1063, abs=1e-4)


def test_the_interval_of_an_evaluation_and_its_text(tracks: Path, tmp_path: Path) -> None:
    model = make_task(tracks, tmp_path, branches="features").module.model
    results = evaluate_fusion_model(model, tracks, num_draws=20)
    assert set(results["splits"]) == {"validation", "test"}
    assert results["baselines_from"] == "train"
    assert json.loads(json.dumps(results)) == results
    text = format_fusion_results(results)
    assert "test, hits (popularity from 50" in text
    assert "Features that leak the target: none" in text
    alone = write_tracks(tmp_path / "alone", {"test": 6})
    assert "without training songs" in evaluate_fusion_model(model, alone, num_draws=5)["baselines_from"]


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"target_column": "streams"}, "the songs have no column `streams` to predict; they have id"),
        (
            {"model_type": "apex"},
            r"`config` shapes a spectrogram-fusion model \(config\); an APEX model has the shape",
        ),
        ({"branches": "audio", "crop_share": 0.02}, "`crop_share` 0.02 leaves nothing of a segment.* has 21 frames"),
    ],
)
def test_refusals_of_training(tracks: Path, tmp_path: Path, differences: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(tracks, tmp_path / "run", quick(**{"branches": "features", **differences}), config=SMALL)


def test_songs_that_cannot_teach_are_refused(tmp_path: Path) -> None:
    nothing = write_tracks(tmp_path / "a", {"train": 4, "validation": 2}, popularity=pa.nulls(4, pa.float32()))
    with pytest.raises(ValueError, match="no song of the split 'train' has a `popularity` to learn from"):
        train(nothing, tmp_path / "run-a", quick(branches="features"), config=SMALL)
    outside = write_tracks(tmp_path / "b", {"train": 4, "validation": 2}, popularity=[1.0, 2.0, 300.0, 4.0])
    with pytest.raises(ValueError, match="`popularity` holds values outside 0 to 100"):
        train(outside, tmp_path / "run-b", quick(branches="features"), config=SMALL)
    bare = {"genre": [None] * 4, "tempo": [100.0] * 4, "play_count": [1] * 4}
    plain = write_tracks(tmp_path / "c", {"train": 4, "validation": 2}, **bare)
    with pytest.raises(ValueError, match="no track features that vary, so there is nothing to fuse"):
        train(plain, tmp_path / "run-c", quick(branches="features"), config=SMALL)
    shared = write_tracks(tmp_path / "d", {"train": 4, "validation": 2}, group=["one"] * 4)
    with pytest.raises(ValueError, match="groups are both in train and in validation"):
        train(shared, tmp_path / "run-d", quick(branches="features"), config=SMALL)


def test_a_diverging_run_says_where(tracks: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="the loss is nan"):
        train(tracks, tmp_path / "run", quick(branches="features", learning_rate=1e30), config=SMALL)


def test_refusals_of_evaluation(tracks: Path, tmp_path: Path) -> None:
    model = make_task(tracks, tmp_path, branches="features").module.model
    with pytest.raises(ValueError, match="no column `plays` to compare with; it has"):
        evaluate_fusion_model(model, tracks, target_column="plays")
    with pytest.raises(ValueError, match="no split 'dev'; it has test, train, validation"):
        evaluate_fusion_model(model, tracks, splits=["dev"])
    with pytest.raises(ValueError, match="no split to evaluate on; it has train"):
        evaluate_fusion_model(model, write_tracks(tmp_path / "train-only", {"train": 4}))


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"branches": "both"}, "`branches` must be one of fused, audio, features, got 'both'"),
        ({"leaking_features": "hide"}, "`leaking_features` must be one of drop, keep"),
        ({"hit_threshold": 0.0}, "`hit_threshold` must be above 0 and at most 100, got 0"),
        ({"crop_share": 0.0}, "`crop_share` must be above 0 and at most 1, got 0"),
        ({"segment_seconds": 0.0}, "`segment_seconds` must be positive, got 0"),
        ({"mode": "segment"}, "always learns from audio and scores whole songs"),
        ({"train_encoder": True}, "leave out train_encoder and mode"),
    ],
)
def test_refusals_of_arguments(differences: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_arguments("fusion", **differences)


def test_the_model_type_chooses_its_preset(tmp_path: Path) -> None:
    def collect(*words: str) -> ApexTrainingArguments:
        return collect_arguments(build_parser().parse_args(["train", "data", "--output", "run", *words]))

    assert collect("--model-type", "spectrogram-fusion") == build_arguments("fusion")
    assert collect() == build_arguments("published")
    file = tmp_path / "differences.json"
    file.write_text('{"model_type": "spectrogram-fusion", "num_epochs": 2}')
    assert collect("--arguments", str(file)) == build_arguments("fusion", num_epochs=2)
