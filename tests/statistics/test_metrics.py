"""The metrics against scipy, and as an `evaluate` module."""

import warnings
from pathlib import Path

import evaluate
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import modeling_apex.statistics.evaluate_modules
from modeling_apex.statistics.bootstrap import compute_interval, draw_bootstrap_weights
from modeling_apex.statistics.metrics import (
    METRICS,
    compute_baseline,
    compute_bootstrap_intervals,
    compute_head_metrics,
    compute_head_results,
    compute_mean_spearman,
    compute_metrics,
    compute_mse,
    compute_pearson,
    compute_spearman,
    select_labelled,
    summarize_metrics,
)

MODULE = Path(modeling_apex.statistics.evaluate_modules.__file__).parent / "apex_regression"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
@settings(max_examples=40, deadline=None)
def test_rank_correlation_shares_ties_as_scipy_does(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, dtype=float).T
    varies = len(set(first)) > 1 and len(set(second)) > 1
    expected = scipy.stats.spearmanr(first, second).statistic if varies else float("nan")
    assert compute_spearman(first, second) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_rank_correlations_are_taken_along_the_last_axis() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, (6, 8)), generator.normal(size=(6, 8))
    expected = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(first, second, strict=True)]
    np.testing.assert_allclose(compute_spearman(first, second), expected)
    assert np.isnan(compute_spearman(np.ones(4), np.arange(4)))


def test_metrics_equal_scipy_over_labelled_songs() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 9, 50).astype(float)
    scores = labels + 3 * generator.normal(size=50)
    metrics = compute_metrics(np.append(scores, 1.0), np.append(labels, np.nan))
    assert metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(scores, labels).statistic)
    assert metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(scores, labels).statistic)
    assert metrics["mse"] == pytest.approx(np.mean((scores - labels) ** 2))
    assert metrics["mae"] == pytest.approx(np.mean(np.abs(scores - labels)))


def test_intervals_hold_the_value_and_narrow_with_more_songs() -> None:
    generator = np.random.default_rng(1)
    labels = generator.normal(size=400)
    scores = labels + generator.normal(size=400)
    widths = []
    for count in (40, 400):
        intervals = compute_bootstrap_intervals(scores[:count], labels[:count], num_draws=200)
        value = compute_metrics(scores[:count], labels[:count])["spearman"]
        low, high = intervals["spearman"]
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_a_constant_prediction_ranks_nothing() -> None:
    labels = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan]])
    metrics = compute_head_metrics(np.full((3, 2), 2.0), labels, ["known", "unknown"])
    assert np.isnan(metrics["known"]["spearman"])
    assert np.isnan(metrics["unknown"]["mse"])
    assert compute_mean_spearman(metrics) == 0.0
    assert np.isnan(compute_mean_spearman({"unknown": metrics["unknown"]}))


def test_baselines_of_uniform_percentiles_are_the_known_ones() -> None:
    """METHOD: the mean of transformed uniform percentiles has MSE 793 and MAE 23.4, the median MAE 21.5."""
    scores = 100 * np.linspace(0, 1, 200_001) ** (np.log(0.5) / np.log(0.8))
    assert compute_baseline(scores, scores, "mean")["mse"] == pytest.approx(793, abs=1)
    assert compute_baseline(scores, scores, "mean")["mae"] == pytest.approx(23.4, abs=0.1)
    assert compute_baseline(scores, scores, "median")["mae"] == pytest.approx(21.5, abs=0.1)


def test_mean_spearman_averages_the_heads_that_have_labels() -> None:
    metrics = {
        "good": {"mse": 1.0, "spearman": 0.75},
        "constant": {"mse": 2.0, "spearman": float("nan")},
        "unlabelled": {"mse": float("nan"), "spearman": float("nan")},
    }
    assert compute_mean_spearman(metrics) == 0.375
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(compute_mean_spearman({}))


def test_a_baseline_by_hand() -> None:
    labels, training = np.array([1.0, np.nan, 4.0]), np.array([1.0, 2.0, 6.0, np.nan])
    assert compute_baseline(labels, training, "mean") == {"value": 3.0, "mse": 2.5, "mae": 1.5}
    assert compute_baseline(labels, training, "median") == {"value": 2.0, "mse": 2.5, "mae": 1.5}


def test_results_hold_values_intervals_and_baselines() -> None:
    generator = np.random.default_rng(2)
    labels = generator.normal(size=30)
    scores, training = labels + generator.normal(size=30), generator.normal(size=50)
    results = compute_head_results(scores, labels, training, num_draws=20)
    expected = compute_bootstrap_intervals(scores, labels, num_draws=20, seed=0)
    for name, value in compute_metrics(scores, labels).items():
        low, high = expected[name]
        assert results[name] == {"value": value, "low": low, "high": high}
    assert results["resampled"] == {"unit": "song", "num_units": {"song": 30}}
    assert results["baselines"]["mean"] == compute_baseline(labels, training, "mean")
    assert results["baselines"]["median"] == compute_baseline(labels, training, "median")
    assert compute_head_results(scores, labels, training, num_draws=20, seed=1)["mse"]["low"] != results["mse"]["low"]


def test_draws_equal_the_metrics_of_the_songs_that_were_drawn() -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 6, 12).astype(float)
    scores = labels + generator.normal(size=12).round(1)
    weights = draw_bootstrap_weights(12, 25, seed=7)
    for name, metric in METRICS.items():
        drawn = metric(scores, labels, weights)
        for row, counts in enumerate(weights.astype(int)):
            rows = np.repeat(np.arange(12), counts)
            assert drawn[row] == pytest.approx(metric(scores[rows], labels[rows]), nan_ok=True), name


