"""
From files to the table of battles.

What comes in is a file in any format of `table_reader`, or an iterable of rows, in the column names of the Music Arena
builder plus one pair of columns a score (`<name>_a`, `<name>_b`). What leaves is a validated [`BattleTable`] of numpy
arrays.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import BattleTable, ScoreColumn
from modeling_apex.inference.heads_apex import DEFAULT_HEADS
from modeling_apex.statistics.pair_metrics import OUTCOMES
from modeling_apex.storage.cell_values import check_duration, is_unknown, parse_number, read_text
from modeling_apex.storage.table_reader import FORMATS_TEXT, get_table_suffix, iterate_rows

_INSTRUMENTAL_WORDS = {"true": 1, "1": 1, "yes": 1, "false": 0, "0": 0, "no": 0}


def build_score_columns(columns: Iterable[str], declarations: Sequence[str] | None = None) -> tuple[ScoreColumn, ...]:
    """
    Find the score columns of a table.

    Args:
        columns (`Iterable[str]`): Column names of the table.
        declarations (`Sequence[str]`, *optional*):
            `NAME[:GROUP][=COLUMN_A,COLUMN_B]` for each score, for tables of other systems' scores. Defaults to those
            of the seven heads of the paper that the table has.

    Returns:
        `tuple[ScoreColumn, ...]`: The scores, possibly none.

    Raises:
        `ValueError`: If a declaration cannot be read, names a column that is not there, or one side is missing.
    """
    available = set(columns)
    head_groups = {head["name"]: head["group"] for head in DEFAULT_HEADS}
    if declarations is None:
        present = [name for name in head_groups if f"{name}_a" in available or f"{name}_b" in available]
        found = [ScoreColumn(name, head_groups[name], f"{name}_a", f"{name}_b") for name in present]
    else:
        found = [_parse_declaration(declaration, head_groups) for declaration in declarations]
    for column in found:
        missing = [name for name in (column.column_a, column.column_b) if name not in available]
        if missing:
            raise ValueError(
                f"Score {column.name!r} needs the columns {column.column_a!r} and {column.column_b!r}, but the table "
                f"lacks {missing}. It has {sorted(available)}."
            )
    names = [column.name for column in found]
    if len(set(names)) < len(names):
        raise ValueError(f"Score names must be unique, received {names}.")
    return tuple(found)


def _parse_declaration(declaration: str, head_groups: Mapping[str, str]) -> ScoreColumn:
    label, _, sides = declaration.partition("=")
    name, _, group = label.partition(":")
    columns = sides.split(",") if sides else [f"{name}_a", f"{name}_b"]
    if not name or len(columns) != 2 or not all(columns):
        raise ValueError(
            f"Score declaration {declaration!r} cannot be read. Expected NAME[:GROUP][=COLUMN_A,COLUMN_B], for "
            'example "musicality:aesthetics=mus_a,mus_b".'
        )
    return ScoreColumn(name, group or head_groups.get(name, "other"), columns[0], columns[1])


def build_battle_table(
    rows: Iterable[Mapping[str, Any]],
    *,
    scores: Sequence[str] | None = None,
    source: str = "the table",
    locations: Sequence[str] = (),
) -> BattleTable:
    """
    Validate rows and turn them into a table.

    Args:
        rows (`Iterable[Mapping[str, Any]]`):
            `preference`, an id (`battle_uuid` or `battle_id`), and where known `system_a` and `system_b`,
            `is_instrumental`, `prompt`, `user_pseudonym`, `duration_a`/`_b`, `loudness_a`/`_b` and score columns.
        scores (`Sequence[str]`, *optional*):
            Score declarations, see [`build_score_columns`]. Defaults to the scores that the rows themselves name in
            `groups`, as the stored scores of a model do.
        source (`str`, defaults to `"the table"`): Name of the table in error messages.
        locations (`Sequence[str]`, *optional*): Where each row stands, for messages; its number by default.

    Returns:
        `BattleTable`: The battles in the order of the rows.

    Raises:
        `ValueError`: If the table is empty, a column is missing, an id is missing or repeated, a vote is unknown, or a
            number cannot be read. The message names the row.
    """
    if not (listed := list(rows)):
        raise ValueError(f"{source} holds no battles. Pass a table with at least one row per battle.")
    columns = list(dict.fromkeys(name for row in listed for name in row))
    id_column = next((name for name in ("battle_uuid", "battle_id") if name in columns), None)
    # A table may name no systems at all; direct rules need none. One side alone is a mistake.
    sides_of_systems = [name for name in ("system_a", "system_b") if name in columns]
    wanted = ("preference", "system_a", "system_b") if sides_of_systems else ("preference",)
    missing = [name for name in wanted if name not in columns]
    if id_column is None:
        missing.insert(0, "battle_uuid")
    if missing:
        raise ValueError(f"{source} lacks the columns {missing}. It has {sorted(columns)}.")
    score_columns = build_score_columns(columns, scores or _list_stored_scores(listed))

    locations = locations or [f"row {number} of {source}" for number in range(1, len(listed) + 1)]
    readers = [_RowReader(row, where) for row, where in zip(listed, locations, strict=True)]
    ids = [reader.read_text(str(id_column), is_required=True) for reader in readers]
    _refuse_repeated_ids(ids, source)
    sides = [[column.column_a for column in score_columns], [column.column_b for column in score_columns]]
    scores_by_side = [[[reader.read_number(name) for name in side] for side in sides] for reader in readers]
    return BattleTable(
        battle_ids=np.array(ids, dtype=object),
        preferences=np.array([reader.read_preference() for reader in readers], dtype=object),
        systems=np.array([reader.read_systems(sides_of_systems) for reader in readers], dtype=object),
        instrumental=np.array([reader.read_instrumental() for reader in readers], dtype=np.int8),
        prompts=np.array([reader.read_text("prompt") for reader in readers], dtype=object),
        users=np.array([reader.read_text("user_pseudonym") for reader in readers], dtype=object),
        durations=np.array([[r.read_duration("duration_a"), r.read_duration("duration_b")] for r in readers]),
        loudness=np.array([[r.read_number("loudness_a"), r.read_number("loudness_b")] for r in readers]),
        scores=np.array(scores_by_side, dtype=np.float64).reshape(len(listed), 2, len(score_columns)),
        score_columns=score_columns,
    )


def _list_stored_scores(rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Declare the scores of a table that says of which groups they are: a model may have others than the paper's."""
    stored = [row["groups"] for row in rows if isinstance(row.get("groups"), dict)]
    return list(dict.fromkeys(f"{name}:{group}" for groups in stored for name, group in groups.items())) or None


