"""Bradley-Terry strengths against scikit-learn, ties, weights and one-sided battles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from modeling_apex.statistics.bradley_terry import (
    SCALE,
    compute_arena_scores,
    compute_wins,
    find_components,
    fit_bradley_terry,
)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(5, 200))
def test_strengths_agree_with_scikit_learn(seed: int, num_systems: int, num_battles: int) -> None:
    generator = np.random.default_rng(seed)
    indices = np.array([generator.choice(num_systems, 2, replace=False) for _ in range(num_battles)])
    outcomes = generator.choice([0.0, 0.5, 1.0], num_battles)
    outcomes[:2] = [0.0, 1.0]
    rows, labels, weights = [], [], []
    for (first, second), outcome in zip(indices, outcomes, strict=True):
        design = np.zeros(num_systems)
        design[first], design[second] = 1.0, -1.0
        for label, weight in ((1, outcome), (0, 1.0 - outcome)):
            if weight:
                rows.append(design)
                labels.append(label)
                weights.append(weight)
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
    model.fit(np.array(rows), labels, sample_weight=weights)
    strengths = fit_bradley_terry(compute_wins(indices, outcomes, num_systems))
    np.testing.assert_allclose(strengths, model.coef_[0], atol=1e-4)
    assert strengths.sum() == pytest.approx(0.0, abs=1e-8)


def test_newton_survives_one_system_winning_everything() -> None:
    wins = np.zeros((3, 3))
    wins[0, 1:] = 10_000
    strengths = fit_bradley_terry(wins)
    gradient = strengths.copy()
    for i in range(3):
        for j in range(3):
            chance = 1.0 / (1.0 + np.exp(strengths[j] - strengths[i]))
            gradient[i] -= wins[i, j] - (wins[i, j] + wins[j, i]) * chance
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    assert strengths[0] > 0 > strengths[1]


def test_weighted_wins_equal_repeated_battles() -> None:
    indices, outcomes = np.array([[0, 1], [1, 2], [2, 2]]), np.array([1.0, 0.5, 1.0])
    weights = np.array([[2.0, 1.0, 1.0], [0.0, 3.0, 0.0]])
    wins = compute_wins(indices, outcomes, 3, weights)
    assert wins[0, 0, 1] == 2.0
    assert wins[1, 1, 2] == wins[1, 2, 1] == 1.5
    assert wins[:, 2, 2].tolist() == [0.0, 0.0]


def test_arena_scores_are_centred_and_scaled_strengths() -> None:
    indices, outcomes = np.array([[0, 1], [1, 2], [0, 2]]), np.array([1.0, 0.5, 1.0])
    scores = compute_arena_scores(indices, outcomes, 3)
    np.testing.assert_allclose(scores, 1000.0 + SCALE * fit_bradley_terry(compute_wins(indices, outcomes, 3)))
    assert scores.mean() == pytest.approx(1000.0)
    drawn = compute_arena_scores(indices, outcomes, 3, np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(drawn, [scores, [1000.0] * 3])
    assert pytest.approx(173.7178, abs=1e-4) == SCALE


def test_systems_that_no_battle_connects_are_told_apart() -> None:
    indices = np.array([[0, 1], [2, 3], [3, 4], [4, 4], [4, 0], [5, 5], [5, 5], [6, 7]])
    assert find_components(indices[:4], 6).tolist() == [1, 1, 0, 0, 0, 2]
    assert find_components(indices, 8).tolist() == [0, 0, 0, 0, 0, 2, 1, 1]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="must be square"):
        fit_bradley_terry(np.ones((2, 3)))
    with pytest.raises(ValueError, match="finite counts of at least zero"):
        fit_bradley_terry(-np.ones((2, 2)))
