"""
Bradley-Terry leaderboards as Music Arena's public one is defined, from human votes or from predicted ones.

What comes in are battles with votes (1: A, 0: B, 0.5: tie, half a win each); what leaves are arena scores with
bootstrap intervals, and how well the ranking by predicted votes agrees with the human one. The fit is the L2-penalised
logistic regression without intercept (C = 1) on who met whom; scores are `1000 + 400 / ln(10) * strength`. `BOTH_BAD`
compares nothing and is dropped; systems under 30 votes are fitted with the others but not listed.
"""

import math
from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import SUBSETS, BattleTable
from modeling_apex.statistics.pair_metrics import draw_bootstrap_weights, summarize_draws

SCALE = 400.0 / math.log(10.0)
CENTER = 1000.0
MINIMUM_VOTES = 30
MINIMUM_SYSTEMS_TO_RANK = 3
_MAXIMUM_NEWTON_STEPS = 100


def fit_bradley_terry(wins: np.ndarray, *, inverse_penalty: float = 1.0) -> np.ndarray:
    """
    Fit Bradley-Terry strengths by penalised maximum likelihood.

    Args:
        wins (`np.ndarray` of shape `(..., num_systems, num_systems)`):
            How often the row's system beat the column's; leading axes are independent fits.
        inverse_penalty (`float`, defaults to 1.0): Weight `C` of the likelihood against half the squared strengths.

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
    num_systems = wins.shape[-1]
    met = wins + np.swapaxes(wins, -1, -2)
    identity = np.eye(num_systems)
    strengths = np.zeros(wins.shape[:-1])
    for _ in range(_MAXIMUM_NEWTON_STEPS):
        chances = 0.5 * (1.0 + np.tanh(0.5 * (strengths[..., :, None] - strengths[..., None, :])))
        gradient = strengths - inverse_penalty * (wins - met * chances).sum(axis=-1)
        curvature = inverse_penalty * met * chances * (1.0 - chances)
        hessian = identity * (1.0 + curvature.sum(axis=-1))[..., :, None] - curvature
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        # Far from the optimum a full Newton step can overshoot; two logits a step cannot.
        strengths = strengths - np.clip(step, -2.0, 2.0)
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return strengths


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


def _rank(values: np.ndarray) -> np.ndarray:
    """Rank along the last axis, ties by their average."""
    below = (values[..., :, None] > values[..., None, :]).sum(axis=-1)
    equal = (values[..., :, None] == values[..., None, :]).sum(axis=-1)
    return below + 0.5 * (equal - 1)


def compute_rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """
    Compute Spearman's rank correlation along the last axis.

    Args:
        first (`np.ndarray` of shape `(..., num_systems)`): Scores.
        second (`np.ndarray` of shape `(..., num_systems)`): Other scores of the same systems.

    Returns:
        `np.ndarray` of shape `(...,)`: Correlations; NaN where one side is constant.
    """
    x, y = _rank(np.asarray(first)), _rank(np.asarray(second))
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    spread = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.divide((x * y).sum(axis=-1), spread, out=np.full_like(spread, np.nan), where=spread > 0)


def compute_leaderboard(
    table: BattleTable,
    predictions: dict[str, np.ndarray] | None = None,
    *,
    num_draws: int = 1000,
    seed: int = 0,
    minimum_votes: int = MINIMUM_VOTES,
) -> dict[str, Any]:
    """
    Compute the leaderboard by human votes and by predicted votes.

    Args:
        table (`BattleTable`): The battles; `BOTH_BAD` is dropped here.
        predictions (`dict[str, np.ndarray]`, *optional*):
            Margins of every battle of the table by name of the predictor. The side above zero gets the vote, zero is a
            tie. A predictor with a NaN margin is refused.
        num_draws (`int`, defaults to 1000): Number of bootstrap samples of battles.
        seed (`int`, defaults to 0): Seed of the samples.
        minimum_votes (`int`, defaults to 30): Fewest votes that a listed system has.

    Returns:
        `dict`: `systems` (name, votes, and per source the score with its interval, by human score), `unlisted` systems
        with their votes, and `rank_correlations` per predictor, where fewer than three listed systems give `None`.

    Raises:
        `ValueError`: If no battle has a vote, or a predictor lacks a margin.
    """
    is_voted = table.is_voted
    voted = table.select(is_voted)
    if not len(voted):
        raise ValueError("No battle has a vote for A, B or a tie, so there is nothing to rank.")
    names, flat = np.unique(voted.systems.astype(str), return_inverse=True)
    indices = flat.reshape(-1, 2)
    votes = np.bincount(indices.ravel(), minlength=len(names))
    weights = draw_bootstrap_weights(len(voted), num_draws, seed)

    sources = {"human": voted.outcomes}
    for name, margins in (predictions or {}).items():
        if np.isnan(margins[is_voted]).any():
            raise ValueError(f"Predictor {name!r} has no margin for some battles with a vote.")
        sources[name] = 0.5 + 0.5 * np.sign(margins[is_voted])
    scores, drawn = {}, {}
    for name, outcomes in sources.items():
        scores[name] = CENTER + SCALE * fit_bradley_terry(compute_wins(indices, outcomes, len(names)))
        drawn[name] = CENTER + SCALE * fit_bradley_terry(compute_wins(indices, outcomes, len(names), weights))

    listed = np.flatnonzero(votes >= minimum_votes)
    order = listed[np.argsort(-scores["human"][listed], kind="stable")]
    has_ranking = len(listed) >= MINIMUM_SYSTEMS_TO_RANK
    return {
        "num_battles": len(voted),
        "num_ties": int((voted.preferences == "TIE").sum()),
        "minimum_votes": minimum_votes,
        "systems": [
            {
                "system": str(names[index]),
                "num_votes": int(votes[index]),
                **{name: summarize_draws(scores[name][index], drawn[name][:, index]) for name in sources},
            }
            for index in order
        ],
        "unlisted": {str(names[i]): int(votes[i]) for i in range(len(names)) if votes[i] < minimum_votes},
        "rank_correlations": {
            name: summarize_draws(
                float(compute_rank_correlation(scores["human"][listed], scores[name][listed])),
                compute_rank_correlation(drawn["human"][:, listed], drawn[name][:, listed]),
            )
            if has_ranking
            else None
            for name in sources
            if name != "human"
        },
    }


def compute_leaderboards(
    table: BattleTable, predictions: dict[str, np.ndarray] | None = None, *, num_draws: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any] | None]:
    """Compute the leaderboard of all, instrumental and vocal battles; `None` where there are none."""
    boards: dict[str, dict[str, Any] | None] = {}
    for subset in SUBSETS:
        mask = table.get_subset_mask(subset)
        part = table.select(mask)
        masked = {name: margins[mask] for name, margins in (predictions or {}).items()}
        boards[subset] = (
            compute_leaderboard(part, masked, num_draws=num_draws, seed=seed) if part.is_voted.any() else None
        )
    return boards
