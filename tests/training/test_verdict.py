"""What a run says of itself: too few steps, still improving, worse than a constant; in words and in results."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modeling_apex.training.loop as loop
from modeling_apex import ApexModel
from modeling_apex.commands.train import format_results
from modeling_apex.training.arguments import build_arguments
from modeling_apex.training.run_folder import RESULTS_NAME
from modeling_apex.training.train import train as train_model
from modeling_apex.training.verdict import (
    describe_better_constants,
    explain_few_steps,
    is_still_improving,
    list_better_constants,
    measure_heads,
)

from result_schemas import check_result


@pytest.fixture
def train(embeddings: Path, tiny_model: ApexModel, quick: Callable, tmp_path: Path) -> Callable[..., Any]:
    def run(name: str = "run", **arguments: Any) -> Any:
        return train_model(embeddings, tmp_path / name, quick(**arguments), model=tiny_model)

    return run


def test_a_run_that_learned_nothing_says_so(
    train: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.1, 0.2])
    monkeypatch.setattr(loop, "compute_mean_spearman", lambda _: next(values))
    with caplog.at_level(logging.WARNING):
        result = train(batch_size=512, num_epochs=2, learning_rate=1e-6, selection="spearman")
    results = json.loads((tmp_path / "run" / RESULTS_NAME).read_text())
    check_result(results)
    assert results == json.loads(json.dumps(result.results))
    assert (results["steps_per_epoch"], results["batch_size"], results["num_rows"]) == (1, 512, 60)
    assert results["still_improving"]
    streams = results["validation"]["score_streams"]
    assert "mean" in streams["worse_than"]
    assert streams["mse"] > streams["baselines"]["mean"]["mse"]
    few, improving, *worse = results["findings"]
    assert few.startswith("an epoch of 60 rows has 1 step at batch size 512, and learns little: leave --batch-size")
    assert few in caplog.text
    assert improving == (
        "the best epoch, 1, is among the last of 2: the run was still improving. Go on with --resume --num-epochs 4."
    )
    assert f"score_streams is worse than always saying the mean of the training labels: MSE {streams['mse']:.4g}" in (
        "\n".join(worse)
    )
    said = format_results(results)
    assert all(f"note: {finding}" in said for finding in results["findings"])
    assert "1 step an epoch at batch size 512" in said
    assert f"{streams['baselines']['median']['mae']:.3f}" in said


def test_a_run_that_learned_has_nothing_to_say(train: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = train(preset="improved", batch_size=None, num_epochs=40, patience=10, loss="equal")
    check_result(result.results)
    assert not caplog.records
    better = [head for head, found in result.results["validation"].items() if not found["worse_than"]]
    assert "score_streams" in better
    assert not any("step" in finding for finding in result.results["findings"])


@pytest.mark.parametrize(
    ("best_epoch", "num_epochs", "planned", "patience", "expected"),
    [
        (49, 50, 50, 20, True),
        (45, 50, 50, 20, True),
        (44, 50, 50, 20, False),
        (47, 50, 50, 2, False),
        (48, 50, 50, 2, True),
        (2, 3, 3, 20, True),
        (1, 3, 3, 20, False),
        (29, 50, 100, 20, False),  # ended by patience
        (49, 50, 100, 20, False),  # still on its way
    ],
)
def test_still_improving(best_epoch: int, num_epochs: int, planned: int, patience: int, expected: bool) -> None:
    arguments = build_arguments(num_epochs=planned, patience=patience)
    assert is_still_improving(best_epoch, num_epochs, arguments) is expected


def test_each_constant_is_held_against_by_its_own_error() -> None:
    baselines = {"mean": {"mse": 4.0, "mae": 1.8}, "median": {"mse": 5.0, "mae": 1.5}}
    assert list_better_constants({"mse": 3.9, "mae": 1.4}, baselines) == []
    assert list_better_constants({"mse": 4.0, "mae": 1.5}, baselines) == []
    assert list_better_constants({"mse": 4.1, "mae": 1.4}, baselines) == ["mean"]
    assert list_better_constants({"mse": 3.9, "mae": 1.6}, baselines) == ["median"]
    assert list_better_constants({"mse": None, "mae": float("nan")}, baselines) == []
    undefined = {"mean": {"mse": None}, "median": {"mae": None}}
    assert list_better_constants({"mse": 9.0, "mae": 9.0}, undefined) == []
    result = {"worse_than": ["median"], "mae": {"value": 23.9}, "baselines": {"median": {"mae": 17.2}}}
    assert describe_better_constants("score_likes", result, "test, 50 songs") == [
        "score_likes is worse than always saying the median of the training labels: MAE 23.9, of the median 17.2 "
        "(test, 50 songs)."
    ]


def test_an_honest_probability_is_not_held_against_a_flat_denial() -> None:
    hits = np.array([[0.0], [0.0], [0.0], [1.0]], np.float32)
    found = {"hit": {"mse": 0.15, "mae": 0.35, "pearson": 0.5, "spearman": float("nan")}}
    result = measure_heads(found, hits, hits)["hit"]
    assert result["baselines"]["median"]["mae"] == 0.25
    assert result["worse_than"] == []
    assert result["spearman"] is None
    worse = measure_heads({"hit": {**found["hit"], "mse": 0.25}}, hits, hits)["hit"]
    assert worse["worse_than"] == ["mean"], "the constant of the squared error is fair to it"


def test_few_steps_are_explained_where_smaller_batches_would_help() -> None:
    assert explain_few_steps(build_arguments(), 413) == []
    assert explain_few_steps(build_arguments(batch_size=16), 413) == []
    assert explain_few_steps(build_arguments(batch_size=8), 30) == [], "no smaller one is taken"
    (sentence,) = explain_few_steps(build_arguments(batch_size=64, gradient_accumulation_steps=4), 413)
    assert "has 2 steps at batch size 64 and 4 batches a step" in sentence
    assert "which takes 17 and has 25" in sentence
