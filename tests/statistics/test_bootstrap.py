"""The bootstrap: seeded draws of units, intervals that cover as often as they say, tests of differences."""

import numpy as np
import pytest

from modeling_apex.statistics.bootstrap import (
    compute_bootstrap_p_value,
    compute_holm_rejections,
    compute_interval,
    draw_bootstrap_rows,
    draw_bootstrap_weights,
    summarize_draws,
)
from modeling_apex.statistics.pair_metrics import compute_accuracy


def test_bootstrap_draws_are_seeded_and_can_draw_groups() -> None:
    np.testing.assert_array_equal(draw_bootstrap_weights(9, 4, 7), draw_bootstrap_weights(9, 4, 7))
    assert (draw_bootstrap_weights(9, 4, 7).sum(axis=1) == 9).all()
    grouped = draw_bootstrap_weights(6, 50, 7, groups=np.array([0, 0, 1, 1, 2, 2]))
    np.testing.assert_array_equal(grouped[:, ::2], grouped[:, 1::2])


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        outcomes = (generator.random(150) < 0.6).astype(float)
        draws = compute_accuracy(np.ones(150), outcomes, draw_bootstrap_weights(150, 200, seed))
        summary = summarize_draws(outcomes.mean(), draws)
        covered += summary["low"] <= 0.6 <= summary["high"]
    assert 0.89 <= covered / 200 <= 0.99


def test_p_values_and_holm() -> None:
    assert compute_bootstrap_p_value(np.ones(99)) == pytest.approx(0.02)
    assert compute_bootstrap_p_value(np.array([-1.0, 1.0] * 50)) == 1.0
    assert compute_holm_rejections([0.04, 0.001, 0.02]) == [True, True, True]
    assert compute_holm_rejections([0.04, 0.03, 0.02]) == [False, False, False]
    assert compute_holm_rejections([]) == []


def test_rows_are_those_of_one_seeded_generator() -> None:
    generator = np.random.default_rng(7)
    for rows in draw_bootstrap_rows(12, 3, seed=7):
        np.testing.assert_array_equal(rows, generator.integers(12, size=12))


def test_intervals_are_percentiles_of_the_defined_draws() -> None:
    draws = np.append(np.arange(101.0), np.nan)
    assert compute_interval(draws, 0.9) == pytest.approx((5.0, 95.0))
    assert compute_interval(draws) == pytest.approx((2.5, 97.5))
    assert np.isnan(compute_interval(np.array([np.nan]))).all()


def test_what_is_undefined_is_summarised_as_none() -> None:
    assert summarize_draws(np.nan, np.array([1.0])) == {"estimate": None, "low": None, "high": None}
    assert summarize_draws(1.0, np.array([np.nan])) == {"estimate": 1.0, "low": None, "high": None}
    assert compute_bootstrap_p_value(np.array([np.nan])) is None


@pytest.mark.parametrize("draw", [draw_bootstrap_rows, draw_bootstrap_weights])
def test_there_must_be_something_to_draw(draw) -> None:
    with pytest.raises(ValueError, match="needs items and draws, received 0 items and 1 draws"):
        draw(0, 1, 0)
    with pytest.raises(ValueError, match="needs items and draws, received 1 items and 0 draws"):
        draw(1, 0, 0)
