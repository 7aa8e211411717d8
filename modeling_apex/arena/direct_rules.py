"""
Direct rules: no training, the higher score wins.

What comes in is a table with scores; what leaves is one prediction a score, one for the mean of each group, and one
for all scores together. (The rules in the published code let the lower score win; here a larger margin always speaks
for A.)
"""

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.predictions import PairPrediction


def compute_standardized_scores(scores: np.ndarray) -> np.ndarray:
    """
    Bring scores of different ranges to one scale, A and B alike.

    Args:
        scores (`np.ndarray` of shape `(num_battles, 2, num_scores)`): Scores in native units.

    Returns:
        `np.ndarray` of the same shape: Zero mean and unit variance over both sides; a constant score becomes zero.
    """
    # Summing the two sides first keeps the statistics bit for bit the same when A and B are exchanged.
    mean = scores.sum(axis=1).mean(axis=0) / 2.0
    centered = scores - mean
    deviation = np.sqrt((centered**2).sum(axis=1).mean(axis=0) / 2.0)
    return centered / np.where(deviation > 0, deviation, 1.0)


def build_direct_rules(table: BattleTable) -> list[PairPrediction]:
    """
    Build the predictions of "the higher score wins".

    Args:
        table (`BattleTable`): Battles with all their scores.

    Returns:
        `list[PairPrediction]`: One per score, then `popularity_mean`, `aesthetics_mean` and `all_scores_mean` where
        there are several scores to average. The last averages standardised scores, since their ranges differ. Known
        truth of a simulation is never averaged.
    """
    everyone = np.arange(len(table))
    differences = table.scores[:, 0] - table.scores[:, 1]  # (num_battles, num_scores)
    rules = [
        PairPrediction(column.name, differences[:, index], everyone)
        for index, column in enumerate(table.score_columns)
    ]
    for group in ("popularity", "aesthetics"):
        members = table.get_group_indices(group)
        if len(members) > 1:
            rules.append(PairPrediction(f"{group}_mean", differences[:, members].mean(axis=1), everyone))
    predicted = table.get_group_indices("popularity", "aesthetics", "other")
    if len(predicted) > 1:
        standardized = compute_standardized_scores(table.scores[:, :, predicted])
        margins = (standardized[:, 0] - standardized[:, 1]).mean(axis=1)
        rules.append(PairPrediction("all_scores_mean", margins, everyone))
    return rules
