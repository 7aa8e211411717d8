"""
Bradley-Terry strengths of systems, on the scale of Music Arena's public leaderboard.

What comes in are battles between numbered systems (1: A won, 0: B won, 0.5: a tie, half a win each); what leaves are
strengths or arena scores, `1000 + 400 / ln(10) * strength`. The fit is the L2-penalised logistic regression without
intercept (C = 1) on who met whom.
"""

import math

import numpy as np

from modeling_apex.statistics.logistic import fit_logistic

SCALE = 400.0 / math.log(10.0)
CENTER = 1000.0


def compute_wins(
    system_indices: np.ndarray, outcomes: np.ndarray, num_systems: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """
    Count wins between systems, for the battles as they are or for many bootstrap draws.

    Args:
        system_indices (`np.ndarray` of shape `(num_battles, 2)`): Systems of side A and side B.
        outcomes (`np.ndarray` of shape `(num_battles,)`): 1, 0, or 0.5 for half a win each.
        num_systems (`int`): Number of systems.
        weights (`np.ndarray` of shape `(num_draws, num_battles)`, *optional*): Bootstrap counts.

    Returns:
        `np.ndarray` of shape `(num_systems, num_systems)`, with a leading `num_draws` if `weights` are given.
    """
    first, second = system_indices[:, 0], system_indices[:, 1]
    drawn = np.ones((1, len(outcomes))) if weights is None else weights
    # A battle of a system against itself compares nothing.
    drawn = drawn * (first != second)
    cells = np.zeros((len(outcomes), num_systems * num_systems))
    rows = np.arange(len(outcomes))
    cells[rows, first * num_systems + second] = outcomes
    cells[rows, second * num_systems + first] = 1.0 - outcomes
    wins = (drawn @ cells).reshape(len(drawn), num_systems, num_systems)
    return wins[0] if weights is None else wins


def fit_bradley_terry(wins: np.ndarray) -> np.ndarray:
    """
    Fit Bradley-Terry strengths by penalised maximum likelihood.

    Args:
        wins (`np.ndarray` of shape `(..., num_systems, num_systems)`):
            How often the row's system beat the column's; leading axes are independent fits.

    Returns:
        `np.ndarray` of shape `(..., num_systems)`: Strengths in logits; their sum is zero.

    Raises:
        `ValueError`: If `wins` is not square, or holds a negative or non-finite count.
    """
    wins = np.asarray(wins, dtype=np.float64)
    if wins.ndim < 2 or wins.shape[-1] != wins.shape[-2]:
        raise ValueError(f"`wins` must be square in its last two axes, received shape {wins.shape}.")
    if not np.isfinite(wins).all() or (wins < 0).any():
        raise ValueError("`wins` must hold finite counts of at least zero.")
    systems = np.eye(wins.shape[-1])
    first, second = np.triu_indices(len(systems), 1)
    won, lost = wins[..., first, second], wins[..., second, first]
    return fit_logistic(systems[first] - systems[second], won, np.ones(len(systems)), trials=won + lost)


def find_components(system_indices: np.ndarray, num_systems: int) -> np.ndarray:
    """
    Number the systems that battles connect, directly or through others: only they can stand on one scale.

    Args:
        system_indices (`np.ndarray` of shape `(num_battles, 2)`): Systems of side A and side B.
        num_systems (`int`): Number of systems.

    Returns:
        `np.ndarray` of shape `(num_systems,)`: 0 for the systems of the component with the most battles, then 1, 2 and
        so on. A system against itself connects nothing.
    """
    members = np.arange(num_systems)
    for first, second in system_indices:
        members[members == members[second]] = members[first]
    is_compared = system_indices[:, 0] != system_indices[:, 1]
    battles = np.bincount(members[system_indices[is_compared, 0]], minlength=num_systems)
    names = np.unique(members)
    ranks = {int(name): rank for rank, name in enumerate(names[np.argsort(-battles[names], kind="stable")])}
    return np.array([ranks[int(name)] for name in members], dtype=np.int64)


def compute_arena_scores(
    system_indices: np.ndarray, outcomes: np.ndarray, num_systems: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """
    Compute the arena scores of all systems; arguments are those of [`compute_wins`].

    Returns:
        `np.ndarray` of shape `(num_systems,)`, with a leading `num_draws` if `weights` are given.
    """
    return CENTER + SCALE * fit_bradley_terry(compute_wins(system_indices, outcomes, num_systems, weights))
