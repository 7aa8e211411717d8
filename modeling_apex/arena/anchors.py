"""
Anchor calibration: what a few battles of a newly released generator add to scores that have never heard it.

What comes in is a table with scores; what leaves is, per number of anchor battles, how well the remaining battles of
the new system are predicted. A head is fitted without the system; the anchors then give the system one offset in
logits, with a normal prior around zero, and nothing else changes.
"""

from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.preference import MINIMUM_TRAINING_BATTLES, fit_preference_head
from modeling_apex.statistics.bootstrap import draw_resamples
from modeling_apex.statistics.logistic import fit_logistic

DEFAULT_ANCHOR_COUNTS = (0, 5, 10, 20, 40)
MINIMUM_TEST_BATTLES = 10
PRIOR_DEVIATION = 1.0  # of the offsets before any battle, in logits


def fit_system_offsets(margins: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """
    Fit the offset of one system from its anchor battles, with a normal prior around zero.

    Args:
        margins (`np.ndarray` of shape `(..., num_anchors)`): Predicted logits in favour of the system.
        outcomes (`np.ndarray` of shape `(..., num_anchors)`): 1 where the system won, 0 where it lost, 0.5 for a tie.

    Returns:
        `np.ndarray` of shape `(...,)`: The most probable offset; zero without anchors.
    """
    penalties = np.array([PRIOR_DEVIATION**-2.0])
    return fit_logistic(np.ones((margins.shape[-1], 1)), outcomes, penalties, offsets=margins)[..., 0]


def _measure_system(
    table: BattleTable, system: str, counts: tuple[int, ...], num_repeats: int, seed: int
) -> dict[int, tuple[float, float]]:
    """Give accuracy and log loss per number of anchors, on the same held-out battles for every number."""
    is_present = (table.systems == system).any(axis=1)
    head = fit_preference_head(table.select(~is_present), seed=seed)
    weights = np.array([head.weights.get(column.name, 0.0) for column in table.score_columns])
    own = table.select(is_present)
    sign = np.where(own.systems[:, 0] == system, 1.0, -1.0)
    margins = sign * ((own.scores[:, 0] - own.scores[:, 1]) @ weights)
    outcomes = np.where(sign > 0, own.outcomes, 1.0 - own.outcomes)

    generator = np.random.default_rng(seed)
    orders = np.stack([generator.permutation(len(own)) for _ in range(num_repeats)])
    anchors, test = orders[:, : max(counts)], orders[:, max(counts) :]
    found = {}
    for count in counts:
        offsets = fit_system_offsets(margins[anchors[:, :count]], outcomes[anchors[:, :count]])
        logits = margins[test] + offsets[:, None]
        is_right = 1.0 - np.abs(0.5 + 0.5 * np.sign(logits) - outcomes[test])
        loss = np.logaddexp(0.0, np.where(outcomes[test] == 1, -logits, logits))
        found[count] = (float(is_right.mean()), float(loss.mean()))
    return found


def compute_anchor_gains(
    table: BattleTable,
    *,
    counts: tuple[int, ...] = DEFAULT_ANCHOR_COUNTS,
    num_repeats: int = 50,
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Measure the gain per number of anchor battles.

    Args:
        table (`BattleTable`): Battles with all their scores.
        counts (`tuple[int, ...]`, defaults to `(0, 5, 10, 20, 40)`): Numbers of anchor battles; must contain 0.
        num_repeats (`int`, defaults to 50), num_draws (`int`, defaults to 1000), seed (`int`, defaults to 0):
            Random choices of anchors per system, bootstrap draws over systems, and the seed of both.

    Returns:
        `dict`: `gains` (per count the mean accuracy and log loss over systems and the gain over no anchors),
        `resampled`, `per_system`, and `left_out` systems with their battles. A system takes part if it leaves at least
        ten battles to judge after the largest number of anchors, and the other systems enough to train on.

    Raises:
        `ValueError`: If `counts` does not contain 0, or the table names no systems or has no scores.
    """
    if not table.has_systems or not table.get_group_indices("popularity", "aesthetics", "other"):
        raise ValueError("Anchor battles need systems and scores: `system_a`, `system_b` and two columns per score.")
    if 0 not in counts or min(counts) < 0:
        raise ValueError(f"`counts` is {counts}. It must hold 0, to compare with, and no negative number.")
    decisive = table.select(table.is_decisive & table.is_between_systems)
    names, battles = np.unique(decisive.systems.astype(str), return_counts=True)
    is_used = (battles >= max(counts) + MINIMUM_TEST_BATTLES) & (len(decisive) - battles >= MINIMUM_TRAINING_BATTLES)
    used, gains = names[is_used], []
    per_system = {str(name): _measure_system(decisive, name, tuple(counts), num_repeats, seed) for name in used}
    resamples = draw_resamples(len(per_system), num_draws, seed, item="system") if per_system else None
    if resamples is not None:
        shares = resamples.weights / len(per_system)
        base = np.array([found[0] for found in per_system.values()])
        for count in counts:
            values = np.array([found[count] for found in per_system.values()])  # (num_systems, 2)
            rows = {
                "accuracy": values[:, 0],
                "log_loss": values[:, 1],
                "accuracy_gain": values[:, 0] - base[:, 0],
                "log_loss_gain": base[:, 1] - values[:, 1],
            }
            summary = {name: resamples.summarize(float(row.mean()), shares @ row) for name, row in rows.items()}
            gains.append({"num_anchors": count, **summary})
    return {
        "gains": gains,
        "resampled": None if resamples is None else resamples.describe(),
        "num_repeats": num_repeats,
        "prior_deviation": PRIOR_DEVIATION,
        "per_system": {
            name: {str(count): {"accuracy": a, "log_loss": loss} for count, (a, loss) in found.items()}
            for name, found in per_system.items()
        },
        "left_out": {str(n): int(b) for n, b in zip(names[~is_used], battles[~is_used], strict=True)},
    }
