"""Leaderboards: ties, BOTH_BAD, exchanged sides and the vote limit."""

import numpy as np
import pytest

from modeling_apex.arena.leaderboard import compute_leaderboard, compute_leaderboards

from simulated_battles import build_table, swap_sides


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
    swapped = compute_leaderboard(swap_sides(table), {"rule": -margins}, num_draws=100)
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
    table = build_table(10, both_bad_share=1.0)
    with pytest.raises(ValueError, match="nothing to rank"):
        compute_leaderboard(table)
    with pytest.raises(ValueError, match="Predictor 'rule' has no margin"):
        compute_leaderboard(build_table(10), {"rule": np.full(10, np.nan)})
