"""
Agreement of two Bradley-Terry leaderboards, as an `evaluate` metric: `evaluate.load("<this folder>")`.

What comes in are battles with predicted margins and human votes; what leaves is the rank correlation between the
leaderboard of the predicted votes and that of the human ones, both fitted as Music Arena's public one.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from modeling_apex.statistics.bradley_terry import compute_arena_scores, find_components  # From: apex-music
from modeling_apex.statistics.metrics import compute_spearman  # From: apex-music
from modeling_apex.statistics.pair_metrics import read_votes  # From: apex-music

_DESCRIPTION = """
Whether predicted votes rank systems as people do: Spearman's rank correlation between the two
Bradley-Terry leaderboards over systems with at least `minimum_votes` votes, and the arena scores (centre 1000, scale
400 / ln 10) of both.
"""
_INPUTS = """
predictions (`list[float]`): margin of A over B; above zero the vote goes to A, zero is a tie.
references (`list[str]`): human votes "A", "B", "TIE" or "BOTH_BAD"; the last are left out.
systems_a, systems_b (`list[str]`): the systems that made the two songs.
minimum_votes (`int`, defaults to 30): fewest votes of a listed system. Battles of a system against itself count for
    nothing, and only the largest set of systems that battles connect is listed.
"""
_CITATION = "Bradley and Terry, Rank Analysis of Incomplete Block Designs, Biometrika 39 (1952)."


class BradleyTerryAgreement(evaluate.Metric):
    """Compute the rank correlation between the leaderboards of predicted and human votes."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("string"),
                    "systems_a": datasets.Value("string"),
                    "systems_b": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[str],
        systems_a: list[str],
        systems_b: list[str],
        minimum_votes: int = 30,
    ) -> dict[str, Any]:
        outcomes = read_votes(references)
        # A battle of a system against itself compares nothing.
        is_voted = ~np.isnan(outcomes) & (np.asarray(systems_a) != np.asarray(systems_b))
        outcomes, margins = outcomes[is_voted], np.asarray(predictions, dtype=np.float64)[is_voted]
        if not len(margins) or not np.isfinite(margins).all():
            raise ValueError("The battles need at least one vote for A, B or a tie, and a finite margin each.")
        names, flat = np.unique(np.stack([systems_a, systems_b], axis=1)[is_voted], return_inverse=True)
        indices = flat.reshape(-1, 2)
        human = compute_arena_scores(indices, outcomes, len(names))
        predicted = compute_arena_scores(indices, 0.5 + 0.5 * np.sign(margins), len(names))
        votes = np.bincount(indices.ravel(), minlength=len(names))
        # Systems that no chain of battles connects cannot stand on one scale: the largest part is ranked.
        listed = np.flatnonzero((votes >= minimum_votes) & (find_components(indices, len(names)) == 0))
        correlation = None
        if len(listed) >= 3:
            found = float(compute_spearman(human[listed], predicted[listed]))
            correlation = None if np.isnan(found) else found
        return {
            "rank_correlation": correlation,
            "num_systems": len(listed),
            "human_scores": {str(names[index]): float(human[index]) for index in listed},
            "predicted_scores": {str(names[index]): float(predicted[index]) for index in listed},
        }
