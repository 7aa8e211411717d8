"""
Features of a battle by the paper's recipe: differences and ratios of the two sides' scores, whether the battle is
instrumental, and differences times that.

What comes in is a table with scores; what leaves is a matrix for either order of A and B. The published recipe has
plain ratios `a / b`; the symmetric one takes their logarithm, which only changes sign.
"""

from dataclasses import dataclass

import numpy as np

from modeling_apex.arena.battle_table import BattleTable

RECIPES = ("symmetric", "published")


@dataclass(frozen=True)
class PairFeatures:
    """
    Hold the features of battles in both orders.

    Args:
        values (`np.ndarray` of shape `(..., num_battles, num_features)`): Features as A against B.
        swapped (`np.ndarray` of shape `(..., num_battles, num_features)`): Features as B against A.
    """

    values: np.ndarray
    swapped: np.ndarray

    def select(self, rows: np.ndarray) -> "PairFeatures":
        """Build the features of some battles."""
        return PairFeatures(self.values[..., rows, :], self.swapped[..., rows, :])


def build_pair_features(table: BattleTable, score_indices: list[int], *, recipe: str = "symmetric") -> PairFeatures:
    """
    Build the features of every battle.

    Args:
        table (`BattleTable`): Battles with all their scores.
        score_indices (`list[int]`): Which scores to use.
        recipe (`str`, defaults to `"symmetric"`):
            `"symmetric"` takes log ratios; `"published"` plain ratios, and the mean of the popularity scores as one
            score more, the notebook's `combined_popularity`.

    Returns:
        `PairFeatures`: The difference of each score, the ratio of each that is above zero everywhere, whether the
        battle is instrumental, and each difference times that. Where it is not known, a battle counts as vocal.

    Raises:
        `ValueError`: If `recipe` is unknown or there is no score.
    """
    return build_features_of_scores(table, table.scores, score_indices, recipe=recipe)


def build_features_of_scores(
    table: BattleTable, scores: np.ndarray, score_indices: list[int], *, recipe: str
) -> PairFeatures:
    """
    Build the features that a table would have with other scores; arguments are those of [`build_pair_features`].

    Args:
        scores (`np.ndarray` of shape `(..., num_battles, 2, num_scores)`):
            The scores; leading axes are tables of their own. What has a ratio is decided by the table's own scores.
    """
    if recipe not in RECIPES:
        raise ValueError(f"Feature recipe {recipe!r} is unknown. Choose one of {RECIPES}.")
    if not score_indices:
        raise ValueError("Features need at least one score. Pass a table with score columns.")
    combined = [index for index in score_indices if table.score_columns[index].group == "popularity"]
    chosen, own = scores[..., score_indices], table.scores[..., score_indices]
    if recipe == "published" and len(combined) > 1:
        chosen, own = (
            np.concatenate([part, whole[..., combined].mean(axis=-1, keepdims=True)], axis=-1)
            for part, whole in ((chosen, scores), (own, table.scores))
        )
    has_ratio: np.ndarray = np.all(own > 0, axis=(0, 1))
    is_instrumental = np.broadcast_to((table.instrumental == 1).astype(np.float64)[:, None], (*chosen.shape[:-2], 1))

    def build_one_order(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        difference = first - second
        if recipe == "symmetric":
            ratio = np.log(first[..., has_ratio]) - np.log(second[..., has_ratio])
        else:
            ratio = first[..., has_ratio] / second[..., has_ratio]
        return np.concatenate([difference, ratio, is_instrumental, difference * is_instrumental], axis=-1)

    first, second = chosen[..., 0, :], chosen[..., 1, :]
    return PairFeatures(build_one_order(first, second), build_one_order(second, first))


def list_scores_without_ratio(table: BattleTable) -> list[str]:
    """Name the scores that are not above zero everywhere and so have no ratio among the features."""
    is_positive = np.all(table.scores > 0, axis=(0, 1))
    return [
        column.name
        for column, positive in zip(table.score_columns, is_positive, strict=True)
        if column.group != "truth" and not positive
    ]


def build_side_features(table: BattleTable) -> PairFeatures:
    """
    Build the features of the "duration and loudness only" baseline.

    Args:
        table (`BattleTable`): Battles with both durations and both loudness values.

    Returns:
        `PairFeatures`: Differences of duration, log duration and loudness, alone and times `is_instrumental`.

    Raises:
        `ValueError`: If a duration or loudness is missing, or a duration is not above zero.
    """
    if np.isnan(table.durations).any() or np.isnan(table.loudness).any():
        raise ValueError("A duration or loudness is missing. Leave such battles out first.")
    if (table.durations <= 0).any():
        listed = list(table.battle_ids[(table.durations <= 0).any(axis=1)][:5])
        raise ValueError(f"A duration is not above zero in battles {listed}. Check `duration_a` and `duration_b`.")
    sides = np.stack([table.durations, np.log(table.durations), table.loudness])  # (3, num_battles, 2)
    differences = (sides[:, :, 0] - sides[:, :, 1]).T
    interactions = differences * (table.instrumental == 1).astype(np.float64)[:, None]
    values = np.concatenate([differences, interactions], axis=1)
    return PairFeatures(values, -values)
