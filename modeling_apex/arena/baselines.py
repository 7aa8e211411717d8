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
from modeling_apex.arena.permutations import refit_draws
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


def predict_by_position(
    table: BattleTable, folds: list[Fold], weights: np.ndarray | None = None
) -> tuple[PairPrediction, np.ndarray]:
    """
    Predict the side that won more often in training. By its nature this is not symmetric in A and B.

    Args:
        table (`BattleTable`): The battles.
        folds (`list[Fold]`): The folds.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`, *optional*): Bootstrap counts to count again on.

    Returns:
        `tuple[PairPrediction, np.ndarray]`: Margins of 1 or -1, zero where training was even; and those counted on
        each draw, of shape `(num_draws, num_predictions)`.
    """
    outcomes = table.outcomes
    # A tie adds nothing to either side: its outcome is one half.
    balance = np.where(table.is_voted, outcomes - 0.5, 0.0)
    drawn = np.concatenate([np.ones((1, len(table))), np.zeros((0, len(table))) if weights is None else weights])
    sides = [np.sign(drawn[:, fold.train_indices] @ balance[fold.train_indices]) for fold in folds]
    margins = np.repeat(np.stack(sides, axis=1), [len(fold.test_indices) for fold in folds], axis=1)
    rows = np.concatenate([fold.test_indices for fold in folds])
    return PairPrediction("position_only", margins[0], rows), margins[1:]


def predict_by_system(
    table: BattleTable, folds: list[Fold], weights: np.ndarray | None = None, *, is_within_pairs: bool = False
) -> tuple[PairPrediction, np.ndarray]:
    """
    Predict by Bradley-Terry strengths of the systems, fitted on the training folds.

    Args:
        table (`BattleTable`): The battles; ties count as half a win each.
        folds (`list[Fold]`): The folds. A system without training battles has strength zero.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`, *optional*): Bootstrap counts to fit again on.
        is_within_pairs (`bool`, defaults to `False`): Compare within pairs of systems only.

    Returns:
        `tuple[PairPrediction, np.ndarray]`: Differences of strengths, and those fitted on each draw, of shape
        `(num_draws, num_predictions)`.
    """
    names, indices = table.number_systems()
    outcomes, is_voted = table.outcomes, table.is_voted
    drawn = np.concatenate([np.ones((1, len(table))), np.zeros((0, len(table))) if weights is None else weights])
    margins = []
    for fold in folds:
        train = fold.train_indices[is_voted[fold.train_indices]]
        strengths = fit_bradley_terry(compute_wins(indices[train], outcomes[train], len(names), drawn[:, train]))
        met = indices[fold.test_indices]
        margins.append(strengths[:, met[:, 0]] - strengths[:, met[:, 1]])
    rows = np.concatenate([fold.test_indices for fold in folds])
    strata = build_system_pairs(table)[0][rows] if is_within_pairs else None
    found = np.concatenate(margins, axis=1)
    return PairPrediction("system_tags_only", found[0], rows, strata), found[1:]


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
        resamples ([`Resamples`]): Samples of them; every baseline is refitted on each.
        protocol (`str`): One of `PROTOCOLS`.
        folds (`list[Fold]`): Its folds.
        num_folds (`int`), seed (`int`): With which they are dealt again where few battles have durations.

    Returns:
        `dict`: Per baseline, per subset and metric an estimate with its interval; `unavailable` with the reason where
        the table cannot serve one.
    """
    is_within = protocol == "within_system_pairs"

    def summarize(
        prediction: PairPrediction, again: np.ndarray, part: BattleTable = table, samples: Resamples = resamples
    ) -> dict[str, Any]:
        measured = measure_subsets(prediction, part, samples.weights, refitted=again)
        return {subset: found.summarize(samples) for subset, found in measured.items()}

    baselines: dict[str, Any] = {"system_tags_only": {"unavailable": "the table names no systems"}}
    if table.has_systems:
        by_system = predict_by_system(table, folds, resamples.weights, is_within_pairs=is_within)
        baselines["system_tags_only"] = summarize(*by_system)
    if not is_within:
        baselines["position_only"] = summarize(*predict_by_position(table, folds, resamples.weights))
    is_known = has_duration_and_loudness(table)
    listed = [str(name) for name in table.battle_ids[~is_known]]
    try:
        if (is_known & table.is_decisive).sum() < MINIMUM_KNOWN_BATTLES:
            raise ProtocolUnavailableError(
                f"duration and loudness are known for {int(is_known.sum())} of {len(table)} battles only"
            )
        known, samples = table.select(is_known), resamples.select(is_known)
        dealt, _ = check_folds(build_folds(protocol, known, num_folds, seed), known, is_symmetric=True)
        prediction = predict_by_duration_and_loudness(known, dealt, seed=seed, is_within_pairs=is_within)
        again = refit_draws(known, build_side_features(known), dealt, samples.weights)
        found = summarize(prediction, again, known, samples)
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
