"""
Agreement of two Bradley-Terry leaderboards, as an `evaluate` metric that works alone by `evaluate.load` of its folder.

What comes in are battles with predicted margins and human votes; what leaves is the rank correlation between the
leaderboard of the predicted votes and that of the human ones. Both are fitted as Music Arena's public leaderboard:
logistic regression with an L2 penalty (C = 1) and no intercept, a tie being half a win each.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Whether predicted votes rank systems as people do: Spearman's rank correlation between the two
Bradley-Terry leaderboards over systems with at least `minimum_votes` votes, and the arena scores (centre 1000, scale
400 / ln 10) of both.
"""
_INPUTS = """
predictions (`list[float]`): margin of A over B; above zero the vote goes to A, zero is a tie.
references (`list[str]`): human votes "A", "B", "TIE" or "BOTH_BAD"; the last are left out.
systems_a, systems_b (`list[str]`): the systems that made the two songs.
minimum_votes (`int`, defaults to 30): fewest votes of a listed system.
"""
_CITATION = "Bradley and Terry, Rank Analysis of Incomplete Block Designs, Biometrika 39 (1952)."
_OUTCOMES = {"A": 1.0, "B": 0.0, "TIE": 0.5}
_SCALE = 400.0 / np.log(10.0)


def _fit_arena_scores(indices: np.ndarray, outcomes: np.ndarray, num_systems: int) -> np.ndarray:
    design = np.zeros((len(outcomes), num_systems))
    np.add.at(design, (np.arange(len(outcomes)), indices[:, 0]), 1.0)
    np.add.at(design, (np.arange(len(outcomes)), indices[:, 1]), -1.0)
    strengths = np.zeros(num_systems)
    for _ in range(100):
        chances = 0.5 * (1.0 + np.tanh(0.5 * design @ strengths))
        gradient = strengths - design.T @ (outcomes - chances)
        hessian = np.eye(num_systems) + (design * (chances * (1.0 - chances))[:, None]).T @ design
        step = np.linalg.solve(hessian, gradient)
        strengths -= np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-10:
            break
    return 1000.0 + _SCALE * strengths


def _rank(values: np.ndarray) -> np.ndarray:
    below = (values[:, None] > values).sum(axis=1)
    return below + 0.5 * ((values[:, None] == values).sum(axis=1) - 1)


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
        unknown = sorted({str(vote) for vote in references} - {*_OUTCOMES, "BOTH_BAD"})
        if unknown:
            raise ValueError(f"Unknown votes {unknown}. Expected A, B, TIE or BOTH_BAD.")
        is_voted = np.array([vote != "BOTH_BAD" for vote in references], dtype=bool)
        margins = np.asarray(predictions, dtype=np.float64)[is_voted]
        if not len(margins) or not np.isfinite(margins).all():
            raise ValueError("The battles need at least one vote for A, B or a tie, and a finite margin each.")
        names, flat = np.unique(np.stack([systems_a, systems_b], axis=1)[is_voted], return_inverse=True)
        indices = flat.reshape(-1, 2)
        outcomes = np.array([_OUTCOMES[vote] for vote in references if vote != "BOTH_BAD"])
        human = _fit_arena_scores(indices, outcomes, len(names))
        predicted = _fit_arena_scores(indices, 0.5 + 0.5 * np.sign(margins), len(names))
        votes = np.bincount(indices.ravel(), minlength=len(names))
        listed = np.flatnonzero(votes >= minimum_votes)
        correlation = None
        if len(listed) >= 3:
            ranks = np.stack([_rank(human[listed]), _rank(predicted[listed])])
            if (ranks.std(axis=1) > 0).all():
                correlation = float(np.corrcoef(ranks)[0, 1])
        return {
            "rank_correlation": correlation,
            "num_systems": len(listed),
            "human_scores": {str(names[index]): float(human[index]) for index in listed},
            "predicted_scores": {str(names[index]): float(predicted[index]) for index in listed},
        }
