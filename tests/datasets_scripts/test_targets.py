"""Popularity targets: hand-worked cases, then properties that hold for any counts."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from datasets_scripts.targets import (
    compute_percentile_ranks,
    compute_popularity_scores,
    compute_popularity_targets,
)
from modeling_apex.inference.song_report_apex import compute_percentile

counts = st.lists(st.integers(0, 10**12) | st.integers(0, 5), min_size=1, max_size=60)


def test_percentiles_of_a_hand_worked_case():
    # Ranks of 3, 0, 3, 10, 1 are 3.5, 1, 3.5, 5, 2; a percentile is 100 * (rank - 0.5) / 5.
    assert compute_percentile_ranks([3, 0, 3, 10, 1]).tolist() == [60.0, 10.0, 60.0, 90.0, 30.0]


def test_percentiles_are_taken_per_platform():
    percentiles = compute_percentile_ranks([1, 2, 1000, 2000], ["udio", "udio", "suno", "suno"])
    assert percentiles.tolist() == [25.0, 75.0, 25.0, 75.0]


def test_scores_of_the_published_transform():
    # 80th percentile: 50 by definition. Median: 100 * 2 ** -alpha, 11.6 in round numbers.
    scores = compute_popularity_scores([0.0, 50.0, 80.0, 100.0])
    assert scores == pytest.approx([0.0, 11.612, 50.0, 100.0], abs=5e-4)


def test_targets_compose_rank_and_transform():
    targets = compute_popularity_targets([5, 7], ["a", "a"])
    assert targets == pytest.approx(compute_popularity_scores([25.0, 75.0]))
    targets = compute_popularity_targets([5, 7, 9, 900], ["a", "a", "b", "b"])
    assert targets == pytest.approx(compute_popularity_scores([25.0, 75.0, 25.0, 75.0]))


def test_scores_are_computed_in_float64():
    third = np.array([100 / 3], np.float32)
    assert compute_popularity_scores(third).dtype == np.float64


@given(counts)
@example([0])
@example([0, 0, 7, 7, 2**60])
@settings(max_examples=50, deadline=None)
def test_percentiles_agree_with_scipy_and_average_fifty(values):
    percentiles = compute_percentile_ranks(values)
    assert percentiles == pytest.approx(100 * (rankdata(values, method="average") - 0.5) / len(values))
    assert percentiles.mean() == pytest.approx(50.0)


@given(counts)
@settings(max_examples=50, deadline=None)
def test_targets_are_monotone_in_the_counts(values):
    targets = compute_popularity_targets(values)
    order = np.argsort(values, kind="stable")
    sorted_values, sorted_targets = np.asarray(values)[order], targets[order]
    steps = np.diff(sorted_targets)
    assert np.all(steps[np.diff(sorted_values) > 0] > 0)
    assert np.all(steps[np.diff(sorted_values) == 0] == 0)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0.5, 5))
@settings(max_examples=50, deadline=None)
def test_reports_invert_the_transform(percentiles, exponent):
    scores = compute_popularity_scores(percentiles, exponent=exponent)
    assert np.all((scores >= 0) & (scores <= 100))
    assert [compute_percentile(score, exponent) for score in scores] == pytest.approx(percentiles, abs=1e-9)


def test_no_songs_have_no_percentiles():
    assert compute_percentile_ranks(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compute_percentile_ranks([[1, 2]]), r"one-dimensional, got shape \(1, 2\)"),
        (lambda: compute_percentile_ranks([1, -1]), "^`counts` must be finite and not negative: .* ranking them.$"),
        (lambda: compute_percentile_ranks([1.0, float("nan")]), "finite and not negative"),
        (lambda: compute_percentile_ranks([1, 2], ["a"]), r"shape \(1,\) but `counts` has \(2,\)"),
        (lambda: compute_popularity_scores([100.5]), "`percentiles` must lie between 0 and 100"),
        (lambda: compute_popularity_scores([float("nan")]), "`percentiles` must lie between 0 and 100"),
        (lambda: compute_popularity_scores([-1.0]), "`percentiles` must lie between 0 and 100"),
        (lambda: compute_popularity_scores([1.0], exponent=0.0), "`exponent` must be a positive number, got 0.0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
