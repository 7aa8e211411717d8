"""The comparison of models: paired draws, undefined metrics, and sentences that follow the numbers."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent


@pytest.fixture
def compare_models(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import compare_models

    return compare_models


@pytest.fixture
def songs() -> tuple[np.ndarray, np.ndarray]:
    """Labels `(120, 2)` and artists of 4 songs each."""
    popularity = np.random.default_rng(0).uniform(0, 100, 120)
    return np.stack([popularity, popularity >= 50], axis=1), np.repeat(np.arange(30), 4).astype(str)


def test_draws_are_paired_over_seeds_and_artists(compare_models: Any, songs: tuple[np.ndarray, np.ndarray]) -> None:
    labels, artists = songs
    generator = np.random.default_rng(1)

    def predict(noise: float) -> Any:
        popularity = np.clip(labels[:, 0] + noise * generator.standard_normal(len(labels)), 0, 100)
        return compare_models.Predictor({"test": np.stack([popularity, popularity / 100], axis=1)}, 1)

    runs = [predict(20) for _ in range(3)]
    models = {"one": runs, "same": runs, "worse": [predict(60) for _ in range(3)]}
    drawn = compare_models.draw_metrics(models, labels, artists, "test", 40)
    assert drawn["one"]["spearman"].shape == (41,)
    np.testing.assert_array_equal(drawn["one"]["spearman"], drawn["same"]["spearman"])
    difference = compare_models.summarize(drawn["one"]["spearman"] - drawn["worse"]["spearman"])
    assert 0 < difference["low"] < difference["value"] < difference["high"]
    each = [compare_models.compute_metrics(run.scores["test"], labels)["mae"] for run in runs]
    assert drawn["one"]["mae"][0] == pytest.approx(np.mean(each))


def test_a_constant_ranks_nothing_and_calls_no_hit(compare_models: Any, songs: tuple[np.ndarray, np.ndarray]) -> None:
    labels, artists = songs
    constant = compare_models.Predictor({"test": np.tile([50.0, 0.3], (len(labels), 1))}, 2)
    drawn = compare_models.draw_metrics({"mean": [constant]}, labels, artists, "test", 10)["mean"]
    assert compare_models.summarize(drawn["spearman"])["value"] == 0.0
    assert compare_models.summarize(drawn["f1"])["value"] == 0.0
    assert compare_models.summarize(drawn["precision"]) == {"value": None, "low": None, "high": None}


def test_the_sentence_about_leaks_follows_the_numbers(compare_models: Any) -> None:
    import update_readme

    result = json.loads((BENCHMARKS / "results" / "models.json").read_text(encoding="utf-8"))
    name = "fused CNN, with leaking features minus fused CNN, without leaking features"
    turned = copy.deepcopy(result)
    turned["differences"][name]["test"]["f1"] = {"value": 0.1, "low": -0.1, "high": 0.3}
    assert "is not told apart from chance" in update_readme.describe_leaking_features(turned)
    turned["differences"][name]["test"]["f1"] = {"value": 0.2, "low": 0.1, "high": 0.3}
    text = update_readme.describe_leaking_features(turned)
    assert "0.20 of F1 (0.10 to 0.30) came from features that no unpublished song has" in text
    share = result["songs"]["test"]["hit_share"]
    assert f"calling every song a hit {2 * share / (1 + share):.2f}" in text
