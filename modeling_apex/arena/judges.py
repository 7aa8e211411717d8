"""
Several judges of the same battles side by side: whose scores foretell the votes better, and is the difference luck?

What comes in are the battles, and for each judge a table of their scores, as `apex-music arena --model` stores it.
What leaves are the metrics of each judge's rules and their differences in pairs. All of it is measured on the battles
that every judge scored, by the same bootstrap draws, so that differences are paired.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from modeling_apex.arena.battle_files import load_battle_table
from modeling_apex.arena.battle_resamples import draw_battle_resamples
from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.direct_rules import build_direct_rules
from modeling_apex.arena.predictions import PairPrediction, compare_measured, measure_subsets
from modeling_apex.corpus.identity import identify_file
from modeling_apex.statistics.significance import compute_holm_rejections

# Published runners judge by musicality alone or by the mean of the aesthetic scores, and do not say which.
DEFAULT_RULES = ("musicality", "aesthetics_mean")


@dataclass(frozen=True)
class Judge:
    """
    Hold what one judge says of battles.

    Args:
        name (`str`): What results call it.
        source (`str`), sha256 (`str`, *optional*): The file that its scores come from, and the hash of that.
        votes (`dict[str, str]`): The vote of each battle that it scored, by the battle's id.
        margins (`dict[str, dict[str, float]]`): By rule and battle, above zero where A is predicted to win.
    """

    name: str
    source: str
    sha256: str | None
    votes: dict[str, str]
    margins: dict[str, dict[str, float]]


def load_judge(declaration: str) -> Judge:
    """
    Read a judge.

    Args:
        declaration (`str`):
            `NAME[:RULE,RULE...]=TABLE`: a table of the battles with its scores, and which of its direct rules judge
            (a score's name, `popularity_mean`, `aesthetics_mean`, `all_scores_mean`). Defaults to musicality and the
            mean of the aesthetic scores.

    Returns:
        [`Judge`]

    Raises:
        `FileNotFoundError`: If there is no such table.
        `ValueError`: If the declaration cannot be read, or the table allows no such rule.
    """
    label, _, path = declaration.partition("=")
    name, _, listed = label.partition(":")
    rules = listed.split(",") if listed else list(DEFAULT_RULES)
    if not name or not path or not all(rules):
        raise ValueError(
            f"Judge {declaration!r} cannot be read. Expected NAME[:RULE,RULE]=TABLE, for example "
            '"songeval=runs/songeval/battle_scores.jsonl".'
        )
    table = load_battle_table(path)
    table = table.select(~np.isnan(table.scores).any(axis=(1, 2)))
    found = {rule.name: rule.margins for rule in build_direct_rules(table)} if len(table) else {}
    if missing := [rule for rule in rules if rule not in found]:
        raise ValueError(f"{path}: no rule {', '.join(missing)} for the judge {name!r}; it allows {', '.join(found)}.")
    ids = [str(battle) for battle in table.battle_ids]
    return Judge(
        name,
        path,
        identify_file(Path(os.path.expanduser(path))).sha256,
        dict(zip(ids, map(str, table.preferences), strict=True)),
        {rule: dict(zip(ids, map(float, found[rule]), strict=True)) for rule in dict.fromkeys(rules)},
    )


def compare_judges(
    table: BattleTable, judges: Sequence[Judge], *, num_draws: int = 1000, seed: int = 0, resample: str = "auto"
) -> dict[str, Any]:
    """
    Measure judges on the battles that all of them scored, alone and in pairs.

    Args:
        table (`BattleTable`): The battles; scores of its own play no part.
        judges (`Sequence[Judge]`): From [`load_judge`].
        num_draws (`int`), seed (`int`), resample (`str`): As in `ArenaOptions`.

    Returns:
        `dict`: `judges` (name, source, hash, number of battles), `num_battles` with a winner that all scored,
        `num_left_out`, `resampled`, `rules` (by `judge: rule`, subset and metric) and `differences` (of each pair,
        first minus second, with a paired interval, and whether it `survives_correction`). Survives JSON.

    Raises:
        `ValueError`: If two judges have one name, a judge's table has another vote, or the judges share no battle with
            a winner.
    """
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        raise ValueError(f"Names of judges must be unique, got {', '.join(names)}.")
    votes = dict(zip(map(str, table.battle_ids), map(str, table.preferences), strict=True))
    for judge in judges:
        _check_votes(judge, votes)
    is_shared = np.array([all(battle in judge.votes for judge in judges) for battle in votes], dtype=bool)
    shared = table.select(is_shared & table.is_decisive)
    if not len(shared):
        counts = ", ".join(f"{judge.name} {len(judge.votes)}" for judge in judges)
        raise ValueError(
            f"The judges share no battle with a winner; battles with all scores: {counts}, of {len(table)} in the "
            "table. Pass scores of the same battles."
        )
    resamples = draw_battle_resamples(shared, num_draws, seed, resample)
    measured = {
        prediction.name: measure_subsets(prediction, shared, resamples.weights)
        for prediction in _list_predictions(judges, shared)
    }
    differences = [
        {"first": first, "second": second, "subsets": compare_measured(measured[first], measured[second], resamples)}
        for first, second in itertools.combinations(measured, 2)
    ]
    _correct_for_number(differences)
    return {
        "judges": [
            {"name": judge.name, "source": judge.source, "sha256": judge.sha256, "num_battles": len(judge.votes)}
            for judge in judges
        ],
        "num_battles": len(shared),
        "num_left_out": int(table.is_decisive.sum()) - len(shared),
        "resampled": resamples.describe(),
        "rules": {
            name: {subset: part.summarize(resamples) for subset, part in found.items()}
            for name, found in measured.items()
        },
        "differences": differences,
    }


def _correct_for_number(differences: Sequence[dict[str, Any]]) -> None:
    """Note of each difference whether it stands when all pairs are looked at: Holm's correction, by metric."""
    cells = [
        ((subset, metric), found)
        for pair in differences
        for subset, metrics in pair["subsets"].items()
        for metric, found in metrics.items()
    ]
    for family in dict.fromkeys(place for place, _ in cells):
        members = [found for place, found in cells if place == family]
        rejected = compute_holm_rejections([_estimate_p_value(found) for found in members])
        for found, is_rejected in zip(members, rejected, strict=True):
            found["survives_correction"] = is_rejected


def _estimate_p_value(found: dict[str, Any]) -> float:
    """Read a two-sided p-value off an estimate and its 95 % interval, as if it were normal."""
    if found["estimate"] is None or found["low"] is None:
        return 1.0
    deviation = (found["high"] - found["low"]) / (2 * ndtri(0.975))
    return float(2 * ndtr(-abs(found["estimate"]) / deviation)) if deviation > 0 else 1.0


def _list_predictions(judges: Sequence[Judge], table: BattleTable) -> list[PairPrediction]:
    everyone = np.arange(len(table))
    return [
        PairPrediction(
            f"{judge.name}: {rule}", np.array([by_battle[str(battle)] for battle in table.battle_ids]), everyone
        )
        for judge in judges
        for rule, by_battle in judge.margins.items()
    ]


def _check_votes(judge: Judge, votes: dict[str, str]) -> None:
    for battle, vote in judge.votes.items():
        if battle in votes and votes[battle] != vote:
            raise ValueError(
                f"{judge.source}: battle {battle!r} has the vote {vote}, but the table of battles says "
                f"{votes[battle]}. Score the battles again, or pass the table that these scores are of."
            )
