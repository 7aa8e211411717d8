"""Calibration: bins that are right at their edges, what luck alone shows, and intervals that reach down to it."""

import numpy as np
import pytest

from modeling_apex.statistics.bootstrap import draw_resamples
from modeling_apex.statistics.calibration import (
    compute_calibrated_errors,
    compute_calibration_bins,
    compute_calibration_error,
    find_bins,
    summarize_calibration,
)


def test_calibration() -> None:
    outcomes = np.array([1.0, 0.0, 0.0, 0.0, 0.5])
    assert compute_calibration_error(np.full(5, 0.25), outcomes)[0] == pytest.approx(0.0)
    assert compute_calibration_error(np.full(5, 0.75), outcomes)[0] == pytest.approx(0.5)
    assert sum(b["weight"] for b in compute_calibration_bins(np.linspace(0, 1, 5), outcomes)) == pytest.approx(1.0)


def test_two_sure_and_wrong_predictions_are_as_wrong_as_they_are_sure() -> None:
    """A list compared with a number once chose no battle at all, and no battle had no error."""
    assert compute_calibration_error([0.9, 0.9], [0, 0])[0] == pytest.approx(0.9)  # type: ignore[arg-type]
    assert compute_calibration_bins([0.9, 0.9], [0, 0])[0]["weight"] == 1.0  # type: ignore[arg-type]


def test_tenths_begin_at_their_edges_however_they_are_rounded() -> None:
    edges = np.array([number / 10 for number in range(11)])
    assert find_bins(edges).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert find_bins(0.1 + 0.2 * np.ones(1)).tolist() == find_bins(np.array([0.3])).tolist() == [3]
    assert find_bins(1.0 - 0.9 * np.ones(1)).tolist() == [1]  # 0.09999999999999998


def test_ties_alone_have_no_error() -> None:
    assert np.isnan(compute_calibration_error(np.full(3, 0.7), np.full(3, 0.5))[0])
    summary = summarize_calibration(np.full(3, 0.7), np.full(3, 0.5), draw_resamples(3, 10, 0))
    assert summary["estimate"] is None
    assert summary["reason"] == "no battle has a winner"


def test_weights_equal_repeating_battles() -> None:
    generator = np.random.default_rng(0)
    chances, outcomes = generator.random(30), generator.integers(0, 2, 30).astype(float)
    weights = draw_resamples(30, 4, 1).weights
    for draw, value in zip(weights.astype(int), compute_calibration_error(chances, outcomes, weights), strict=True):
        rows = np.repeat(np.arange(30), draw)
        assert value == pytest.approx(compute_calibration_error(chances[rows], outcomes[rows])[0])


def test_a_calibrated_head_is_told_from_luck_and_a_sure_one_is_not() -> None:
    generator = np.random.default_rng(3)
    chances = 1 / (1 + np.exp(-generator.normal(size=252)))
    outcomes = (generator.random(252) < chances).astype(float)
    resamples = draw_resamples(252, 200, 0)
    calibrated = summarize_calibration(chances, outcomes, resamples)
    assert calibrated["expected_if_calibrated"] == pytest.approx(compute_calibrated_errors(chances).mean())
    assert 0.04 < calibrated["expected_if_calibrated"] < 0.09  # never zero: 252 battles, ten bins
    assert (calibrated["low"], calibrated["is_beyond_luck"]) == (0.0, False)
    sure = summarize_calibration(np.where(chances > 0.5, 0.99, 0.01), outcomes, resamples)
    assert sure["is_beyond_luck"]
    assert 0.1 < sure["low"] < sure["estimate"] <= sure["high"]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        compute_calibration_bins(np.array([1.2]), np.array([1.0]))
    with pytest.raises(ValueError, match="equally long"):
        compute_calibration_error(np.array([0.2, 0.3]), np.array([1.0]))
