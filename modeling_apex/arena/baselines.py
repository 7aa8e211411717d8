"""
Baselines that know nothing of the music: every claim about scores has to stand beside these.

What comes in is a table with folds; what leaves are predictions. Position only knows which side wins more often in
training; system tags only knows who made each side (Bradley-Terry on the training folds); duration and loudness only
knows those; a coin knows nothing.
"""

from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.classifiers import cross_predict
from modeling_apex.arena.pair_features import build_side_features
from modeling_apex.arena.predictions import (
    PREDICTION_METRICS,
    PairPrediction,
    build_system_pairs,
    measure_prediction,
    measure_subsets,
)
from modeling_apex.arena.protocols import Fold, ProtocolUnavailableError, build_folds, check_folds
from modeling_apex.statistics.bootstrap import Resamples
from modeling_apex.statistics.bradley_terry import compute_wins, fit_bradley_terry

MINIMUM_KNOWN_BATTLES = 20


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


def measure_baselines(
    table: BattleTable, resamples: Resamples, protocol: str, folds: list[Fold], num_folds: int, seed: int
) -> dict[str, Any]:
    """
    Measure the baselines of a protocol.

    Args:
        table (`BattleTable`): The battles.
        resamples ([`Resamples`]): Samples of them.
        protocol (`str`): One of `PROTOCOLS`.
        folds (`list[Fold]`): Its folds.
        num_folds (`int`), seed (`int`): With which they are dealt again where few battles have durations.

    Returns:
        `dict`: Per baseline, per subset and metric an estimate with its interval; `unavailable` with the reason where
        the table cannot serve one.
    """
    is_within = protocol == "within_system_pairs"

    def summarize(prediction: PairPrediction, part: BattleTable, samples: Resamples) -> dict[str, Any]:
        measured = measure_subsets(prediction, part, samples.weights)
        return {subset: found.summarize(samples) for subset, found in measured.items()}

    baselines: dict[str, Any] = {"system_tags_only": {"unavailable": "the table names no systems"}}
    if table.has_systems:
        by_system = predict_by_system(table, folds, is_within_pairs=is_within)
        baselines["system_tags_only"] = summarize(by_system, table, resamples)
    if not is_within:
        baselines["position_only"] = summarize(predict_by_position(table, folds), table, resamples)
    is_known = has_duration_and_loudness(table)
    listed = [str(name) for name in table.battle_ids[~is_known]]
    try:
        if (is_known & table.is_decisive).sum() < MINIMUM_KNOWN_BATTLES:
            raise ProtocolUnavailableError(
                f"duration and loudness are known for {int(is_known.sum())} of {len(table)} battles only"
            )
        known = table.select(is_known)
        dealt, _ = check_folds(build_folds(protocol, known, num_folds, seed), known, is_symmetric=True)
        prediction = predict_by_duration_and_loudness(known, dealt, seed=seed, is_within_pairs=is_within)
        found = summarize(prediction, known, resamples.select(is_known))
        baselines["duration_and_loudness_only"] = {**found, "battles_left_out": listed}
    except ProtocolUnavailableError as error:
        baselines["duration_and_loudness_only"] = {"unavailable": str(error)}
    return baselines


def measure_coin(table: BattleTable, resamples: Resamples, *, seed: int) -> dict[str, dict[str, Any]]:
    """
    Say what a fair coin reaches on these battles.

    Args:
        table (`BattleTable`): The battles; ties are left out.
        resamples ([`Resamples`]): Samples of the battles; for each, all coins are thrown anew.
        seed (`int`): Seed of the throws.

    Returns:
        `dict`: Per metric the expected value and the range that luck alone covers in 95 of 100 experiments.
    """
    outcomes = table.outcomes
    throws = np.random.default_rng(seed).uniform(-1.0, 1.0, size=resamples.weights.shape)
    expected = PairPrediction("coin", np.zeros(len(table)), np.arange(len(table)))
    found = measure_prediction(expected, table, np.ones((0, len(table))))
    return {
        name: resamples.summarize(
            found.estimates[name],
            np.array([compute(throw, outcomes, row)[0] for throw, row in zip(throws, resamples.weights, strict=True)]),
        )
        for name, compute in PREDICTION_METRICS.items()
    }
