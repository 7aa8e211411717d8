"""
Baselines that know nothing of the music: every claim about scores has to stand beside these.

What comes in is a table with folds; what leaves are predictions. Position only knows which side wins more often in
training; system tags only knows who made each side (Bradley-Terry on the training folds); duration and loudness only
knows those; a coin knows nothing.
"""

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.classifiers import cross_predict
from modeling_apex.arena.pair_features import build_side_features
from modeling_apex.arena.predictions import PairPrediction, build_system_pairs
from modeling_apex.arena.protocols import Fold
from modeling_apex.statistics.bootstrap import summarize_draws
from modeling_apex.statistics.bradley_terry import compute_wins, fit_bradley_terry
from modeling_apex.statistics.pair_metrics import METRICS


def predict_by_position(table: BattleTable, folds: list[Fold]) -> PairPrediction:
    """
    Predict the side that won more often in training. By its nature this is not symmetric in A and B.

    Args:
        table (`BattleTable`): The battles.
        folds (`list[Fold]`): The folds.

    Returns:
        `PairPrediction`: Margins of 1 or -1; zero where training was even.
    """
    outcomes = table.outcomes
    # A tie adds nothing to either side: its outcome is one half.
    balance = np.where(table.is_voted, outcomes - 0.5, 0.0)
    margins = [np.full(len(fold.test_indices), np.sign(balance[fold.train_indices].sum())) for fold in folds]
    rows = np.concatenate([fold.test_indices for fold in folds])
    return PairPrediction("position_only", np.concatenate(margins), rows)


def predict_by_system(table: BattleTable, folds: list[Fold], *, is_within_pairs: bool = False) -> PairPrediction:
    """
    Predict by Bradley-Terry strengths of the systems, fitted on the training folds.

    Args:
        table (`BattleTable`): The battles; ties count as half a win each.
        folds (`list[Fold]`): The folds. A system without training battles has strength zero.
        is_within_pairs (`bool`, defaults to `False`): Compare within pairs of systems only.

    Returns:
        `PairPrediction`: Differences of strengths.
    """
    names, indices = table.number_systems()
    outcomes, is_voted = table.outcomes, table.is_voted
    margins = []
    for fold in folds:
        train = fold.train_indices[is_voted[fold.train_indices]]
        strengths = fit_bradley_terry(compute_wins(indices[train], outcomes[train], len(names)))
        met = indices[fold.test_indices]
        margins.append(strengths[met[:, 0]] - strengths[met[:, 1]])
    rows = np.concatenate([fold.test_indices for fold in folds])
    strata = build_system_pairs(table)[0][rows] if is_within_pairs else None
    return PairPrediction("system_tags_only", np.concatenate(margins), rows, strata)


def predict_by_duration_and_loudness(
    table: BattleTable, folds: list[Fold], *, seed: int, is_within_pairs: bool = False
) -> PairPrediction:
    """
    Predict by a logistic regression on differences of duration and loudness.

    Args:
        table (`BattleTable`): Battles with durations and loudness on both sides.
        folds (`list[Fold]`): The folds.
        seed (`int`): Seed handed to the classifier.
        is_within_pairs (`bool`, defaults to `False`): Compare within pairs of systems only.

    Returns:
        `PairPrediction`: The margins.

    Raises:
        `ValueError`: If a duration or loudness is missing.
    """
    predictions = cross_predict(
        table,
        {"duration_and_loudness_only": build_side_features(table)},
        folds,
        classifiers=("logistic_regression",),
        seed=seed,
        is_within_pairs=is_within_pairs,
    )
    (found,) = predictions.values()
    return PairPrediction("duration_and_loudness_only", found.margins, found.battle_indices, found.strata)


def has_duration_and_loudness(table: BattleTable) -> np.ndarray:
    """Mark the battles whose duration and loudness are known on both sides, shape `(num_battles,)`."""
    return ~(np.isnan(table.durations).any(axis=1) | np.isnan(table.loudness).any(axis=1))


def measure_coin(outcomes: np.ndarray, *, num_draws: int, seed: int) -> dict[str, dict[str, float | None]]:
    """
    Say what a fair coin reaches on these battles.

    Args:
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1, 0, or 0.5 for ties, which are left out.
        num_draws (`int`): Number of times that all coins are thrown.
        seed (`int`): Seed of the throws.

    Returns:
        `dict`: Per metric the expected value and the range that luck alone covers in 95 of 100 experiments.
    """
    generator = np.random.default_rng(seed)
    throws = generator.uniform(-1.0, 1.0, size=(num_draws, len(outcomes)))
    expected = np.zeros(len(outcomes))
    return {
        name: summarize_draws(
            float(compute(expected, outcomes)[0]), np.array([compute(throw, outcomes)[0] for throw in throws])
        )
        for name, compute in METRICS.items()
    }
