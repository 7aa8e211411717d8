"""
What the intervals of battles draw: prompts and users where they repeat, both where both do, otherwise battles.

What comes in is a table; what leaves are bootstrap samples of its battles that say which unit they drew.
"""

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.statistics.bootstrap import Resamples, draw_resamples

RESAMPLED_UNITS = ("auto", "battle", "prompt", "user")


def draw_battle_resamples(table: BattleTable, num_draws: int, seed: int, unit: str = "auto") -> Resamples:
    """
    Draw bootstrap samples of battles.

    Args:
        table (`BattleTable`): The battles.
        num_draws (`int`): Number of samples.
        seed (`int`): Seed of the samples.
        unit (`str`, defaults to `"auto"`):
            `"battle"`, `"prompt"`, `"user"`, or `"auto"`: prompts and users as far as they are known and repeat.
            Chains of shared prompts and users would join nearly all battles into one group, so the two are crossed.

    Returns:
        [`Resamples`]: The samples. A battle without a prompt or user stands alone.

    Raises:
        `ValueError`: If `unit` is unknown, or the table does not name the unit that is asked for.
    """
    if unit not in RESAMPLED_UNITS:
        raise ValueError(f"`resample` is {unit!r}. Choose one of {RESAMPLED_UNITS}.")
    named = {"prompt": table.prompts, "user": table.users}
    if unit in named and not any(named[unit]):
        column = {"prompt": "prompt", "user": "user_pseudonym"}[unit]
        raise ValueError(
            f"`resample` is {unit!r}, but no battle has a {unit}. Add the column {column!r}, or use 'auto'."
        )
    chosen = {name: values for name, values in named.items() if unit in ("auto", name) and any(values)}
    groups = {}
    for name, values in chosen.items():
        _, numbers = np.unique(values.astype(str), return_inverse=True)
        alone = np.array([not value for value in values])
        groups[name] = np.where(alone, len(values) + np.arange(len(values)), numbers)
    return draw_resamples(len(table), num_draws, seed, groups, item="battle")
