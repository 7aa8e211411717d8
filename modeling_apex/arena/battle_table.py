"""
The table of battles: what every part of the arena experiment reads, and `battle_files` makes.

A score that is missing stays missing: [`drop_missing_scores`] leaves such battles out and lists them, and nothing
fills them in.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from modeling_apex.statistics.pair_metrics import read_votes

SCORE_GROUPS = ("popularity", "aesthetics", "other", "truth")
SUBSETS = ("all", "instrumental", "vocal")


@dataclass(frozen=True)
class ScoreColumn:
    """
    Name one score of a battle table and where its two sides stand.

    Args:
        name (`str`): Name of the score in every result.
        group (`str`):
            `"popularity"`, `"aesthetics"`, `"other"`, or `"truth"` for the known appeal of a simulation, which is
            shown as a ceiling and never given to a classifier.
        column_a (`str`): Column of side A.
        column_b (`str`): Column of side B.
    """

    name: str
    group: str
    column_a: str
    column_b: str

    def __post_init__(self) -> None:
        if self.group not in SCORE_GROUPS:
            raise ValueError(f"Group {self.group!r} of score {self.name!r} is unknown. Choose one of {SCORE_GROUPS}.")


@dataclass(frozen=True)
class BattleTable:
    """
    Hold validated battles as arrays, one row a battle.

    Args:
        battle_ids (`np.ndarray` of shape `(num_battles,)`): Unique text ids.
        preferences (`np.ndarray` of shape `(num_battles,)`): `"A"`, `"B"`, `"TIE"` or `"BOTH_BAD"`.
        systems (`np.ndarray` of shape `(num_battles, 2)`):
            Systems of side A and side B; empty throughout where the table names none.
        instrumental (`np.ndarray` of shape `(num_battles,)`): 1 instrumental, 0 vocal, -1 not known.
        prompts (`np.ndarray` of shape `(num_battles,)`): Prompts, empty where not known.
        users (`np.ndarray` of shape `(num_battles,)`): Pseudonyms of the voters, empty where not known.
        durations (`np.ndarray` of shape `(num_battles, 2)`): Seconds, NaN where not known.
        loudness (`np.ndarray` of shape `(num_battles, 2)`): Decibels, NaN where not known.
        scores (`np.ndarray` of shape `(num_battles, 2, num_scores)`): Scores of side A and side B, NaN where missing.
        score_columns (`tuple[ScoreColumn, ...]`): What the last axis of `scores` holds.
    """

    battle_ids: np.ndarray
    preferences: np.ndarray
    systems: np.ndarray
    instrumental: np.ndarray
    prompts: np.ndarray
    users: np.ndarray
    durations: np.ndarray
    loudness: np.ndarray
    scores: np.ndarray
    score_columns: tuple[ScoreColumn, ...]

    def __len__(self) -> int:
        return len(self.battle_ids)

    @property
    def outcomes(self) -> np.ndarray:
        """Give 1 where A won, 0 where B won, 0.5 for a tie and NaN for `BOTH_BAD`, shape `(num_battles,)`."""
        return read_votes(self.preferences)

    @property
    def is_decisive(self) -> np.ndarray:
        """Mark the battles with a winner, shape `(num_battles,)`."""
        return np.isin(self.preferences, ("A", "B"))

    @property
    def is_voted(self) -> np.ndarray:
        """Mark the battles that compare: all but `BOTH_BAD`, shape `(num_battles,)`."""
        return self.preferences != "BOTH_BAD"

    @property
    def has_systems(self) -> bool:
        """Whether the table says which systems made the songs."""
        return bool(any(self.systems.reshape(-1)))

    @property
    def is_between_systems(self) -> np.ndarray:
        """Mark the battles of two systems; one against itself compares no systems, shape `(num_battles,)`."""
        return np.asarray(self.systems[:, 0] != self.systems[:, 1], dtype=bool)

    def number_systems(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the names of the systems, in order, and of each battle their numbers, shape `(num_battles, 2)`."""
        names, flat = np.unique(self.systems.astype(str), return_inverse=True)
        return names, flat.reshape(-1, 2)

    def get_group_indices(self, *groups: str) -> list[int]:
        """Give the positions of the scores of some groups on the last axis of `scores`."""
        return [index for index, column in enumerate(self.score_columns) if column.group in groups]

    def get_subset_mask(self, subset: str) -> np.ndarray:
        """Mark the battles of `"all"`, `"instrumental"` or `"vocal"`; unknown ones belong to `"all"` only."""
        if subset == "all":
            return np.ones(len(self), dtype=bool)
        return self.instrumental == (1 if subset == "instrumental" else 0)

    def select(self, rows: np.ndarray) -> "BattleTable":
        """Build the table of some rows, given as a mask or as indices."""
        arrays = [field.name for field in fields(self) if field.name != "score_columns"]
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})


def drop_missing_scores(table: BattleTable) -> tuple[BattleTable, dict[str, Any]]:
    """
    Leave out the battles that lack a score on a side.

    Args:
        table (`BattleTable`): The battles.

    Returns:
        `tuple[BattleTable, dict]`: The complete battles, and of the others `num_battles`, `battle_ids` and
        `num_missing_per_score`: how many battles lack each score. JSON-ready.

    Raises:
        `ValueError`: If no battle has all its scores.
    """
    is_missing = np.isnan(table.scores).any(axis=1)  # (num_battles, num_scores)
    is_left_out = is_missing.any(axis=1)
    counts = {
        column.name: int(count) for column, count in zip(table.score_columns, is_missing.sum(axis=0), strict=True)
    }
    if len(table) and is_left_out.all():
        raise ValueError(
            f"None of the {len(table)} battles has all its scores; missing per score: {counts}. Score the songs "
            "first, or name only the scores that are there."
        )
    listed = list(table.battle_ids[is_left_out])
    missing = {"num_battles": len(listed), "battle_ids": listed, "num_missing_per_score": counts}
    return table.select(~is_left_out), missing