def _refuse_repeated_ids(ids: Sequence[str], source: str) -> None:
    first_rows: dict[str, int] = {}
    for number, battle_id in enumerate(ids, start=1):
        if battle_id in first_rows:
            raise ValueError(
                f"Battle {battle_id!r} appears in row {first_rows[battle_id]} and again in row {number} of {source}. "
                "Keep one row per battle."
            )
        first_rows[battle_id] = number


@dataclass(frozen=True)
class _RowReader:
    """Read typed values out of one row and name the row when one cannot be read."""

    row: Mapping[str, Any]
    where: str

    def read_text(self, name: str, *, is_required: bool = False) -> str:
        text = (read_text(self.row.get(name)) or "").strip()
        if is_required and not text:
            raise ValueError(f"Column {name!r} is empty in {self.where}. Every battle needs one.")
        return text

    def read_number(self, name: str) -> float:
        value = self.row.get(name)
        if is_unknown(value):
            return math.nan
        number = parse_number(value)
        if number is None:
            raise ValueError(f"Column {name!r} holds {str(value)[:80]!r} in {self.where}. Expected a finite number.")
        return float(number)

    def read_duration(self, name: str) -> float:
        number = self.read_number(name)
        return number if math.isnan(number) else check_duration(number, name, self.where)

    def read_systems(self, columns: Sequence[str]) -> list[str]:
        return [self.read_text(name, is_required=True) for name in columns] or ["", ""]

    def read_preference(self) -> str:
        value = self.row.get("preference")
        if value not in OUTCOMES:
            raise ValueError(
                f"Unknown preference {value!r} in {self.where}. Expected one of {', '.join(OUTCOMES)}; "
                "an unknown vote is never counted as a tie."
            )
        return str(value)

    def read_instrumental(self) -> int:
        value = self.row.get("is_instrumental")
        if is_unknown(value):
            return -1
        if isinstance(value, (bool, np.bool_)):
            return int(value)
        word = str(value).strip().lower().removesuffix(".0")
        if word not in _INSTRUMENTAL_WORDS:
            raise ValueError(
                f"Column 'is_instrumental' holds {value!r} in {self.where}. Expected true, false or nothing."
            )
        return _INSTRUMENTAL_WORDS[word]


