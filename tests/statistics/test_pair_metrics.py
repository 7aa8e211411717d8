"""Metrics of pairs against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from modeling_apex.statistics.bootstrap import draw_bootstrap_weights
from modeling_apex.statistics.pair_metrics import (
    METRICS,
    compute_accuracy,
    compute_auc,
    compute_f1,
    read_votes,
)

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.sampled_from([0.0, 0.5, 1.0])), min_size=4, max_size=40).filter(
    lambda pairs: {0.0, 1.0} <= {outcome for _, outcome in pairs}
)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_metrics_agree_with_scikit_learn(pairs: list[tuple[int, float]]) -> None:
    margins, outcomes = np.array(pairs, dtype=float).T
    is_decisive = outcomes != 0.5
    expected = roc_auc_score(outcomes[is_decisive], margins[is_decisive])
    assert compute_auc(margins, outcomes)[0] == pytest.approx(expected)
    sided = np.where(margins == 0, 0.5, margins)
    truth, votes = outcomes[is_decisive], (sided > 0)[is_decisive]
    assert compute_accuracy(sided, outcomes)[0] == pytest.approx(accuracy_score(truth, votes))
    assert compute_f1(sided, outcomes)[0] == pytest.approx(f1_score(truth, votes, average="macro", zero_division=0))
    assert compute_f1(sided, outcomes, average="a")[0] == pytest.approx(f1_score(truth, votes, zero_division=0))


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_metrics_are_symmetric_in_a_and_b(pairs: list[tuple[int, float]]) -> None:
    margins, outcomes = np.array(pairs, dtype=float).T
    for compute in METRICS.values():
        assert compute(-margins, 1.0 - outcomes)[0] == pytest.approx(compute(margins, outcomes)[0], nan_ok=True)


def test_weights_equal_repeating_battles() -> None:
    generator = np.random.default_rng(0)
    margins, outcomes = generator.normal(size=30), generator.integers(0, 2, 30).astype(float)
    weights = draw_bootstrap_weights(30, 5, seed=1)
    strata = generator.integers(0, 3, 30)
    for name, compute in METRICS.items():
        for draw, value in zip(weights.astype(int), compute(margins, outcomes, weights), strict=True):
            rows = np.repeat(np.arange(30), draw)
            assert value == pytest.approx(compute(margins[rows], outcomes[rows])[0]), name
    expected = [
        compute_auc(margins[rows], outcomes[rows], strata=strata[rows])[0]
        for rows in (np.repeat(np.arange(30), draw) for draw in weights.astype(int))
    ]
    np.testing.assert_allclose(compute_auc(margins, outcomes, weights, strata), expected)


def test_auc_within_strata_ignores_what_a_stratum_knows() -> None:
    strata = np.repeat([0, 1], 4)
    outcomes = np.array([1, 1, 1, 0, 0, 0, 0, 1], dtype=float)
    assert compute_auc(strata * -1.0, outcomes)[0] > 0.7
    assert compute_auc(strata * -1.0, outcomes, strata=strata)[0] == 0.5


def test_undefined_metrics_are_nan() -> None:
    assert np.isnan(compute_auc(np.ones(3), np.ones(3))[0])
    assert np.isnan(compute_auc(np.ones(3), np.full(3, 0.5))[0])


def test_votes_are_outcomes_of_a() -> None:
    assert read_votes(["A", "B", "TIE"]).tolist() == [1.0, 0.0, 0.5]
    assert np.isnan(read_votes(["BOTH_BAD"])).all()
    assert read_votes([]).shape == (0,)


def test_a_coin_counts_as_half() -> None:
    outcomes = np.array([1.0, 1.0, 0.0])
    assert compute_accuracy(np.zeros(3), outcomes)[0] == 0.5
    assert compute_auc(np.zeros(3), outcomes)[0] == 0.5


def test_refusals() -> None:
    with pytest.raises(ValueError, match="must be one-dimensional"):
        compute_auc(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="1 margins are NaN"):
        compute_auc(np.array([np.nan, 1.0]), np.ones(2))
    with pytest.raises(ValueError, match="Choose 'macro' or 'a'"):
        compute_f1(np.ones(2), np.ones(2), average="micro")
    with pytest.raises(ValueError, match=r"Unknown votes \['C', 'a'\]\. Expected A, B, TIE or BOTH_BAD"):
        read_votes(["A", "a", "C"])
