"""
Protocols: which battles train a classifier and which judge it.

What comes in is a table; what leaves are folds of row indices. Random folds are the paper's and let a classifier meet
the same systems, users and prompts in training and test. The others take that away one by one: folds grouped by prompt
and user, one system left out at a time, one family of systems (all versions of a generator) at a time, and whole pairs
of systems held together so that a comparison inside a pair knows nothing of who usually wins it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.predictions import build_system_pairs

PROTOCOLS = (
    "random_folds",
    "grouped_by_prompt_and_user",
    "leave_one_system_out",
    "within_system_pairs",
    "leave_one_family_out",
)
WITHIN_PAIRS = "within_system_pairs"
# What a version of a system is called by, beside numbers.
VERSION_WORDS = {
    "alpha",
    "base",
    "beta",
    "fast",
    "large",
    "lite",
    "medium",
    "mini",
    "preview",
    "pro",
    "small",
    "turbo",
}


@dataclass(frozen=True)
class Fold:
    """Hold the rows that train and the rows that are predicted, with a name for people."""

    name: str
    train_indices: np.ndarray
    test_indices: np.ndarray


class ProtocolUnavailableError(ValueError):
    """A protocol that this table cannot serve; the message says why, and the report repeats it."""


def check_battles(table: BattleTable, num_folds: int) -> None:
    """
    Refuse tables whose results would mean nothing.

    Args:
        table (`BattleTable`): The battles.
        num_folds (`int`): Number of cross-validation folds.

    Raises:
        `ValueError`: If fewer than two folds are asked for, no battle is decisive, or all were won by one side.
    """
    if num_folds < 2:
        raise ValueError(f"`num_folds` is {num_folds}. Cross-validation needs at least 2.")
    decisive = table.preferences[table.is_decisive]
    winners = sorted(set(decisive))
    if not winners:
        raise ValueError(f"None of the {len(table)} battles has a winner. At least some must be decided for A or B.")
    if len(winners) == 1:
        raise ValueError(
            f"All {len(decisive)} decisive battles were won by {winners[0]}: there is only one class, so there is "
            "nothing to learn. Check the `preference` column."
        )


def check_folds(folds: list[Fold], table: BattleTable, *, is_symmetric: bool) -> tuple[list[Fold], dict[str, int]]:
    """
    Leave out the folds that nothing can be trained for.

    Args:
        folds (`list[Fold]`): The folds.
        table (`BattleTable`): The battles.
        is_symmetric (`bool`): Whether classifiers train on both orders; otherwise they need wins of A and of B.

    Returns:
        `tuple[list[Fold], dict[str, int]]`: The folds that stay, and the decisive battles of each that was left out.

    Raises:
        `ProtocolUnavailableError`: If none stays.
    """
    kept, left_out = [], {}
    for fold in folds:
        winners = np.unique(table.preferences[fold.train_indices[table.is_decisive[fold.train_indices]]].astype(str))
        if len(winners) >= (1 if is_symmetric else 2):
            kept.append(fold)
        else:
            left_out[fold.name] = int(table.is_decisive[fold.test_indices].sum())
    if not kept:
        raise ProtocolUnavailableError("no fold leaves decisive battles of both sides to train on")
    return kept, left_out


def find_families(table: BattleTable, stated: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Find the family of each system: its name without what says a version, such as numbers, `preview` or `large`.

    Args:
        table (`BattleTable`): The battles.
        stated (`dict[str, str]`, *optional*): Family of some systems, where the name does not tell.

    Returns:
        `dict[str, str]`: Family by system.

    Raises:
        `ValueError`: If a system is stated that the table does not have.
    """
    names = [str(name) for name in np.unique(table.systems.astype(str))]
    if unknown := sorted(set(stated or ()) - set(names)):
        raise ValueError(f"Families are given for systems {unknown} that are not in the table. It has {names}.")
    families = {}
    for name in names:
        words = re.split(r"[-_ ./]+", name.lower())
        while len(words) > 1 and (re.search(r"\d", words[-1]) or words[-1] in VERSION_WORDS):
            words.pop()
        families[name] = (stated or {}).get(name, "-".join(words))
    return families


def count_decisive_battles(table: BattleTable) -> dict[str, int]:
    """Count the decisive battles of every system that stands in the table."""
    counts = Counter({str(name): 0 for name in table.systems.ravel()})
    for systems in table.systems[table.is_decisive]:
        counts.update(set(systems))
    return dict(sorted(counts.items()))


def drop_rare_systems(table: BattleTable, minimum: int) -> tuple[BattleTable, dict[str, int]]:
    """
    Leave out the battles of systems that have few, until every system left has enough.

    Args:
        table (`BattleTable`): The battles.
        minimum (`int`): Fewest decisive battles that a system may have.

    Returns:
        `tuple[BattleTable, dict[str, int]]`: The battles that stay, and the count of each system that was left out.
    """
    dropped: dict[str, int] = {}
    while rare := {name: count for name, count in count_decisive_battles(table).items() if count < minimum}:
        dropped.update(rare)
        is_kept = [not rare.keys() & set(systems) for systems in table.systems]
        table = table.select(np.array(is_kept, dtype=bool))
    return table, dropped