def load_battle_table(path: str | Path, *, scores: Sequence[str] | None = None) -> BattleTable:
    """
    Read a table of battles.

    Args:
        path (`str` or `Path`): A file in any format of `iterate_rows`.
        scores (`Sequence[str]`, *optional*): Score declarations, see [`build_score_columns`].

    Returns:
        `BattleTable`: The validated battles.

    Raises:
        `FileNotFoundError`: If there is no such file.
        `ValueError`: If the file is of another kind or a row is not valid.
    """
    file = Path(os.path.expanduser(path))
    if not get_table_suffix(file):
        raise ValueError(f"{file} is not a table this command reads. Expected a file ending in {FORMATS_TEXT}.")
    if not file.is_file():
        raise FileNotFoundError(f"There is no table of battles at {file}.")
    # A table straight from the builder carries the audio too; it is heavy and nothing here reads it.
    rows = list(iterate_rows(file, keeps_audio=False))
    locations = [row.location for row in rows]
    return build_battle_table([row.values for row in rows], scores=scores, source=str(file), locations=locations)


def join_truth(table: BattleTable, path: str | Path) -> BattleTable:
    """
    Join the known appeal of synthetic songs to their battles, as the score `true_appeal` of the group `"truth"`.

    Args:
        table (`BattleTable`): The battles.
        path (`str` or `Path`): A table with `battle_uuid`, `appeal_a` and `appeal_b`.

    Returns:
        `BattleTable`: The battles with one score more.

    Raises:
        `FileNotFoundError`: If there is no such file.
        `ValueError`: If a battle has no truth.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise FileNotFoundError(f"There is no truth file at {file}.")
    appeals: dict[str, list[float]] = {}
    for row in iterate_rows(file):
        reader = _RowReader(row.values, row.location)
        battle_id = reader.read_text("battle_uuid", is_required=True)
        appeals[battle_id] = [reader.read_number("appeal_a"), reader.read_number("appeal_b")]
    unknown = [battle for battle in table.battle_ids if not np.isfinite(appeals.get(battle, [math.nan])).all()]
    if unknown:
        raise ValueError(
            f"{file} has no `appeal_a` and `appeal_b` for {len(unknown)} of {len(table)} battles, the first being "
            f"{unknown[0]!r}; it has, for example, {next(iter(appeals), 'nothing')!r}. Pass the truth file that was "
            "written with these battles."
        )
    truth = np.array([appeals[battle] for battle in table.battle_ids], dtype=np.float64)[:, :, None]
    return replace(
        table,
        scores=np.concatenate([table.scores, truth], axis=2),
        score_columns=(*table.score_columns, ScoreColumn("true_appeal", "truth", "appeal_a", "appeal_b")),
    )
