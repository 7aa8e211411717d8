"""
Aesthetic labels: a table with an id and the five aesthetic columns comes in, labels by song id leave.

The labels of a whole corpus are kept as numbers only (28 bytes a song). Whose they are is said with them: labels that
another model made are pseudo-labels, not what people said.
"""

import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.metadata_tables import ColumnSpec, TableError, check_columns, iterate_table
from datasets_scripts.song_schema import AESTHETIC_HEADS, AESTHETIC_NAMES, LABEL_SOURCES
from datasets_scripts.splits import compute_exact_key


class LabelTable:
    """
    Aesthetic labels by song id.

    Args:
        source (`str` or `Path`):
            A table with the columns `id` and the five aesthetic names; any format of `iterate_table`.
        label_source (`str`):
            Who gave the labels: `"songeval-raters"`, `"pseudo-labels"` or `"synthetic"`.

    Raises:
        `ValueError`: If `label_source` is unknown.
        `TableError`: If a column is missing, an id occurs twice or a label is outside its range.
    """

    def __init__(self, source: str | Path, *, label_source: str):
        if label_source not in LABEL_SOURCES:
            raise ValueError(f"Unknown label source {label_source!r}: expected one of {', '.join(LABEL_SOURCES)}.")
        self.label_source = label_source
        rows = iterate_table(source)
        required = {name: ColumnSpec(name) for name in ("id", *AESTHETIC_NAMES)}
        keys, values = array("Q"), array("f")
        for row in check_columns(rows, required, source=str(source)):
            song_id = row.values.get("id")
            if song_id is None or song_id == "":
                raise TableError(f"{row.location} has no id.")
            keys.append(compute_exact_key(str(song_id)))
            values.extend(_read_label(name, row.values.get(name), row.location) for name in AESTHETIC_NAMES)
        if not keys:
            raise TableError(f"{source} holds no labels.")
        all_keys = np.frombuffer(keys, dtype=np.uint64)
        order = np.argsort(all_keys, kind="stable")
        self._keys = all_keys[order]
        self._values = np.frombuffer(values, dtype=np.float32).reshape(len(keys), len(AESTHETIC_NAMES))[order]
        repeated = order[1:][self._keys[1:] == self._keys[:-1]]
        if repeated.size:
            raise TableError(f"{source} holds an id twice, the second time in row {int(repeated.min()) + 1}.")

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, song_id: str) -> dict[str, float] | None:
        """Return the five labels of a song by name, or `None` when it has none."""
        key = np.uint64(compute_exact_key(song_id))
        position = int(np.searchsorted(self._keys, key))
        if position == len(self._keys) or self._keys[position] != key:
            return None
        return dict(zip(AESTHETIC_NAMES, self._values[position].tolist(), strict=True))


def _read_label(name: str, value: Any, location: str) -> float:
    """Read one aesthetic label, a number or text that holds one, and check that it is in its head's range."""
    head = next(head for head in AESTHETIC_HEADS if head["name"] == name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not head["minimum"] <= number <= head["maximum"]:
        raise TableError(
            f"{location}: the label {name} is {value!r}, expected a number from {head['minimum']:g} to "
            f"{head['maximum']:g}."
        )
    return number


def read_labels(values: Mapping[str, Any], location: str) -> dict[str, float]:
    """
    Read the five aesthetic labels of a row by name, whatever the case of the names in the row.

    Raises:
        `TableError`: If one is missing or outside its range; the message says where the row stands.
    """
    by_name = {str(name).casefold(): value for name, value in values.items()}
    missing = [name for name in AESTHETIC_NAMES if name not in by_name]
    if missing:
        raise TableError(f"{location} lacks {', '.join(missing)}; it has {', '.join(map(str, values)) or 'nothing'}.")
    return {name: _read_label(name, by_name[name], location) for name in AESTHETIC_NAMES}
