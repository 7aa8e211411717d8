"""
Bradley-Terry leaderboards as Music Arena's public one is defined, from human votes or from predicted ones.

What comes in are battles with votes; what leaves are arena scores with bootstrap intervals, and how well the ranking
by predicted votes agrees with the human one. `BOTH_BAD` compares nothing and is dropped; systems under 30 votes are
fitted with the others but not listed.
"""

from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import SUBSETS, BattleTable
from modeling_apex.statistics.bootstrap import draw_bootstrap_weights, summarize_draws
from modeling_apex.statistics.bradley_terry import compute_arena_scores
from modeling_apex.statistics.metrics import compute_spearman

MINIMUM_VOTES = 30
MINIMUM_SYSTEMS_TO_RANK = 3


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
    voted = table.select(table.is_voted)
    if not len(voted):
        raise ValueError("No battle has a vote for A, B or a tie, so there is nothing to rank.")
    names, indices = voted.number_systems()
    votes = np.bincount(indices.ravel(), minlength=len(names))
    sources = {"human": voted.outcomes, **_read_predicted_votes(table, predictions or {})}
    # The first row are the battles as they are, so that estimate and draws go through one computation.
    weights = np.concatenate([np.ones((1, len(voted))), draw_bootstrap_weights(len(voted), num_draws, seed)])
    scores = {name: compute_arena_scores(indices, outcomes, len(names), weights) for name, outcomes in sources.items()}

    listed = np.flatnonzero(votes >= minimum_votes)
    human = scores["human"][:, listed]
    has_ranking = len(listed) >= MINIMUM_SYSTEMS_TO_RANK
    return {
        "num_battles": len(voted),
        "num_ties": int((voted.preferences == "TIE").sum()),
        "minimum_votes": minimum_votes,
        "systems": [
            {
                "system": str(names[index]),
                "num_votes": int(votes[index]),
                **{name: summarize_draws(values[0, index], values[1:, index]) for name, values in scores.items()},
            }
            for index in listed[np.argsort(-human[0], kind="stable")]
        ],
        "unlisted": {str(names[i]): int(votes[i]) for i in range(len(names)) if votes[i] < minimum_votes},
        "rank_correlations": {
            name: _summarize_agreement(human, scores[name][:, listed]) if has_ranking else None
            for name in sources
            if name != "human"
        },
    }


def _read_predicted_votes(table: BattleTable, predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    votes = {}
    for name, margins in predictions.items():
        if np.isnan(margins[table.is_voted]).any():
            raise ValueError(f"Predictor {name!r} has no margin for some battles with a vote.")
        votes[name] = 0.5 + 0.5 * np.sign(margins[table.is_voted])
    return votes


def _summarize_agreement(human: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    found = compute_spearman(human, predicted)  # (1 + num_draws,)
    return summarize_draws(found[0], found[1:])


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