def build_battle_groups(table: BattleTable) -> np.ndarray:
    """
    Join battles that share a prompt or a user, directly or through other battles.

    Args:
        table (`BattleTable`): The battles.

    Returns:
        `np.ndarray` of shape `(num_battles,)`: A group number each; a battle without prompt and user stands alone.
    """
    parents = list(range(len(table)))

    def find(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for values in (table.prompts, table.users):
        first_rows: dict[str, int] = {}
        for row, value in enumerate(values):
            if value:
                parents[find(row)] = find(first_rows.setdefault(value, row))
    return np.unique([find(row) for row in range(len(table))], return_inverse=True)[1]


def _list_folds(fold_of_row: np.ndarray) -> list[Fold]:
    return [
        Fold(f"fold {number + 1}", np.flatnonzero(fold_of_row != number), np.flatnonzero(fold_of_row == number))
        for number in np.unique(fold_of_row)
    ]


def _build_folds_of_groups(groups: np.ndarray, num_folds: int, seed: int) -> list[Fold]:
    """Deal whole groups into folds of about equal size: in random order, the large ones first."""
    names, indices, counts = np.unique(groups, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold_of_group = np.zeros(len(names), dtype=int)
    sizes = np.zeros(num_folds, dtype=int)
    for group in shuffled[np.argsort(-counts[shuffled], kind="stable")]:
        fold_of_group[group] = int(np.argmin(sizes))
        sizes[fold_of_group[group]] += counts[group]
    return _list_folds(fold_of_group[indices])


def build_random_folds(table: BattleTable, num_folds: int, seed: int, *, is_stratified: bool = False) -> list[Fold]:
    """
    Deal battles into folds at random.

    Args:
        table (`BattleTable`): The battles.
        num_folds (`int`): Number of folds.
        seed (`int`): Seed of the deal.
        is_stratified (`bool`, defaults to `False`):
            Give every fold the same share of wins of A, as the paper does. This reads the sides, so it is left off
            where symmetry in A and B is promised.

    Returns:
        `list[Fold]`: The folds.
    """
    order = np.random.default_rng(seed).permutation(len(table))
    if is_stratified:
        order = order[np.argsort(table.preferences[order].astype(str), kind="stable")]
    fold_of_row = np.empty(len(table), dtype=int)
    fold_of_row[order] = np.arange(len(table)) % num_folds
    return _list_folds(fold_of_row)


def _build_folds_of_systems(table: BattleTable, families: Mapping[str, str] | None, protocol: str) -> list[Fold]:
    """Leave out the battles of one system or family of systems at a time, and predict them."""
    names = [str(name) for name in np.unique(table.systems.astype(str))] if table.has_systems else []
    if len(names) < 3:
        raise ProtocolUnavailableError(f"there are only {len(names)} systems, and at least 3 are needed")
    members: dict[str, list[str]] = {name: [name] for name in names}
    if protocol == "leave_one_family_out":
        members = {}
        for name, family in find_families(table, families).items():
            members.setdefault(family, []).append(name)
        if len(members) == len(names):
            raise ProtocolUnavailableError("no family has two systems, so this would be leave_one_system_out again")
        if len(members) < 3:
            raise ProtocolUnavailableError(f"there are only {len(members)} families, and at least 3 are needed")
    folds = []
    for name, systems in members.items():
        mask = np.isin(table.systems.astype(str), systems).any(axis=1)
        folds.append(Fold(f"without {name}", np.flatnonzero(~mask), np.flatnonzero(mask)))
    return folds


def build_folds(
    protocol: str,
    table: BattleTable,
    num_folds: int,
    seed: int,
    *,
    is_stratified: bool = False,
    families: Mapping[str, str] | None = None,
) -> list[Fold]:
    """
    Build the folds of a protocol.

    Args:
        protocol (`str`): One of `PROTOCOLS`.
        table (`BattleTable`): The battles.
        num_folds (`int`): Number of folds, where the protocol does not fix it.
        seed (`int`): Seed of the deal.
        is_stratified (`bool`, defaults to `False`): See [`build_random_folds`].
        families (`dict[str, str]`, *optional*): See [`find_families`].

    Returns:
        `list[Fold]`: The folds. With one system or family left out, a battle is predicted twice: once for each of its
        systems or families.

    Raises:
        `ValueError`: If the protocol is unknown.
        `ProtocolUnavailableError`: If the table cannot serve it.
    """
    if protocol == "random_folds":
        return build_random_folds(table, num_folds, seed, is_stratified=is_stratified)
    if protocol == "grouped_by_prompt_and_user":
        if not any(table.prompts) and not any(table.users):
            raise ProtocolUnavailableError("the table has neither prompts nor users to group by")
        groups = build_battle_groups(table)
        if groups.max() + 1 < num_folds:
            raise ProtocolUnavailableError(
                f"shared prompts and users join the battles into {groups.max() + 1} groups, fewer than "
                f"{num_folds} folds"
            )
        largest = np.bincount(groups).max()
        if largest > len(table) / 2:
            raise ProtocolUnavailableError(
                f"shared prompts and users join {largest} of {len(table)} battles into one group, more than half"
            )
        return _build_folds_of_groups(groups, num_folds, seed)
    if protocol in ("leave_one_system_out", "leave_one_family_out"):
        return _build_folds_of_systems(table, families if protocol == "leave_one_family_out" else None, protocol)
    if protocol == "within_system_pairs":
        if not table.has_systems:
            raise ProtocolUnavailableError("the table names no systems")
        pairs, _ = build_system_pairs(table)
        if len(np.unique(pairs)) < 2:
            raise ProtocolUnavailableError("there is only one pair of systems, and at least 2 are needed")
        return _build_folds_of_groups(pairs, num_folds, seed)
    raise ValueError(f"Protocol {protocol!r} is unknown. Choose one of {PROTOCOLS}.")
