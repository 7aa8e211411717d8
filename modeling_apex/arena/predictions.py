"""
Predictions of battles, whoever made them: a rule, a classifier, a baseline.

What comes in are margins with the battles that they speak of; what leaves is each metric with its bootstrap draws, all
predictions of a table being measured on the same draws so that differences between them are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling_apex.arena.battle_table import SUBSETS, BattleTable
from modeling_apex.statistics.pair_metrics import METRICS, PUBLISHED_F1, compute_auc, compute_f1

if TYPE_CHECKING:
    from modeling_apex.statistics.bootstrap import Resamples

PREDICTION_METRICS: dict[str, Callable[..., np.ndarray]] = {**METRICS, PUBLISHED_F1: partial(compute_f1, average="a")}


@dataclass(frozen=True)
class PairPrediction:
    """
    Hold the margins that one predictor gave to battles of a table.

    Args:
        name (`str`): Name of the predictor.
        margins (`np.ndarray` of shape `(num_predictions,)`): Above zero where A is predicted to win.
        battle_indices (`np.ndarray` of shape `(num_predictions,)`): Rows of the table; a battle may stand here twice.
        strata (`np.ndarray` of shape `(num_predictions,)`, *optional*):
            Compare only within these; then AUC is the only metric that is defined.
    """

    name: str
    margins: np.ndarray
    battle_indices: np.ndarray
    strata: np.ndarray | None = None

    def compute_battle_margins(self, num_battles: int) -> np.ndarray:
        """Average the margins per battle, shape `(num_battles,)`, NaN where there is none."""
        sums = np.bincount(self.battle_indices, weights=self.margins, minlength=num_battles)
        counts = np.bincount(self.battle_indices, minlength=num_battles)
        return np.divide(sums, counts, out=np.full(num_battles, np.nan), where=counts > 0)


@dataclass(frozen=True)
class MeasuredPrediction:
    """Hold each metric of a prediction: its value on the battles as they are, and on every bootstrap draw."""

    estimates: dict[str, float]
    draws: dict[str, np.ndarray]
    num_battles: int  # decisive ones, each counted once

    def summarize(self, resamples: "Resamples") -> dict[str, dict[str, Any]]:
        """Build the JSON form, per metric; a share has Wilson's interval."""
        return {
            name: resamples.summarize_share(value, self.draws[name], self.num_battles)
            if name == "accuracy"
            else resamples.summarize(value, self.draws[name])
            for name, value in self.estimates.items()
        }


def build_system_pairs(table: BattleTable) -> tuple[np.ndarray, np.ndarray]:
    """
    Name the unordered pair of systems of each battle.

    Args:
        table (`BattleTable`): The battles.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Names of the pairs, and 1 where A is the pair's first system, otherwise -1.
    """
    is_ordered = table.systems[:, 0] <= table.systems[:, 1]
    pairs = [" / ".join(sorted(systems)) for systems in table.systems]
    return np.array(pairs, dtype=object), np.where(is_ordered, 1.0, -1.0)


def measure_prediction(
    prediction: PairPrediction,
    table: BattleTable,
    weights: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    refitted: np.ndarray | None = None,
    metrics: Sequence[str] = tuple(PREDICTION_METRICS),
) -> MeasuredPrediction:
    """
    Compute the metrics of a prediction with their bootstrap draws.

    Args:
        prediction (`PairPrediction`): The margins.
        table (`BattleTable`): The battles that the prediction speaks of.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`): Bootstrap counts of the table's rows.
        mask (`np.ndarray` of shape `(num_battles,)`, *optional*): Which battles to measure.
        refitted (`np.ndarray` of shape `(num_draws, num_predictions)`, *optional*):
            Margins of a predictor that was fitted again on each draw; without, each draw takes the same margins.
        metrics (`Sequence[str]`, *optional*): Which metrics; defaults to all.

    Returns:
        `MeasuredPrediction`: `auc`, `accuracy`, `f1` and `f1_of_a` (the paper's, of "A wins" alone), or `auc` alone
        for a prediction with strata.
    """
    rows = prediction.battle_indices
    kept = np.ones(len(rows), dtype=bool) if mask is None else mask[rows]
    rows, margins = rows[kept], prediction.margins[kept]
    drawn, outcomes = weights[:, rows], table.outcomes[rows]
    computes: dict[str, Callable[..., np.ndarray]] = {name: PREDICTION_METRICS[name] for name in metrics}
    turned = np.ones(len(rows))
    if prediction.strata is not None:
        # Within a pair of systems a side has no meaning of its own: turn every battle to the pair's first system.
        turned = build_system_pairs(table)[1][rows]
        outcomes = np.where(turned > 0, outcomes, 1.0 - outcomes)
        computes = {"auc": partial(compute_auc, strata=prediction.strata[kept])}
    estimates, draws = {}, {}
    for name, compute in computes.items():
        estimates[name] = float(compute(margins * turned, outcomes)[0])
        if refitted is None:
            draws[name] = compute(margins * turned, outcomes, drawn) if len(drawn) else np.zeros(0)
        else:
            pairs = zip(refitted[:, kept], drawn, strict=True)
            draws[name] = np.array([compute(own * turned, outcomes, row)[0] for own, row in pairs])
    num_battles = int(table.is_decisive[np.unique(rows)].sum())
    return MeasuredPrediction(estimates, draws, num_battles)


def measure_subsets(
    prediction: PairPrediction, table: BattleTable, weights: np.ndarray, *, refitted: np.ndarray | None = None
) -> dict[str, MeasuredPrediction]:
    """Measure a prediction on each subset that it speaks of; arguments are those of [`measure_prediction`]."""
    masks = {subset: table.get_subset_mask(subset) for subset in SUBSETS}
    return {
        subset: measure_prediction(prediction, table, weights, mask, refitted=refitted)
        for subset, mask in masks.items()
        if mask[prediction.battle_indices].any()
    }


def compare_measured(
    first: Mapping[str, MeasuredPrediction], second: Mapping[str, MeasuredPrediction], resamples: "Resamples"
) -> dict[str, dict[str, dict[str, Any]]]:
    """Give first minus second, per subset and metric, with a paired interval: both were measured on these draws."""
    return {
        subset: {
            name: resamples.summarize(
                value - second[subset].estimates[name], part.draws[name] - second[subset].draws[name]
            )
            for name, value in part.estimates.items()
        }
        for subset, part in first.items()
    }
