"""The bootstrap: seeded draws of units, intervals that cover as often as they say and never exclude their estimate."""

import numpy as np
import pytest
from scipy.stats import binomtest

from modeling_apex.statistics.bootstrap import (
    NO_SPREAD,
    compute_interval,
    draw_bootstrap_weights,
    draw_resamples,
    summarize_draws,
)
from modeling_apex.statistics.pair_metrics import compute_accuracy
from modeling_apex.statistics.shares import compute_wilson_interval


def test_bootstrap_draws_are_seeded_and_can_draw_groups() -> None:
    np.testing.assert_array_equal(draw_bootstrap_weights(9, 4, 7), draw_bootstrap_weights(9, 4, 7))
    assert (draw_bootstrap_weights(9, 4, 7).sum(axis=1) == 9).all()
    grouped = draw_bootstrap_weights(6, 50, 7, groups=np.array([0, 0, 1, 1, 2, 2]))
    np.testing.assert_array_equal(grouped[:, ::2], grouped[:, 1::2])


def test_weights_are_those_of_one_seeded_generator() -> None:
    expected = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=3)
    np.testing.assert_array_equal(draw_bootstrap_weights(12, 3, seed=7), expected)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        outcomes = (generator.random(150) < 0.6).astype(float)
        draws = compute_accuracy(np.ones(150), outcomes, draw_bootstrap_weights(150, 200, seed))
        summary = summarize_draws(outcomes.mean(), draws)
        covered += summary["low"] <= 0.6 <= summary["high"]
    assert 0.89 <= covered / 200 <= 0.99


def measure_coverage_of_means(prompts: np.ndarray, users: np.ndarray, units: tuple[str, ...]) -> float:
    """How often an interval of a mean covers zero, where prompts and users each move all their battles."""
    named, covered = {"prompt": prompts, "user": users}, 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        values = generator.normal(size=prompts.max() + 1)[prompts] + generator.normal(size=users.max() + 1)[users]
        values = values + generator.normal(size=len(values))
        resamples = draw_resamples(len(values), 200, seed, {name: named[name] for name in units}, item="battle")
        draws = resamples.weights @ values / resamples.weights.sum(axis=1)
        summary = resamples.summarize(float(values.mean()), draws)
        covered += summary["low"] <= 0.0 <= summary["high"]
    return covered / 200


def test_two_crossed_units_are_both_drawn() -> None:
    generator = np.random.default_rng(1)
    prompts, users = generator.integers(0, 30, 600), generator.integers(0, 30, 600)
    assert measure_coverage_of_means(prompts, users, ()) < 0.7
    assert 0.9 <= measure_coverage_of_means(prompts, users, ("prompt", "user")) <= 0.98


def test_results_name_the_unit_and_how_many_there_were() -> None:
    prompts, users = np.arange(12) // 2, np.arange(12) % 4
    assert draw_resamples(12, 10, 0, {"prompt": prompts}).describe() == {"unit": "prompt", "num_units": {"prompt": 6}}
    both = draw_resamples(12, 10, 0, {"prompt": prompts, "user": users})
    assert both.describe() == {"unit": "user and prompt", "num_units": {"user": 4, "prompt": 6}}
    assert both.weights.shape == (30, 12)
    assert draw_resamples(12, 10, 0, item="battle").describe()["num_units"] == {"battle": 12}