def test_intervals_are_those_of_seeded_resamples() -> None:
    generator = np.random.default_rng(3)
    labels = generator.normal(size=12)
    scores = labels + generator.normal(size=12)
    errors = compute_mse(scores, labels, draw_bootstrap_weights(12, 25, seed=7))
    expected = compute_interval(errors, estimate=compute_mse(scores, labels), num_units=12)
    assert compute_bootstrap_intervals(scores, labels, num_draws=25, seed=7)["mse"] == pytest.approx(expected)
    by_default = compute_bootstrap_intervals(scores, labels)
    assert by_default == compute_bootstrap_intervals(scores, labels, num_draws=1000, seed=0)
    assert by_default["mse"] != compute_bootstrap_intervals(scores, labels, num_draws=999)["mse"]


def test_intervals_at_the_edge_of_what_is_defined() -> None:
    assert np.isnan(compute_bootstrap_intervals([1.0, 2.0], [1.0, np.nan])["mse"]).all()
    constant = compute_bootstrap_intervals([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], num_draws=10)
    assert np.isnan(constant["pearson"]).all()
    assert constant["mae"][1] > 0


@given(st.floats(-1e6, 1e6, allow_nan=False), st.integers(3, 40))
@settings(max_examples=60, deadline=None)
def test_constants_have_no_correlation_whatever_they_are(constant: float, count: int) -> None:
    for varied in (np.arange(count, dtype=float), np.random.default_rng(count).normal(size=count)):
        assert np.isnan(compute_pearson(np.full(count, constant), varied))
        weights = draw_bootstrap_weights(count, 3, seed=1)
        assert np.isnan(compute_pearson(np.full(count, constant), varied, weights)).all()


def test_three_equal_predictions_and_two_songs_say_why_nothing_is_defined() -> None:
    constant = summarize_metrics([0.1, 0.1, 0.1], [1.0, 2.0, 3.0], num_draws=20)
    assert constant["pearson"]["value"] is None
    assert constant["pearson"]["reason"] == "the scores do not vary, so no correlation is defined"
    labels = summarize_metrics([1.0, 2.0, 3.0], [0.7, 0.7, 0.7], num_draws=20)
    assert labels["spearman"]["reason"] == "the labels do not vary, so no correlation is defined"
    two = summarize_metrics([1.0, 2.0], [3.0, 5.0], num_draws=20)
    for name in ("pearson", "spearman"):
        assert two[name]["value"] is two[name]["low"] is two[name]["high"] is None
        assert two[name]["reason"] == "2 songs have a label, and a correlation needs at least 3"
    assert two["mae"]["value"] == 2.5


def test_intervals_that_draw_artists_cover_where_those_of_songs_do_not() -> None:
    """STATISTICS 3: 40 artists of 10 songs, half of the variance between them."""
    truth, covered = 6 / np.pi * np.arcsin(0.5 / np.sqrt(1.25) / 2), {"song": 0, "artist": 0}
    artists = np.repeat(np.arange(40), 10)
    for seed in range(100):
        generator = np.random.default_rng(seed)
        labels, noise = (
            np.sqrt(0.5) * (generator.normal(size=40)[artists] + generator.normal(size=400)) for _ in "ab"
        )
        for unit, groups in (("song", None), ("artist", {"artist": artists})):
            found = summarize_metrics(0.5 * labels + noise, labels, num_draws=100, seed=seed, groups=groups)
            covered[unit] += found["spearman"]["low"] <= truth <= found["spearman"]["high"]
            assert found["resampled"]["unit"] == unit
    assert covered["song"] < 85
    assert covered["artist"] >= 88


def test_correlations_do_not_depend_on_units_and_kinds() -> None:
    small = 1e-3 * np.arange(4)
    assert compute_metrics(small, small)["pearson"] == pytest.approx(1.0)
    unsigned = compute_metrics(np.array([1, 2, 3], np.uint8), np.array([3, 2, 1], np.uint8))
    assert unsigned == compute_metrics([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])
    selected = select_labelled(np.array([1, 2], np.uint8), np.array([0, 1], np.uint8))
    assert [values.dtype for values in selected] == [np.float64, np.float64]
    assert compute_metrics(np.array([1, 2], np.float32) / 3, [0.0, 1.0])["mse"] == pytest.approx(1 / 9, rel=1e-6)


def test_results_name_what_is_not_defined() -> None:
    results = compute_head_results(np.array([1.0, 2.0]), np.array([np.nan] * 2), np.array([np.nan]), num_draws=5)
    assert results["num_songs"] == 0
    expected = {"value": None, "low": None, "high": None, "reason": "no song has a label"}
    assert results["spearman"] == results["mse"] == expected
    assert results["baselines"]["mean"] == {"value": None, "mse": None, "mae": None}


def test_refusals() -> None:
    with pytest.raises(ValueError, match="must be one-dimensional and of one length"):
        compute_metrics([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="1 predictions are NaN or infinite"):
        compute_metrics([1.0, float("nan"), 3.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="needs items and draws, received 2 items and 0 draws"):
        compute_bootstrap_intervals([1.0, 2.0], [1.0, 2.0], num_draws=0)
    with pytest.raises(ValueError, match="a baseline is one of mean, median, got 'mode'"):
        compute_baseline(np.ones(2), np.ones(2), "mode")


def test_evaluate_loads_the_folder_offline() -> None:
    metric = evaluate.load(str(MODULE))
    predictions, references = [1.0, 2.0, 2.5, 4.0], [1.0, 2.0, 3.0, 3.5]
    results = metric.compute(predictions=predictions, references=references, num_draws=20)
    assert {name: results[name] for name in ("mse", "mae", "pearson", "spearman")} == pytest.approx(
        compute_metrics(predictions, references)
    )
    assert results["mse_low"] <= results["mse"] <= results["mse_high"]
    assert all(type(value) is float for value in results.values())
