"""Changes of scores: means, the largest, pairs of songs in other order, on tables whose answer is known."""

import numpy as np
import pytest

from modeling_apex.statistics.score_changes import compare_orders, summarize_changes


def test_flipped_pairs_of_a_constructed_table() -> None:
    before = np.array([1.0, 2.0, 3.0, 3.0])  # the last two are tied: five pairs have an order
    after = np.array([2.0, 1.0, 5.0, 1.0])  # of them 0-1 and 0-3 turn round; 1-3 are tied after, which is no flip
    ordered, flipped = compare_orders(before, after)
    assert ordered.sum() / 2 == 5
    assert sorted(zip(*np.nonzero(np.triu(flipped)), strict=True)) == [(0, 1), (0, 3)]
    summary = summarize_changes(before, after, num_draws=200)
    assert summary["flipped_pairs"]["estimate"] == pytest.approx(2 / 5)
    assert summary["flipped_pairs"]["low"] < 0.4 < summary["flipped_pairs"]["high"]


def test_changes_are_those_of_the_table() -> None:
    before, after = np.zeros(4), np.array([1.0, -2.0, 0.5, 0.0])
    summary = summarize_changes(before, after)
    assert summary["mean"]["estimate"] == pytest.approx(-0.125)
    assert summary["mean_absolute"]["estimate"] == pytest.approx(0.875)
    assert (summary["largest"], summary["largest_index"]) == (-2.0, 1)
    assert summary["mean"]["low"] < -0.125 < summary["mean"]["high"]
    assert 0 <= summary["mean_absolute"]["low"] < 0.875 < summary["mean_absolute"]["high"]


def test_nothing_changed_is_zero_and_no_pair_of_few_songs_is_proof() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    summary = summarize_changes(scores, scores)
    assert summary["mean"] == {
        "estimate": 0.0,
        "low": None,
        "high": None,
        "reason": "every resample gives the same value",
    }
    assert (summary["largest"], summary["flipped_pairs"]["estimate"]) == (0.0, 0.0)
    assert summary["flipped_pairs"]["high"] > 0.5  # three songs say little


def test_undefined_is_said_and_not_made_up() -> None:
    tied = summarize_changes(np.ones(3), np.array([1.0, 2.0, 3.0]))
    assert tied["flipped_pairs"] == {
        "estimate": None,
        "low": None,
        "high": None,
        "reason": "not defined on these items",
    }
    alone = summarize_changes(np.ones(1), np.zeros(1))
    assert alone["mean"]["estimate"] == -1.0
    assert alone["mean"]["reason"] == "only 1 unit to resample, and 2 are needed"
    with pytest.raises(ValueError, match="A bootstrap needs items and draws, received 0 items"):
        summarize_changes(np.ones(0), np.ones(0))


@pytest.mark.parametrize("num_songs", [10, 40])
def test_intervals_of_the_mean_hold_the_truth(num_songs: int) -> None:
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        before = generator.normal(size=num_songs)
        summary = summarize_changes(before, before + generator.normal(0.5, 1.0, num_songs), num_draws=200, seed=seed)
        held += summary["mean"]["low"] <= 0.5 <= summary["mean"]["high"]
    assert 180 <= held <= 199  # 190 of 200 at a nominal 95 %
