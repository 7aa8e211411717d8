"""
Predictions of battles, whoever made them: a rule, a classifier, a baseline.

What comes in are margins with the battles that they speak of; what leaves is each metric with its bootstrap draws, all
predictions of a table being measured on the same draws so that differences between them are paired.
"""

from dataclasses import dataclass

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.statistics.pair_metrics import METRICS, compute_auc


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
    prediction: PairPrediction, table: BattleTable, weights: np.ndarray, mask: np.ndarray | None = None
) -> MeasuredPrediction:
    """
    Compute the metrics of a prediction with their bootstrap draws.

    Args:
        prediction (`PairPrediction`): The margins.
        table (`BattleTable`): The battles that the prediction speaks of.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`): Bootstrap counts of the table's rows.
        mask (`np.ndarray` of shape `(num_battles,)`, *optional*): Which battles to measure.

    Returns:
        `MeasuredPrediction`: `auc`, `accuracy` and `f1`, or `auc` alone for a prediction with strata.
    """
    rows = prediction.battle_indices
    kept = np.ones(len(rows), dtype=bool) if mask is None else mask[rows]
    rows, margins = rows[kept], prediction.margins[kept]
    # The first row are the battles as they are, so that estimate and draws go through one computation.
    drawn = np.concatenate([np.ones((1, len(table))), weights])[:, rows]
    outcomes = table.outcomes[rows]
    if prediction.strata is None:
        values = {name: compute(margins, outcomes, drawn) for name, compute in METRICS.items()}
    else:
        # Within a pair of systems a side has no meaning of its own: turn every battle to the pair's first system.
        _, orientations = build_system_pairs(table)
        turned = orientations[rows]
        oriented_outcomes = np.where(turned > 0, outcomes, 1.0 - outcomes)
        values = {"auc": compute_auc(margins * turned, oriented_outcomes, drawn, strata=prediction.strata[kept])}
    return MeasuredPrediction(
        estimates={name: float(value[0]) for name, value in values.items()},
        draws={name: value[1:] for name, value in values.items()},
    )
