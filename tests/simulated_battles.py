"""Simulated battles for the tests: votes drawn from known appeal, so that the right answer is known."""

from dataclasses import replace
from typing import Any

import numpy as np

from modeling_apex.arena.battle_files import build_battle_table
from modeling_apex.arena.battle_table import BattleTable

POPULARITY = ("score_streams", "score_likes")
AESTHETICS = ("coherence", "musicality", "memorability", "clarity", "naturalness")


def build_rows(
    num_battles: int = 200,
    *,
    seed: int = 0,
    popularity_effect: float = 0.0,
    aesthetics_effect: float = 0.0,
    system_effect: float = 0.0,
    num_systems: int = 5,
    tie_share: float = 0.0,
    both_bad_share: float = 0.0,
) -> list[dict[str, Any]]:
    """Simulate battles whose winner depends on scores and systems as strongly as asked (logits per unit)."""
    generator = np.random.default_rng(seed)
    system_strengths = system_effect * generator.normal(size=num_systems)
    rows = []
    for number in range(num_battles):
        systems = generator.choice(num_systems, 2, replace=False)
        row: dict[str, Any] = {"battle_uuid": f"battle-{number}", "is_instrumental": bool(generator.random() < 0.4)}
        row |= {"prompt": f"prompt {number // 2}", "user_pseudonym": f"user {number // 4}"}
        appeal = {}
        for side, system in zip("ab", systems, strict=True):
            hidden = generator.normal(size=7)
            appeal[side] = popularity_effect * hidden[:2].mean() + aesthetics_effect * hidden[2:].mean()
            appeal[side] += system_strengths[system]
            row[f"system_{side}"] = f"system-{system}"
            squashed = 1.0 / (1.0 + np.exp(-hidden))
            row |= {f"{name}_{side}": 100.0 * value for name, value in zip(POPULARITY, squashed[:2], strict=True)}
            row |= {f"{name}_{side}": 1.0 + 4.0 * value for name, value in zip(AESTHETICS, squashed[2:], strict=True)}
            row |= {f"duration_{side}": generator.uniform(30, 200), f"loudness_{side}": generator.normal(-15, 3)}
            row[f"appeal_{side}"] = appeal[side]
        kind, chance = generator.random(), 1.0 / (1.0 + np.exp(appeal["b"] - appeal["a"]))
        row["preference"] = "A" if generator.random() < chance else "B"
        if kind < tie_share:
            row["preference"] = "TIE"
        elif kind < tie_share + both_bad_share:
            row["preference"] = "BOTH_BAD"
        rows.append(row)
    return rows


def build_table(num_battles: int = 200, **options: Any) -> BattleTable:
    """Simulate battles and validate them into a table."""
    return build_battle_table(build_rows(num_battles, **options))


def name_families(table: BattleTable) -> BattleTable:
    """Call the systems two versions of one generator each: what leaving one family out needs."""
    names = {f"system-{number}": f"{'abcdefgh'[number // 2]}-v{number % 2 + 1}" for number in range(16)}
    return replace(table, systems=np.array([[names[name] for name in row] for row in table.systems], dtype=object))


def swap_sides(table: BattleTable) -> BattleTable:
    """Build the same battles with A and B exchanged everywhere."""
    exchanged = {"A": "B", "B": "A", "TIE": "TIE", "BOTH_BAD": "BOTH_BAD"}
    return replace(
        table,
        preferences=np.array([exchanged[preference] for preference in table.preferences], dtype=object),
        systems=table.systems[:, ::-1],
        durations=table.durations[:, ::-1],
        loudness=table.loudness[:, ::-1],
        scores=table.scores[:, ::-1],
    )
