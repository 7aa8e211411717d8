"""
Choose the best of several takes: of each group, such as the songs of one prompt, those that lead it.

What comes in are songs with their scores and whatever else their owner knows of them; what leaves are the chosen ones,
pairs of a better and a worse one to learn from, and the groups in which nothing leads by enough to say so.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from modeling_apex.arena.ranking import compute_places
from modeling_apex.storage.cell_values import parse_number

FLOORS = ("first", "median")
PAIRINGS = ("best-worst", "all")


@dataclass(frozen=True)
class Candidate:
    """
    A song that may be chosen.

    Args:
        song (`str`): What it is called.
        group (`str`): What it is compared within.
        scores (`dict[str, float]`): Its scores by name.
        report (`dict`): Its row as it came, with what else is known of it.
    """

    song: str
    group: str
    scores: Mapping[str, float]
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """What came of one group: its candidates best first with their keys, and how many of them are chosen."""

    group: str
    ranked: list[tuple[Candidate, float]]
    num_chosen: int
    lead: float | None  # of the last chosen over the first that is not; None if all are
    num_refused: int  # candidates of which some score falls below the floor

    @property
    def chosen(self) -> list[tuple[Candidate, float]]:
        return self.ranked[: self.num_chosen]


def rank_within(values: Sequence[float]) -> list[float]:
    """Return the percentile rank of each value among them, from 0 for the lowest to 100; 50 for one alone."""
    if len(values) == 1:
        return [50.0]
    return [100 * (len(values) - place) / (len(values) - 1) for place in compute_places(values)]


def build_key(
    names: Sequence[str],
    fused: Mapping[str, float] | None = None,
    strength: Callable[[Mapping[str, float]], float] | None = None,
) -> Callable[[Sequence[Candidate]], list[float]]:
    """
    Build what gives each candidate of a group its key; the highest is the best.

    Args:
        names (`Sequence[str]`):
            Scores: one is its own key, of several the mean of their percentile ranks within the group.
        fused (`Mapping[str, float]`, *optional*):
            Weights of columns, negative where less is better, whose percentile ranks within the group are averaged
            with that of the key, which weighs 1.
        strength (`Callable`, *optional*):
            Makes the key of all scores instead, such as a preference head.
    """

    def compute_base(group: Sequence[Candidate]) -> list[float]:
        if strength is not None:
            return [strength(candidate.scores) for candidate in group]
        if len(names) == 1:
            return [candidate.scores[names[0]] for candidate in group]
        ranks = [rank_within([candidate.scores[name] for candidate in group]) for name in names]
        return [float(mean) for mean in np.mean(ranks, axis=0)]

    def compute(group: Sequence[Candidate]) -> list[float]:
        base = compute_base(group)
        if not fused:
            return base
        columns = [(1.0, base)]
        for name, weight in fused.items():
            sign = 1.0 if weight >= 0 else -1.0
            columns.append((abs(weight), [sign * _read_column(candidate, name) for candidate in group]))
        total = sum(weight for weight, _ in columns)
        ranks = [[weight * rank for rank in rank_within(values)] for weight, values in columns]
        return [float(value) for value in np.sum(ranks, axis=0) / total]

    return compute


def _read_column(candidate: Candidate, column: str) -> float:
    value = candidate.scores.get(column, candidate.report.get(column))
    number = parse_number(value)
    if number is None:
        raise ValueError(f"{candidate.song}: the column {column!r} holds {value!r}, and a finite number is needed.")
    return float(number)


def choose_best(
    candidates: Sequence[Candidate],
    compute_keys: Callable[[Sequence[Candidate]], list[float]],
    *,
    num_best: int = 1,
    margin: float = 0.0,
    floor: str | None = None,
) -> list[Choice]:
    """
    Choose the best of each group, or nothing where they do not lead by the margin.

    Args:
        candidates (`Sequence[Candidate]`), compute_keys (`Callable`):
            The songs, and what gives those of a group their keys.
        num_best (`int`, defaults to 1):
            How many of each group.
        margin (`float`, defaults to 0):
            By how much the last that is chosen must lead the first that is not, in the unit of the key.
        floor (`str`, *optional*):
            `"first"` or `"median"`: songs of which any score is below that of the group's first song, or below its
            median, are not chosen.

    Returns:
        `list[Choice]`: one a group, in the order in which groups appear.

    Raises:
        `ValueError`: If a number is out of range, there is no such floor, or a column has no number.
    """
    if num_best < 1 or not margin >= 0:
        raise ValueError(f"at least one song is chosen, by a margin of zero or more; got {num_best} and {margin}.")
    if floor not in (None, *FLOORS):
        raise ValueError(f"`floor` must be one of {', '.join(FLOORS)}, got {floor!r}.")
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.group].append(candidate)
    choices = []
    for name, group in groups.items():
        keys = compute_keys(group)
        held = [_keeps_floor(candidate, group, floor) for candidate in group]
        ranked = sorted(zip(group, keys, held, strict=True), key=lambda entry: (not entry[2], -entry[1]))
        num_held = sum(held)
        num_chosen = min(num_best, num_held)
        lead = ranked[num_chosen - 1][1] - ranked[num_chosen][1] if 0 < num_chosen < num_held else None
        if lead is not None and lead < margin:
            num_chosen = 0
        choices.append(Choice(name, [entry[:2] for entry in ranked], num_chosen, lead, len(group) - num_held))
    return choices


def _keeps_floor(candidate: Candidate, group: Sequence[Candidate], floor: str | None) -> bool:
    if floor is None:
        return True
    if floor == "first":
        lowest = group[0].scores
    else:
        lowest = {name: float(np.median([each.scores[name] for each in group])) for name in candidate.scores}
    return all(candidate.scores[name] >= least for name, least in lowest.items())


def build_pairs(
    choices: Sequence[Choice], *, pairing: str = "best-worst", margin: float = 0.0
) -> list[dict[str, Any]]:
    """
    Build pairs of a better and a worse song of one group, as direct preference optimisation takes them.

    Args:
        choices (`Sequence[Choice]`): From [`choose_best`].
        pairing (`str`, defaults to `"best-worst"`): One pair a group, or `"all"` pairs.
        margin (`float`, defaults to 0): What the keys of a pair must differ by at least; equal songs make no pair.

    Raises:
        `ValueError`: If there is no such pairing.
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"`pairing` must be one of {', '.join(PAIRINGS)}, got {pairing!r}.")
    pairs = []
    for choice in choices:
        ranked = sorted(choice.ranked, key=lambda entry: -entry[1])
        taken = combinations(ranked, 2) if pairing == "all" else [(ranked[0], ranked[-1])]
        for (better, high), (worse, low) in taken:
            if high - low >= margin and high > low:
                pairs.append(
                    {
                        "group": choice.group,
                        "chosen": better.song,
                        "rejected": worse.song,
                        "margin": high - low,
                        "chosen_report": dict(better.report),
                        "rejected_report": dict(worse.report),
                    }
                )
    return pairs


def take_top_share(choices: Sequence[Choice], share: float = 0.1) -> list[tuple[Candidate, float]]:
    """Return the best share of all songs by their keys, at least one, best first."""
    ranked = sorted((entry for choice in choices for entry in choice.ranked), key=lambda entry: -entry[1])
    return ranked[: max(1, round(share * len(ranked)))]