def test_a_unit_that_never_repeats_is_no_unit_and_one_within_another_is_drawn_with_it() -> None:
    assert draw_resamples(12, 10, 0, {"prompt": np.arange(12)}).describe()["unit"] == "song"
    nested = draw_resamples(12, 10, 0, {"prompt": np.arange(12) // 2, "user": np.arange(12) // 4})
    assert nested.describe() == {"unit": "user", "num_units": {"user": 3}}


def test_intervals_are_percentiles_of_the_defined_draws() -> None:
    draws = np.append(np.arange(101.0), np.nan)
    assert compute_interval(draws, 0.9) == pytest.approx((5.0, 95.0))
    assert compute_interval(draws) == pytest.approx((2.5, 97.5))
    assert np.isnan(compute_interval(np.array([np.nan]))).all()


def test_an_interval_is_corrected_for_bias_and_wider_for_few_units() -> None:
    draws = np.random.default_rng(0).normal(size=2000)
    low, high = compute_interval(draws, estimate=0.5)
    assert low > compute_interval(draws)[0] + 0.5
    assert high > compute_interval(draws)[1] + 0.5
    few, many = (compute_interval(draws, estimate=0.0, num_units=number) for number in (5, 500))
    assert few[0] < many[0] - 0.3
    assert few[1] > many[1] + 0.3


@pytest.mark.parametrize("method", ["bias_corrected", "joined", "mirrored"])
@pytest.mark.parametrize("estimate", [-9.0, 0.0, 9.0])
def test_no_interval_excludes_its_own_estimate(method: str, estimate: float) -> None:
    draws = np.random.default_rng(0).normal(size=200)
    low, high = compute_interval(draws, estimate=estimate, method=method)
    assert low <= estimate <= high


def test_what_noise_pulled_down_twice_is_taken_up_again() -> None:
    draws = np.random.default_rng(0).normal(0.6, 0.05, size=2000)  # of an estimate that noise pulled down to 0.8
    low, high = compute_interval(draws, estimate=0.8, method="joined")
    assert low == pytest.approx(0.5, abs=0.01)
    assert high == pytest.approx(0.8 + (0.8 - 0.5), abs=0.01)


def test_wilson_interval_of_a_share() -> None:
    for right in (0, 7, 20):
        expected = binomtest(right, 20).proportion_ci(method="wilson")
        assert compute_wilson_interval(right / 20, 20) == pytest.approx((expected.low, expected.high))
    assert compute_wilson_interval(1.0, 20)[0] == pytest.approx(0.8389, abs=1e-4)
    assert np.isnan(compute_wilson_interval(0.5, 0)).all()


def test_twenty_of_twenty_is_not_certain() -> None:
    resamples = draw_resamples(20, 100, 0, item="battle")
    summary = resamples.summarize_share(1.0, np.ones(100), 20)
    assert summary["low"] == pytest.approx(0.8389, abs=1e-4)
    assert summary["high"] == 1.0
    by_five = draw_resamples(20, 100, 0, {"prompt": np.arange(20) // 4})
    assert by_five.summarize_share(1.0, np.ones(100), 20)["low"] == pytest.approx(compute_wilson_interval(1, 5)[0])


def test_a_share_over_groups_counts_as_fewer_items() -> None:
    outcomes = np.repeat([1.0, 0.0, 1.0, 1.0], 25)
    resamples = draw_resamples(100, 400, 0, {"user": np.arange(100) // 25})
    draws = resamples.weights @ outcomes / resamples.weights.sum(axis=1)
    wide, narrow = resamples.summarize_share(0.75, draws, 100), compute_wilson_interval(0.75, 100)
    assert wide["high"] - wide["low"] > 3 * (narrow[1] - narrow[0])


def test_what_is_undefined_is_none_with_a_reason() -> None:
    undefined = summarize_draws(np.nan, np.array([1.0]))
    assert undefined == {"estimate": None, "low": None, "high": None, "reason": "not defined on these items"}
    assert summarize_draws(1.0, np.array([np.nan]))["reason"] == "not defined on any resample"
    assert summarize_draws(1.0, np.ones(9)) == {"estimate": 1.0, "low": None, "high": None, "reason": NO_SPREAD}
    alone = draw_resamples(4, 20, 0, {"artist": np.zeros(4)})
    for summary in (alone.summarize(0.5, np.arange(20.0)), alone.summarize_share(0.5, np.arange(20.0), 4)):
        assert summary["low"] is None
        assert summary["reason"] == "only 1 unit to resample, and 2 are needed"
    assert alone.summarize_share(np.nan, np.arange(20.0), 4)["estimate"] is None


def test_refusals() -> None:
    with pytest.raises(ValueError, match="needs items and draws, received 0 items and 1 draws"):
        draw_bootstrap_weights(0, 1, 0)
    with pytest.raises(ValueError, match="needs items and draws, received 1 items and 0 draws"):
        draw_bootstrap_weights(1, 0, 0)
    with pytest.raises(ValueError, match=r"one or two, each with 3 values, received \{'artist': 2\}"):
        draw_resamples(3, 5, 0, {"artist": [1, 2]})
    with pytest.raises(ValueError, match="`method` is 'percentile'"):
        compute_interval(np.ones(3), method="percentile")
