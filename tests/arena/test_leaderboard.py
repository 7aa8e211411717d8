"""Bradley-Terry leaderboards against scikit-learn, ties, BOTH_BAD and the vote limit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from modeling_apex.arena.leaderboard import (
    SCALE,
    compute_leaderboard,
    compute_leaderboards,
    compute_rank_correlation,
    compute_wins,
    fit_bradley_terry,
)

from simulated_battles import build_table


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


def test_rank_correlation_agrees_with_scipy() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, (6, 8)), generator.normal(size=(6, 8))
    expected = [spearmanr(x, y).statistic for x, y in zip(first, second, strict=True)]
    np.testing.assert_allclose(compute_rank_correlation(first, second), expected)
    assert np.isnan(compute_rank_correlation(np.ones(4), np.arange(4)))


def test_leaderboard_finds_the_stronger_system_and_ignores_both_bad() -> None:
    table = build_table(400, system_effect=1.0, tie_share=0.1, both_bad_share=0.2)
    board = compute_leaderboard(table, num_draws=100)
    again = compute_leaderboard(table.select(table.is_voted), num_draws=100)
    assert board == again
    scores = [entry["human"]["estimate"] for entry in board["systems"]]
    assert scores == sorted(scores, reverse=True)
    strengths = np.random.default_rng(0).normal(size=5)
    names = [f"system-{index}" for index in np.argsort(-strengths)]
    assert board["systems"][0]["system"] == names[0]
    assert board["systems"][-1]["system"] == names[-1]
    assert all(e["human"]["low"] <= e["human"]["estimate"] <= e["human"]["high"] for e in board["systems"])
    assert np.mean(scores) == pytest.approx(1000.0)


def test_a_tie_is_half_a_win_for_each() -> None:
    table = build_table(100, num_systems=2)
    tied = table.select(np.arange(100))
    tied.preferences[:] = "TIE"
    board = compute_leaderboard(tied, num_draws=100)
    assert [entry["human"]["estimate"] for entry in board["systems"]] == pytest.approx([1000.0, 1000.0])
    assert board["num_ties"] == 100


def test_swapping_sides_changes_nothing() -> None:
    table = build_table(300, system_effect=0.7, tie_share=0.1)
    margins = table.scores[:, 0, 0] - table.scores[:, 1, 0]
    board = compute_leaderboard(table, {"rule": margins}, num_draws=100)
    swapped = compute_leaderboard(table.swap_sides(), {"rule": -margins}, num_draws=100)
    for entry, other in zip(board["systems"], swapped["systems"], strict=True):
        for source in ("human", "rule"):
            for key in ("estimate", "low", "high"):
                assert other[source][key] == pytest.approx(entry[source][key])


def test_votes_predicted_perfectly_give_the_same_leaderboard() -> None:
    table = build_table(300, system_effect=0.7)
    board = compute_leaderboard(table, {"oracle": table.outcomes - 0.5}, num_draws=100)
    assert board["rank_correlations"]["oracle"]["estimate"] == pytest.approx(1.0)
    assert board["rank_correlations"]["oracle"]["low"] == pytest.approx(1.0)


def test_systems_with_few_votes_are_fitted_but_not_listed() -> None:
    table = build_table(100, num_systems=4)
    board = compute_leaderboard(table, {"rule": table.outcomes}, num_draws=100, minimum_votes=1000)
    assert board["systems"] == []
    assert sum(board["unlisted"].values()) == 200
    assert board["rank_correlations"] == {"rule": None}


def test_vocal_and_instrumental_apart() -> None:
    table = build_table(200)
    boards = compute_leaderboards(table, num_draws=100)
    counts = {subset: board["num_battles"] for subset, board in boards.items() if board}
    assert counts["all"] == counts["instrumental"] + counts["vocal"] == 200
    table.instrumental[:] = -1
    assert compute_leaderboards(table, num_draws=100)["vocal"] is None


def test_refusals() -> None:
    with pytest.raises(ValueError, match="must be square"):
        fit_bradley_terry(np.ones((2, 3)))
    with pytest.raises(ValueError, match="finite counts of at least zero"):
        fit_bradley_terry(-np.ones((2, 2)))
    table = build_table(10, both_bad_share=1.0)
    with pytest.raises(ValueError, match="nothing to rank"):
        compute_leaderboard(table)
    with pytest.raises(ValueError, match="Predictor 'rule' has no margin"):
        compute_leaderboard(build_table(10), {"rule": np.full(10, np.nan)})
    assert pytest.approx(173.7178, abs=1e-4) == SCALE
