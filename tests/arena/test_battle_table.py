"""The table of battles: scores that stay missing, and sides that can be exchanged."""

import numpy as np
import pytest

from modeling_apex.arena.battle_files import build_battle_table
from modeling_apex.arena.battle_table import drop_missing_scores

from simulated_battles import build_rows, build_table, swap_sides


def test_missing_scores_are_counted_and_listed_and_never_filled() -> None:
    rows = build_rows(10)
    rows[2]["clarity_a"] = None
    rows[2]["clarity_b"] = ""
    rows[7]["score_likes_b"] = "nan"
    table = build_battle_table(rows)
    complete, missing = drop_missing_scores(table)
    assert missing["battle_ids"] == ["battle-2", "battle-7"]
    assert missing["num_battles"] == 2
    assert missing["num_missing_per_score"]["clarity"] == 1  # battles, not sides
    assert missing["num_missing_per_score"]["score_likes"] == 1
    assert len(complete) == 8
    assert np.isfinite(complete.scores).all()
    with pytest.raises(ValueError, match="None of the 1 battles has all its scores"):
        drop_missing_scores(table.select(np.array([2])))


def test_swapping_twice_changes_nothing() -> None:
    table = build_table(30, tie_share=0.2, both_bad_share=0.2)
    again = swap_sides(swap_sides(table))
    np.testing.assert_array_equal(again.scores, table.scores)
    np.testing.assert_array_equal(again.preferences, table.preferences)
    np.testing.assert_array_equal(swap_sides(table).outcomes, 1.0 - table.outcomes)
