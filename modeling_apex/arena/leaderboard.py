"""
Bradley-Terry leaderboards as Music Arena's public one is defined, from human votes or from predicted ones.

What comes in are battles with votes; what leaves are arena scores with bootstrap intervals, and how well the ranking
by predicted votes agrees with the human one. `BOTH_BAD` compares nothing and is dropped, as is a system against
itself; systems under 30 votes are fitted with the others but not listed, and systems that no chain of battles connects
are not put on one scale. The vocal board keeps the battles between two systems that can sing, and the instrumental
board the others, whatever the prompt asked for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modeling_apex.arena.battle_resamples import draw_battle_resamples
from modeling_apex.arena.battle_table import SUBSETS, BattleTable
from modeling_apex.statistics.bootstrap import Resamples
from modeling_apex.statistics.bradley_terry import compute_arena_scores, find_components
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
    resample: str = "auto",
) -> dict[str, Any]:
    """
    Compute the leaderboard by human votes and by predicted votes.

    Args:
        table (`BattleTable`): The battles; `BOTH_BAD` is dropped here.
        predictions (`dict[str, np.ndarray]`, *optional*):
            Margins of every battle of the table by name of the predictor. The side above zero gets the vote, zero is a
            tie. A predictor with a NaN margin is refused.
        num_draws (`int`, defaults to 1000), seed (`int`, defaults to 0), resample (`str`, defaults to `"auto"`):
            Number of bootstrap samples, their seed, and what they draw; see [`draw_battle_resamples`].
        minimum_votes (`int`, defaults to 30): Fewest votes that a listed system has.

    Returns:
        `dict`: `systems` (name, votes, and per source the score with its interval, by human score), `unlisted` systems
        with their votes, `unconnected` sets of systems that met none of those listed, `resampled`, and
        `rank_correlations` per predictor, where fewer than three listed systems give `None`.

    Raises:
        `ValueError`: If no battle has a vote, or a predictor lacks a margin.
    """
    if not len(voted := table.select(is_counted := table.is_voted & table.is_between_systems)):
        raise ValueError("No battle between two systems has a vote for A, B or a tie, so there is nothing to rank.")
    names, indices = voted.number_systems()
    votes = np.bincount(indices.ravel(), minlength=len(names))
    sources = {"human": voted.outcomes, **_read_predicted_votes(is_counted, predictions or {})}
    # The first row are the battles as they are, so that estimate and draws go through one computation.
    resamples = draw_battle_resamples(voted, num_draws, seed, resample)
    weights = np.concatenate([np.ones((1, len(voted))), resamples.weights])
    scores = {name: compute_arena_scores(indices, outcomes, len(names), weights) for name, outcomes in sources.items()}

    components = find_components(indices, len(names))
    listed = np.flatnonzero((votes >= minimum_votes) & (components == 0))
    human = scores["human"][:, listed]
    has_ranking = len(listed) >= MINIMUM_SYSTEMS_TO_RANK
    return {
        "num_battles": len(voted),
        "num_ties": int((voted.preferences == "TIE").sum()),
        "num_against_itself": int((table.is_voted & ~table.is_between_systems).sum()),
        "resampled": resamples.describe(),
        "minimum_votes": minimum_votes,
        "systems": _list_systems(listed[np.argsort(-human[0], kind="stable")], names, votes, scores, resamples),
        "unlisted": _count_votes(names, votes, (components == 0) & (votes < minimum_votes)),
        "unconnected": [
            _count_votes(names, votes, components == component) for component in range(1, components.max() + 1)
        ],
        "rank_correlations": {
            name: _summarize_agreement(human, scores[name][:, listed], resamples) if has_ranking else None
            for name in sources
            if name != "human"
        },
    }


def _count_votes(names: np.ndarray, votes: np.ndarray, is_chosen: np.ndarray) -> dict[str, int]:
    return {str(names[index]): int(votes[index]) for index in np.flatnonzero(is_chosen)}


def _list_systems(
    order: np.ndarray, names: np.ndarray, votes: np.ndarray, scores: dict[str, np.ndarray], resamples: Resamples
) -> list[dict[str, Any]]:
    return [
        {
            "system": str(names[index]),
            "num_votes": int(votes[index]),
            **{name: resamples.summarize(rows[0, index], rows[1:, index]) for name, rows in scores.items()},
        }
        for index in order
    ]


def _read_predicted_votes(is_counted: np.ndarray, predictions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    votes = {}
    for name, margins in predictions.items():
        if np.isnan(margins[is_counted]).any():
            raise ValueError(f"Predictor {name!r} has no margin for some battles with a vote.")
        votes[name] = 0.5 + 0.5 * np.sign(margins[is_counted])
    return votes


def _summarize_agreement(human: np.ndarray, predicted: np.ndarray, resamples: Resamples) -> dict[str, Any]:
    found = compute_spearman(human, predicted)  # (1 + num_draws,)
    summary = resamples.summarize(float(found[0]), found[1:], method="joined")
    if summary["low"] is not None:
        summary["low"], summary["high"] = max(summary["low"], -1.0), min(summary["high"], 1.0)
    return summary


def find_singing_systems(table: BattleTable, stated: Sequence[str] | None = None) -> set[str]:
    """
    Find the systems that can sing: those stated, or those that made a song for a battle that asked for vocals.

    Args:
        table (`BattleTable`): The battles.
        stated (`Sequence[str]`, *optional*): Names of the systems, where they are known.

    Returns:
        `set[str]`: Names of the systems.

    Raises:
        `ValueError`: If a system is stated that the table does not have.
    """
    if stated is None:
        return {str(name) for name in table.systems[table.instrumental == 0].reshape(-1)}
    if unknown := sorted(set(stated) - {str(name) for name in table.systems.reshape(-1)}):
        raise ValueError(f"Systems {unknown} are said to sing, but appear in no battle of the table.")
    return set(stated)


def compute_leaderboards(
    table: BattleTable,
    predictions: dict[str, np.ndarray] | None = None,
    *,
    num_draws: int = 1000,
    seed: int = 0,
    resample: str = "auto",
    singing: Sequence[str] | None = None,
) -> dict[str, dict[str, Any] | None]:
    """
    Compute the leaderboard of all, instrumental and vocal battles, by the public rule; `None` where there are none.

    Args are those of [`compute_leaderboard`], and `singing`, as for [`find_singing_systems`]. A table that neither
    says which battles are instrumental nor which systems sing has no board but that of all battles.
    """
    singers = sorted(find_singing_systems(table, singing))
    is_vocal = np.isin(table.systems.astype(str), singers).all(axis=1)
    is_told = np.full(len(table), singing is not None or bool((table.instrumental >= 0).any()))
    masks = {"all": np.full(len(table), True), "instrumental": ~is_vocal & is_told, "vocal": is_vocal & is_told}
    boards: dict[str, dict[str, Any] | None] = {}
    for subset in SUBSETS:
        part = table.select(masks[subset])
        masked = {name: margins[masks[subset]] for name, margins in (predictions or {}).items()}
        options: dict[str, Any] = {"num_draws": num_draws, "seed": seed, "resample": resample}
        has_battles = (part.is_voted & part.is_between_systems).any()
        boards[subset] = compute_leaderboard(part, masked, **options) if has_battles else None
    return boards
