"""Hits: the metrics beside scikit-learn's, trivial predictions, refusals."""

import json

import numpy as np
import pytest
from sklearn import metrics

from modeling_apex.statistics.hit_metrics import HIT_METRICS, compute_hit_metrics, compute_hit_results


@pytest.fixture
def songs() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    truth = (generator.random(200) < 0.3).astype(float)
    return np.clip(0.3 * truth + 0.35 + 0.2 * generator.standard_normal(200), 0, 1).round(2), truth


def test_metrics_equal_those_of_scikit_learn(songs: tuple[np.ndarray, np.ndarray]) -> None:
    chances, truth = songs
    called = chances >= 0.5
    ours = {name: float(value[0]) for name, value in compute_hit_metrics(chances, truth).items()}
    assert set(ours) == set(HIT_METRICS)
    assert ours["f1"] == pytest.approx(metrics.f1_score(truth, called))
    assert ours["weighted_f1"] == pytest.approx(metrics.f1_score(truth, called, average="weighted"))
    assert ours["precision"] == pytest.approx(metrics.precision_score(truth, called))
    assert ours["recall"] == pytest.approx(metrics.recall_score(truth, called))
    assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(truth, called))
    assert ours["auc"] == pytest.approx(metrics.roc_auc_score(truth, chances))


def test_weights_are_repetitions(songs: tuple[np.ndarray, np.ndarray]) -> None:
    chances, truth = songs
    weights = np.random.default_rng(0).integers(0, 3, (2, len(truth))).astype(float)
    drawn = compute_hit_metrics(chances, truth, weights)
    for row in range(2):
        rows = np.repeat(np.arange(len(truth)), weights[row].astype(int))
        again = compute_hit_metrics(chances[rows], truth[rows])
        for name in HIT_METRICS:
            assert drawn[name][row] == pytest.approx(again[name][0]), name


def test_results_stand_beside_trivial_predictions(songs: tuple[np.ndarray, np.ndarray]) -> None:
    chances, truth = songs
    labels = np.where(np.arange(len(truth)) < 5, np.nan, truth)
    results = compute_hit_results(chances, labels, threshold=50, num_draws=50, groups={"artist": np.arange(200) // 4})
    share = float(truth[5:].mean())
    assert results["num_songs"] == 195
    assert results["hit_share"] == pytest.approx(share)
    assert results["resampled"] == {"unit": "artist", "num_units": {"artist": 49}}
    assert results["f1"]["low"] < results["f1"]["estimate"] < results["f1"]["high"]
    assert results["baselines"]["majority_class"] == {
        "predicts_hit": 0.0,
        "f1": 0.0,
        "weighted_f1": pytest.approx((1 - share) * 2 * (1 - share) / (2 - share)),
        "accuracy": pytest.approx(1 - share),
    }
    assert results["baselines"]["all_hits"]["f1"] == pytest.approx(2 * share / (1 + share))
    assert json.loads(json.dumps(results)) == results


def test_undefined_metrics_are_none() -> None:
    results = compute_hit_results([0.1, 0.2], [1.0, 0.0], threshold=50, num_draws=5)
    assert results["precision"]["estimate"] is None
    assert results["f1"]["estimate"] == 0.0
    assert compute_hit_results([0.1], [np.nan], threshold=50, num_draws=5)["hit_share"] is None


def test_all_right_is_not_certain() -> None:
    results = compute_hit_results([0.9] * 10 + [0.1] * 10, [1.0] * 10 + [0.0] * 10, threshold=50, num_draws=50)
    assert results["accuracy"]["low"] == pytest.approx(0.8389, abs=1e-4)
    assert results["precision"]["low"] == results["recall"]["low"] == pytest.approx(0.7225, abs=1e-4)
    assert results["f1"] == {
        "estimate": 1.0,
        "low": None,
        "high": None,
        "reason": "every resample gives the same value",
    }


@pytest.mark.parametrize(
    ("chances", "truth", "message"),
    [
        ([0.1, 0.2], [1.0], "must be one-dimensional, of one length"),
        ([1.2], [1.0], "probabilities must lie between 0 and 1"),
        ([np.nan], [1.0], "probabilities must lie between 0 and 1"),
        ([0.5], [0.5], "hits are 1 or 0, got other values"),
    ],
)
def test_refusals(chances: list, truth: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_hit_metrics(chances, truth)
