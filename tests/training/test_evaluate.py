"""Evaluation, the 24 conditions, and their commands."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import modeling_apex.training.conditions as conditions_module
from modeling_apex import ApexModel
from modeling_apex.cli import main
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.statistics.metrics import compute_metrics
from modeling_apex.training.conditions import (
    average_conditions,
    build_conditions,
    format_conditions,
    run_conditions,
    save_conditions_plot,
)
from modeling_apex.training.evaluate import (
    build_resampled_groups,
    evaluate_model,
    format_interval,
    format_results,
    predict_split,
)

from result_schemas import check_result
from song_folders import write_embeddings

SIZES = {"train": 30, "validation": 20, "test": 10}


@pytest.mark.parametrize("level", ["song", "segment"])
def test_results_are_those_of_the_forward_pass(embeddings: Path, tiny_model: ApexModel, level: str) -> None:
    tiny_model.config.prediction_level = level
    results = evaluate_model(tiny_model, embeddings, num_draws=20)
    assert set(results["splits"]) == {"validation", "test"}
    split = open_embedding_store(embeddings).get_split("validation")
    scores = []
    for song in range(split.num_songs):
        rows = torch.from_numpy(np.array(split.segments[split.offsets[song] : split.offsets[song + 1]]))
        with torch.no_grad():
            scores.append(tiny_model(segment_embeddings=rows.unsqueeze(0)).scores[0].numpy())
    labels = split.build_labels(tiny_model.config.head_names)
    for column, name in enumerate(tiny_model.config.head_names):
        expected = compute_metrics(np.array(scores)[:, column], labels[:, column])
        result = results["splits"]["validation"]["all"][name]
        assert {metric: result[metric]["value"] for metric in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert result["mse"]["low"] <= result["mse"]["value"] <= result["mse"]["high"]
        assert result["num_songs"] == 20


def test_platforms_and_baselines_stand_beside(embeddings: Path, tiny_model: ApexModel) -> None:
    results = evaluate_model(tiny_model, embeddings, splits=["test"], num_draws=5)["splits"]["test"]
    assert {name: heads["clarity"]["num_songs"] for name, heads in results.items()} == {
        "all": 10,
        "suno": 5,
        "udio": 5,
    }
    store = open_embedding_store(embeddings)
    mean = store.get_split("train").build_labels(["clarity"]).mean()
    errors = (store.get_split("test").build_labels(["clarity"]) - mean) ** 2
    assert results["all"]["clarity"]["baselines"]["mean"]["mse"] == pytest.approx(errors.mean(), rel=1e-5)


def test_groups_are_resampled_and_named(tmp_path: Path, identity: dict, tiny_model: ApexModel) -> None:
    """The songs come in pairs of one creator: 10 test songs are 5 units."""
    pairs = {split: [f"{split}-creator-{index // 2}" for index in range(size)] for split, size in SIZES.items()}
    embeddings = write_embeddings(tmp_path / "pairs", SIZES, identity, groups=pairs)
    results = evaluate_model(tiny_model, embeddings, num_draws=20)
    check_result(results)
    clarity = results["splits"]["test"]["all"]["clarity"]
    assert clarity["resampled"] == {"unit": "group", "num_units": {"group": 5}}
    assert results["splits"]["validation"]["all"]["clarity"]["resampled"]["num_units"] == {"group": 10}
    assert results["model_sha256"] == compute_scores_hash(tiny_model)
    assert results["input_sha256"] == results["dataset_sha256"]
    assert "95 % bootstrap over 10 groups (validation, all)" in format_results(results)


def test_songs_without_a_group_stand_alone() -> None:
    groups = build_resampled_groups({"group": ["a", None, "a", None], "creator": [None] * 4})
    assert list(groups) == ["group"]
    assert groups["group"].tolist() == [0, 1, 0, 2]


def test_what_is_not_defined_is_shown_without_an_interval() -> None:
    assert format_interval({"value": None, "low": None, "high": None}) == "-"
    assert format_interval({"value": 0.5, "low": None, "high": None}) == "0.500"


def test_many_songs_are_scored_in_pieces(tmp_path: Path, identity: dict, tiny_model: ApexModel) -> None:
    folder = write_embeddings(tmp_path / "many", {"train": 300}, identity)
    split = open_embedding_store(folder).get_split("train")
    scores = predict_split(tiny_model, split)
    with torch.no_grad():
        expected = tiny_model.compute_scores(torch.from_numpy(np.array(split.song_embeddings))).numpy()
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_refuses_embeddings_of_another_model(embeddings: Path, tiny_model: ApexModel) -> None:
    with torch.no_grad():
        tiny_model.aggregator.bias.add_(1.0)
    with pytest.raises(ValueError, match="embeddings of another model"):
        evaluate_model(tiny_model, embeddings)


def test_commands_train_evaluate_and_run_conditions(
    tmp_path: Path, embeddings: Path, tiny_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    shared = ["--model", str(tiny_folder), "--num-epochs", "1", "--batch-size", "16", "--report-to", "none"]
    assert main(["train", str(embeddings), "--output", str(tmp_path / "run"), *shared]) == 0
    assert "best epoch 0 of 1" in capsys.readouterr().out
    output = tmp_path / "results.json"
    words = ["--model", str(tmp_path / "run" / "best"), "--output", str(output), "--draws", "5"]
    assert main(["evaluate", str(embeddings), *words]) == 0
    results = json.loads(output.read_text())
    assert capsys.readouterr().out == format_results(results) + "\n"
    only = ["--only", "song-full-uncertainty-2", "segment-popularity-equal-3"]
    assert main(["conditions", str(embeddings), "--output", str(tmp_path / "conditions"), *only, *shared]) == 0
    table = capsys.readouterr().out
    assert "701" in table
    assert "published: arXiv 2605.03395" in table
    stored = json.loads((tmp_path / "conditions" / "results.json").read_text())
    check_result(stored)
    assert set(stored["conditions"]) == set(only[1:])
    assert f"chosen on validation, mean Spearman of score_streams, score_likes: {stored['chosen']}" in table
    assert stored["mean_spearman"][stored["chosen"]] == max(stored["mean_spearman"].values())
    assert f"model: {tmp_path / 'conditions' / stored['chosen'] / 'best'}" in table
    assert (tmp_path / "conditions" / "conditions.png").read_bytes().startswith(b"\x89PNG")
    assert main(["train", str(embeddings), "--output", str(tmp_path / "run"), *shared]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_there_are_24_conditions_and_finished_ones_are_kept(
    tmp_path: Path, embeddings: Path, tiny_folder: Path, quick: Callable
) -> None:
    arguments = quick(num_epochs=1, seed=3)
    conditions = build_conditions(arguments)
    assert len(conditions) == 24
    assert len({tuple(vars(condition).items()) for condition in conditions.values()}) == 24
    assert all(condition.seed == 3 for condition in conditions.values())
    only = ["song-popularity-weighted-2"]
    first = run_conditions(embeddings, tmp_path / "runs", arguments, model=tiny_folder, only=only)
    weights = tmp_path / "runs" / only[0] / "checkpoints" / "epoch-0000" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert run_conditions(embeddings, tmp_path / "runs", arguments, model=tiny_folder, only=only) == first
    assert weights.stat().st_mtime_ns == written
    assert "score_streams" in format_conditions(first)
    with pytest.raises(ValueError, match="the split 'validation' makes the choice, so its best result is partly luck"):
        run_conditions(embeddings, tmp_path / "runs", arguments, only=only, split="validation")
    with pytest.raises(ValueError, match="unknown conditions song-none; there are song-popularity-equal-2"):
        run_conditions(embeddings, tmp_path / "runs", arguments, only=["song-none"])


def test_scores_that_a_constant_would_beat_are_named(embeddings: Path, tiny_model: ApexModel) -> None:
    """The heads of the tiny model are random: that a constant does better must be said, in words and in results."""
    results = evaluate_model(tiny_model, embeddings, num_draws=5)
    check_result(results)
    heads = results["splits"]["test"]["all"]
    for name, result in heads.items():
        expected = [
            kind
            for kind, error in (("mean", "mse"), ("median", "mae"))
            if result["baselines"][kind][error] < result[error]["value"]
        ]
        assert result["worse_than"] == expected
        for kind in ("mean", "median"):
            start = f"{name} is worse than always saying the {kind} of the training labels"
            is_said = any(words.startswith(start) and "(test, 10 songs)" in words for words in results["findings"])
            assert is_said == (kind in expected)
    assert any(result["worse_than"] for result in heads.values())
    assert f"note: {results['findings'][0]}" in format_results(results)
    assert "note:" not in format_results({**results, "findings": []})


def test_no_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"mean_spearman": {"one": 0.1, "two": 0.2}, "chosen": "two"}
    assert save_conditions_plot(results, tmp_path / "plot.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not save_conditions_plot(results, tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def build_condition_results(spearman: dict[str, float | None]) -> dict:
    heads = {name: {"mse": {"value": 1.0}, "spearman": {"value": value}} for name, value in spearman.items()}
    return {"splits": {"validation": {"all": heads}}}


def test_the_validation_songs_choose_by_the_scores_that_all_conditions_have() -> None:
    full = build_condition_results({"score_streams": 0.3, "score_likes": None, "clarity": 0.9})
    popularity = build_condition_results({"score_streams": 0.3, "score_likes": 0.2})
    means, scores = average_conditions({"full": full, "popularity": popularity})
    assert means == pytest.approx({"full": 0.15, "popularity": 0.25}), "what ranks nothing counts 0"
    assert scores == ["score_streams", "score_likes"]
    unlabelled = build_condition_results({"score_streams": None})
    unlabelled["splits"]["validation"]["all"]["score_streams"]["mse"]["value"] = None
    with pytest.raises(ValueError, match="no song of the split 'validation' has a label of score_streams"):
        average_conditions({"full": unlabelled})


def test_the_chosen_condition_alone_sees_the_test_songs_and_once(
    tmp_path: Path, embeddings: Path, tiny_folder: Path, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STATISTICS 13: 24 runs were once compared on the test songs."""
    seen = []

    def evaluate(model: Path, *words: Path, splits: list[str], **options: Any) -> dict:
        seen.append((splits, model))
        return evaluate_model(model, *words, splits=splits, **options)

    monkeypatch.setattr(conditions_module, "evaluate_model", evaluate)
    only = ["song-popularity-weighted-2", "song-popularity-equal-2"]
    results = run_conditions(embeddings, tmp_path / "runs", quick(num_epochs=1), model=tiny_folder, only=only)
    assert [splits for splits, _ in seen] == [["validation"], ["validation"], ["test"]]
    assert results["chosen"] in str(seen[-1][1])
    assert list(results["test"]["splits"]) == ["test"]
    check_result(results)
