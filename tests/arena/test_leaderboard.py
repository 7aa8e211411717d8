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
    assert board["rank_correlations"]["oracle"]["low"] is None
    assert "every resample gives the same value" in board["rank_correlations"]["oracle"]["reason"]


def test_systems_with_few_votes_are_fitted_but_not_listed() -> None:
    table = build_table(100, num_systems=4)
    board = compute_leaderboard(table, {"rule": table.outcomes}, num_draws=100, minimum_votes=1000)
    assert board["systems"] == []
    assert sum(board["unlisted"].values()) == 200
    assert board["rank_correlations"] == {"rule": None}


def test_boards_by_kind_follow_the_public_rule() -> None:
    """Vocal: between two systems that can sing, whatever was asked for. Instrumental: all other battles."""
    table = build_table(200, num_systems=4)
    cannot_sing = (table.systems == "system-3").any(axis=1)
    table.instrumental[cannot_sing] = 1
    table.instrumental[~cannot_sing] = np.arange((~cannot_sing).sum()) % 2
    boards = compute_leaderboards(table, num_draws=100)
    counts = {subset: board["num_battles"] for subset, board in boards.items() if board}
    assert counts == {"all": 200, "instrumental": cannot_sing.sum(), "vocal": (~cannot_sing).sum()}
    stated = compute_leaderboards(table, num_draws=100, singing=["system-0", "system-1"])
    both = np.isin(table.systems, ["system-0", "system-1"]).all(axis=1)
    assert stated["vocal"]["num_battles"] == both.sum()
    with pytest.raises(ValueError, match=r"Systems \['nobody'\] are said to sing"):
        compute_leaderboards(table, num_draws=100, singing=["nobody"])


def test_a_table_that_does_not_say_what_is_vocal_has_one_board() -> None:
    table = build_table(100)
    table.instrumental[:] = -1
    boards = compute_leaderboards(table, num_draws=100)
    assert boards["vocal"] is boards["instrumental"] is None
    assert boards["all"] is not None


def test_a_system_against_itself_counts_for_nothing() -> None:
    table = build_table(120, num_systems=3)
    alone = compute_leaderboard(table.select(np.arange(100)), num_draws=100, minimum_votes=1)
    table.systems[100:] = "system-0"
    board = compute_leaderboard(table, num_draws=100, minimum_votes=1)
    assert board["num_battles"] == 100
    assert board["num_against_itself"] == 20
    assert board["systems"] == alone["systems"]


def test_systems_that_never_met_are_not_on_one_scale() -> None:
    table = build_table(200, num_systems=6)
    half = np.isin(table.systems, ["system-0", "system-1", "system-2"])
    table = table.select(half.all(axis=1) | ~half.any(axis=1))
    board = compute_leaderboard(table, {"rule": table.outcomes}, num_draws=100, minimum_votes=1)
    (other,) = board["unconnected"]
    listed = {entry["system"] for entry in board["systems"]}
    assert len(listed) == len(other) == 3
    assert not listed & set(other)
    assert set(board["unlisted"]) == set()


def test_intervals_draw_prompts_and_users_and_say_so() -> None:
    table = build_table(300)
    table.prompts[:] = [f"prompt {number % 40}" for number in range(300)]
    table.users[:] = [f"user {number // 10}" for number in range(300)]
    crossed = compute_leaderboard(table, num_draws=200)
    assert crossed["resampled"] == {"unit": "user and prompt", "num_units": {"user": 30, "prompt": 40}}
    assert compute_leaderboard(table, num_draws=200, resample="battle")["resampled"]["unit"] == "battle"
    assert compute_leaderboard(table, num_draws=200, resample="user")["resampled"]["num_units"] == {"user": 30}
    table.users[:] = ""
    with pytest.raises(ValueError, match="`resample` is 'user', but no battle has a user"):
        compute_leaderboard(table, resample="user")
    with pytest.raises(ValueError, match="`resample` is 'day'"):
        compute_leaderboard(table, resample="day")


@pytest.mark.parametrize("seed", range(8))
def test_a_rank_correlation_lies_in_its_own_interval(seed: int) -> None:
    table = build_table(200, seed=seed, system_effect=0.6, popularity_effect=1.0, num_systems=6)
    board = compute_leaderboard(table, {"rule": table.scores[:, 0, 0] - table.scores[:, 1, 0]}, num_draws=100)
    found = board["rank_correlations"]["rule"]
    assert -1 <= found["low"] <= found["estimate"] <= found["high"] <= 1


def test_refusals() -> None:
    table = build_table(10, both_bad_share=1.0)
    with pytest.raises(ValueError, match="nothing to rank"):
        compute_leaderboard(table)
    with pytest.raises(ValueError, match="Predictor 'rule' has no margin"):
        compute_leaderboard(build_table(10), {"rule": np.full(10, np.nan)})
