"""Tests: p-values of permutations, the smallest effect, and Holm's correction with enough draws."""

import numpy as np
import pytest

from modeling_apex.statistics.significance import (
    compute_holm_rejections,
    compute_needed_draws,
    compute_permutation_p_values,
    compute_smallest_effect,
)


def test_p_values_count_the_observed_and_both_directions() -> None:
    null = np.arange(99.0)
    assert compute_permutation_p_values(200.0, null) == (0.01, 1.0)
    assert compute_permutation_p_values(-1.0, null) == (1.0, 0.01)
    assert compute_permutation_p_values(98.0 + 1e-12, null) == (0.02, 1.0)  # rounding is no difference
    assert compute_permutation_p_values(np.nan, null) == (None, None)
    assert compute_permutation_p_values(1.0, np.array([np.nan])) == (None, None)


def test_p_values_are_uniform_where_nothing_is_to_be_found() -> None:
    generator = np.random.default_rng(0)
    found = [compute_permutation_p_values(generator.normal(), generator.normal(size=99))[0] for _ in range(1000)]
    assert 0.03 < np.mean(np.array(found) <= 0.05) < 0.07


def test_smallest_effect_is_found_in_four_of_five_cases() -> None:
    null = np.random.default_rng(1).normal(2.0, 0.5, size=4000)
    smallest = compute_smallest_effect(null)
    assert smallest == pytest.approx((1.96 + 0.8416) * 0.5, rel=0.05)
    assert compute_smallest_effect(np.ones(5)) is None


def test_holm() -> None:
    assert compute_holm_rejections([0.04, 0.001, 0.02]) == [True, True, True]
    assert compute_holm_rejections([0.04, 0.03, 0.02]) == [False, False, False]
    assert compute_holm_rejections([], num_draws=0) == []


@pytest.mark.parametrize(("num_tests", "needed"), [(1, 400), (4, 1600), (20, 8000), (24, 9600)])
def test_too_few_draws_for_the_correction_are_refused_with_the_number(num_tests: int, needed: int) -> None:
    assert compute_needed_draws(num_tests) == needed
    assert compute_holm_rejections([1e-9] * num_tests, num_draws=needed) == [True] * num_tests
    with pytest.raises(ValueError, match=rf"needs p-values from at least {needed} draws .*received {needed - 1}\."):
        compute_holm_rejections([1e-9] * num_tests, num_draws=needed - 1)
