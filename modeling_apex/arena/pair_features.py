"""
Features of a battle by the paper's recipe: differences and ratios of the two sides' scores, whether the battle is
instrumental, and differences times that.

What comes in is a table with scores; what leaves is a matrix and, per column, what exchanging A and B does to it. The
published recipe has plain ratios `a / b`; the symmetric one takes their logarithm, which only changes sign.
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
        values (`np.ndarray` of shape `(num_battles, num_features)`): Features as A against B.
        swapped (`np.ndarray` of shape `(num_battles, num_features)`): Features as B against A.
        names (`tuple[str, ...]`): Names of the columns.
        notes (`tuple[str, ...]`): What was left out, and why.
    """

    values: np.ndarray
    swapped: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def select(self, rows: np.ndarray) -> "PairFeatures":
        """Build the features of some battles."""
        return PairFeatures(self.values[rows], self.swapped[rows], self.names, self.notes)


def build_pair_features(table: BattleTable, score_indices: list[int], *, recipe: str = "symmetric") -> PairFeatures:
    """
    Build the features of every battle.

    Args:
        table (`BattleTable`): Battles with all their scores.
        score_indices (`list[int]`): Which scores to use.
        recipe (`str`, defaults to `"symmetric"`): `"symmetric"` takes log ratios, `"published"` plain ratios.

    Returns:
        `PairFeatures`: A battle of which it is not known whether it is instrumental has no interaction, as a vocal
        one.

    Raises:
        `ValueError`: If `recipe` is unknown or there is no score.
    """
    if recipe not in RECIPES:
        raise ValueError(f"Feature recipe {recipe!r} is unknown. Choose one of {RECIPES}.")
    if not score_indices:
        raise ValueError("Features need at least one score. Pass a table with score columns.")
    scores = table.scores[:, :, score_indices]
    names = [table.score_columns[index].name for index in score_indices]
    has_ratio: np.ndarray = np.all(scores > 0, axis=(0, 1))
    notes = tuple(
        f"no ratio of {name}: it has values of zero or below" for name, usable in zip(names, has_ratio, strict=True)
        if not usable
    )  # fmt: skip
    is_instrumental = (table.instrumental == 1).astype(np.float64)[:, None]

    def build_one_order(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        difference = first - second
        if recipe == "symmetric":
            ratio = np.log(first[:, has_ratio]) - np.log(second[:, has_ratio])
        else:
            ratio = first[:, has_ratio] / second[:, has_ratio]
        return np.concatenate([difference, ratio, is_instrumental, difference * is_instrumental], axis=1)

    label = "log_ratio" if recipe == "symmetric" else "ratio"
    return PairFeatures(
        values=build_one_order(scores[:, 0], scores[:, 1]),
        swapped=build_one_order(scores[:, 1], scores[:, 0]),
        names=(
            *(f"{name}_difference" for name in names),
            *(f"{name}_{label}" for name, usable in zip(names, has_ratio, strict=True) if usable),
            "is_instrumental",
            *(f"{name}_difference_x_instrumental" for name in names),
        ),
        notes=notes,
    )


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
    logarithms = np.log(table.durations)
    differences = np.stack(
        [
            table.durations[:, 0] - table.durations[:, 1],
            logarithms[:, 0] - logarithms[:, 1],
            table.loudness[:, 0] - table.loudness[:, 1],
        ],
        axis=1,
    )
    interactions = differences * (table.instrumental == 1).astype(np.float64)[:, None]
    names = ("duration_difference", "log_duration_difference", "loudness_difference")
    values = np.concatenate([differences, interactions], axis=1)
    return PairFeatures(values, -values, (*names, *(f"{name}_x_instrumental" for name in names)))
