"""
Aesthetic labels: a table with an id and the five aesthetic columns comes in, labels by song id leave.

The labels of a whole corpus are kept as numbers only (64 bytes a song). Whose they are is said with them: labels that
another model made are pseudo-labels, not what people said.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.metadata_tables import ColumnSpec, check_columns, iterate_table
from datasets_scripts.song_record import AESTHETIC_HEADS, AESTHETIC_NAMES, LABEL_SOURCES
from modeling_apex.corpus.label_teacher import PSEUDO_LABELS, LabelTeacher
from modeling_apex.corpus.song_ids import IdIndex
from modeling_apex.storage.cell_values import is_unknown, parse_number, read_text
from modeling_apex.storage.table_reader import TableError, TableRow

# Where a table of labels keeps them: SongEval capitalises its dimensions, and `score` calls the id `song`.
LABEL_COLUMNS: Mapping[str, str] = {"id": "id|song_id|song", **{name: name for name in AESTHETIC_NAMES}}


class LabelTable:
    """
    Aesthetic labels by song id.

    A row that says who taught it, as those of `apex-music label` do, makes them pseudo-labels of that teacher. A row
    with an `error` and no label is of a song that the teacher could not score, and labels nothing.

    Args:
        source (`str` or `Path`):
            A table with the columns `id` (or `song_id`, `song`) and the five aesthetic names, whatever their case; any
            format of `iterate_table`. Ids are matched by the rules of `song_ids`.
        label_source (`str`):
            Who gave the labels: `"songeval-raters"`, `"pseudo-labels"` or `"synthetic"`.
        columns (`Mapping[str, str]`, *optional*):
            Columns that differ from `LABEL_COLUMNS`, by field.

    Attributes:
        label_source (`str`): Who gave the labels; of pseudo-labels also the teacher, where it is known.
        teacher ([`LabelTeacher`], *optional*): Who made them.
        num_failed (`int`): Songs that the teacher could not score.

    Raises:
        `ValueError`: If `label_source` is unknown, or says that a teacher's labels are something else.
        `TableError`: If a column is missing, an id occurs twice, a label is outside its range, or a row has another
            teacher than those before.
    """

    def __init__(self, source: str | Path, *, label_source: str, columns: Mapping[str, str] | None = None):
        if label_source not in LABEL_SOURCES:
            raise ValueError(f"Unknown label source {label_source!r}: expected one of {', '.join(LABEL_SOURCES)}.")
        specs = build_label_specs(columns)
        self.index, self.num_failed = IdIndex(str(source)), 0
        values, numbers = array("f"), array("I")
        teachers: dict[LabelTeacher | None, None] = {}
        for number, row in enumerate(check_columns(iterate_table(source), specs, source=str(source)), start=1):
            song_id = read_text(specs["id"].find(row.values))
            if song_id is None:
                raise TableError(f"{row.location} has no id.")
            if _is_of_failed_song(row.values, specs):
                self.num_failed += 1
                continue
            self.index.add(song_id)
            values.extend(read_labels(row.values, row.location, specs).values())
            numbers.append(number)
            _add_teacher(teachers, row)
        if not len(self.index):
            failed = f": all of its {self.num_failed} songs failed" if self.num_failed else ""
            raise TableError(f"{source} holds no labels{failed}.")
        self._values = np.frombuffer(values, dtype=np.float32).reshape(len(self.index), len(AESTHETIC_NAMES))
        repeated = self.index.find_repeated()
        if repeated is not None:
            raise TableError(f"{source} holds an id twice, the second time in row {numbers[repeated]}.")
        self.teacher = _join_teachers([teacher for teacher in teachers if teacher is not None])
        if self.teacher is not None and label_source != PSEUDO_LABELS:
            raise ValueError(
                f"{source} holds {self.teacher.describe()}, so they are not of the source {label_source!r}. Leave out "
                "--label-source."
            )
        self.label_source = label_source if self.teacher is None else self.teacher.describe()

    def __len__(self) -> int:
        return len(self.index)

    def find(self, song_id: str) -> dict[str, float] | None:
        """Return the five labels of a song by name, or `None` when it has none."""
        row = self.index.find(song_id)
        return None if row is None else dict(zip(AESTHETIC_NAMES, self._values[row].tolist(), strict=True))


def build_label_specs(columns: Mapping[str, str] | None = None) -> dict[str, ColumnSpec]:
    """Complete a choice of the columns of a table of labels by the defaults; their case does not matter."""
    return {
        name: ColumnSpec(column, ignores_case=True) for name, column in {**LABEL_COLUMNS, **(columns or {})}.items()
    }


def _read_label(name: str, value: Any, location: str) -> float:
    """Read one aesthetic label, a number or text that holds one, and check that it is in its head's range."""
    head = next(head for head in AESTHETIC_HEADS if head["name"] == name)
    number = parse_number(value)
    if number is None or not head["minimum"] <= number <= head["maximum"]:
        raise TableError(
            f"{location}: the label {name} is {repr(value)[:80]}, expected a number from {head['minimum']:g} to "
            f"{head['maximum']:g}."
        )
    return float(number)


def read_labels(
    values: Mapping[str, Any], location: str, specs: Mapping[str, ColumnSpec] | None = None
) -> dict[str, float]:
    """
    Read the five aesthetic labels of a row by name, whatever the case of the names in the row.

    Args:
        values (`Mapping[str, Any]`), location (`str`):
            The row, and where it stands.
        specs (`Mapping[str, ColumnSpec]`, *optional*):
            Where each label stands; from [`build_label_specs`].

    Raises:
        `TableError`: If one is missing or outside its range; the message says where the row stands.
    """
    specs, columns = specs or build_label_specs(), {str(name) for name in values}
    missing = [name for name in AESTHETIC_NAMES if not specs[name].is_known(columns)]
    if missing:
        raise TableError(f"{location} lacks {', '.join(missing)}; it has {', '.join(map(str, values)) or 'nothing'}.")
    return {name: _read_label(name, specs[name].find(dict(values)), location) for name in AESTHETIC_NAMES}


def _is_of_failed_song(values: Mapping[str, Any], specs: Mapping[str, ColumnSpec]) -> bool:
    """Tell whether a row says why its song has no labels, rather than labels."""
    return not is_unknown(values.get("error")) and all(
        specs[name].find(dict(values)) is None for name in AESTHETIC_NAMES
    )


def _add_teacher(teachers: dict[LabelTeacher | None, None], row: TableRow) -> None:
    """Add the teacher of a row to those before, which differ in nothing but the day and the version."""
    try:
        teacher = LabelTeacher.from_row(row.values)
    except ValueError as error:
        raise TableError(f"{row.location}: {error}") from error
    if teacher in teachers:
        return
    before = next(iter(teachers), teacher)
    if (teacher is None) != (before is None) or (teacher and before and not teacher.is_same(before)):
        shown, expected = (one.describe() if one else "labels without a teacher" for one in (teacher, before))
        raise TableError(f"{row.location}: {shown}, and the rows before are {expected}. Use one table for each.")
    teachers[teacher] = None


def _join_teachers(teachers: Sequence[LabelTeacher]) -> LabelTeacher | None:
    """Return one for all, with the first and the last day."""
    days = sorted({teacher.labelled_on for teacher in teachers})
    if len(days) < 2:
        return teachers[0] if teachers else None
    return replace(teachers[-1], labelled_on=f"{days[0]} to {days[-1]}")
