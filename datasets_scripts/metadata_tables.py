"""
Metadata tables, one row at a time: a file of any format of `table_reader`, a folder of them, or a Hub dataset id comes
in; rows that know where they stand leave, in bounded memory.

Columns are found by [`ColumnSpec`], which also reaches into nested objects.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modeling_apex.checkpoints.hub_files import get_hub_errors
from modeling_apex.storage.cell_values import is_unknown
from modeling_apex.storage.table_reader import FORMATS_TEXT, TableError, TableRow, get_table_suffix, iterate_rows

HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A required column may be missing from single JSON rows; it must turn up somewhere among this many.
NUM_PEEKED_ROWS = 100


@dataclass(frozen=True)
class ColumnSpec:
    """
    Where a field is found in a row: alternatives separated by `|`, nesting by dots.

    `"metadata.gpt_description_prompt|metadata.prompt"` takes the first of the two that is there and known. A
    column whose own name contains the dots wins over nesting, so flattened tables work too.

    Args:
        text (`str`):
            The specification.
        ignores_case (`bool`, defaults to `False`):
            Whether a column is also found whose name differs in case only.
    """

    text: str
    ignores_case: bool = False

    @property
    def alternatives(self) -> list[str]:
        """The column paths, in order of preference."""
        return [path.strip() for path in self.text.split("|") if path.strip()]

    def find(self, values: dict[str, Any]) -> Any:
        """Return the first alternative that is there and known, else `None`."""
        for path in self.alternatives:
            value = _find_path(values, path, self.ignores_case)
            if not is_unknown(value):
                return value
        return None

    def is_known(self, columns: set[str]) -> bool:
        """Return whether one of the alternatives is among these flattened column names."""
        if self.ignores_case:
            folded = {name.casefold() for name in columns}
            return any(path.casefold() in folded for path in self.alternatives)
        return any(path in columns for path in self.alternatives)


def iterate_table(source: str | Path, *, split: str = "train", revision: str | None = None) -> Iterator[TableRow]:
    """
    Stream the rows of a metadata table.

    Args:
        source (`str` or `Path`):
            A file in any format of `table_reader`, a folder of such files, or the id of a dataset on the Hub
            (`"owner/name"`).
        split (`str`, defaults to `"train"`):
            The split to read of a Hub dataset.
        revision (`str`, *optional*):
            The revision to read of a Hub dataset.

    Returns:
        `Iterator[TableRow]`: the rows, in the order of the files.

    Raises:
        `FileNotFoundError`: If `source` is neither a path that exists nor a Hub id.
        `TableError`: If a file has an unknown format or a row cannot be read.
    """
    path = Path(os.path.expanduser(source))
    files = list_table_files(source)
    if path.is_dir() and not files:
        raise TableError(f"No metadata table in {path}: expected files ending in {FORMATS_TEXT}.")
    if files:
        return (row for file in files for row in iterate_rows(file))
    if is_hub_id(source):
        return _iterate_hub_dataset(str(source), split=split, revision=revision)
    raise FileNotFoundError(f"No metadata table at {path}. Give a file, a folder of files or a Hub id (owner/name).")


def list_table_files(source: str | Path) -> list[Path]:
    """List the files of a metadata table: a folder's, the file itself, or none where it is not on this machine."""
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        # A hidden file is not a table: macOS puts one beside each file that it copies.
        files = (file for file in sorted(path.iterdir()) if not file.name.startswith("."))
        return [file for file in files if get_table_suffix(file) and file.is_file()]
    return [path] if path.is_file() else []


def is_hub_id(source: str | Path) -> bool:
    """Tell whether a table is a dataset on the Hub."""
    path = Path(os.path.expanduser(source))
    return not path.exists() and not get_table_suffix(path) and HUB_ID_PATTERN.fullmatch(str(source)) is not None


@cache
def pin_revision(source: str, revision: str | None = None) -> str | None:
    """
    Find out which commit a revision of a Hub dataset is now: branches move, and rows must be those of one commit.

    Returns:
        `str` or `None`: the commit, the same as long as the process lives; `None` for a table on this machine.

    Raises:
        `OSError`: If the Hub does not tell.
    """
    if not is_hub_id(source):
        return None
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(source, revision=revision).sha
    except get_hub_errors() as error:
        raise OSError(
            f"{source}: the Hub does not say which commit {revision or 'the main branch'} is ({error}). Check the id "
            "and the connection, then run the same command again."
        ) from error


def check_columns(rows: Iterator[TableRow], required: dict[str, ColumnSpec], *, source: str) -> Iterator[TableRow]:
    """
    Make sure that the fields a builder needs are in a table, then pass all its rows on.

    Args:
        rows (`Iterator[TableRow]`), source (`str`):
            The rows of the table, and its name for the message.
        required (`dict[str, ColumnSpec]`):
            Field names to the columns that hold them.

    Raises:
        `TableError`: If a field's column is in none of the first rows; the message lists the columns there are.
    """
    peeked: list[TableRow] = []
    columns: set[str] = set()
    for row in rows:
        peeked.append(row)
        columns.update(_flatten_names(row.values))
        if len(peeked) == NUM_PEEKED_ROWS:
            break
    missing = {field: spec for field, spec in required.items() if peeked and not spec.is_known(columns)}
    if missing:
        field = next(iter(missing))
        lacking = ", ".join(f"`{spec.text}` (for {field})" for field, spec in missing.items())
        raise TableError(
            f"{source} has no column {lacking}. Its columns: {', '.join(sorted(columns))}. "
            f"Name the right one with --column {field}=NAME."
        )
    yield from peeked
    del peeked
    yield from rows


def _iterate_hub_dataset(hub_id: str, *, split: str, revision: str | None) -> Iterator[TableRow]:
    import datasets

    rows = datasets.load_dataset(hub_id, split=split, revision=revision, streaming=True)
    for name, feature in (rows.features or {}).items():
        # Audio stays encoded: it is stored as it came.
        if isinstance(feature, datasets.Audio):
            rows = rows.cast_column(name, datasets.Audio(decode=False))
    for number, values in enumerate(rows, start=1):
        yield TableRow(f"{hub_id} ({split}), row {number}", dict(values))


def _find_path(values: Any, path: str, ignores_case: bool) -> Any:
    if not isinstance(values, dict):
        return None
    if path in values:
        return values[path]
    if ignores_case:
        folded = path.casefold()
        return next((value for name, value in values.items() if name.casefold() == folded), None)
    head, dot, rest = path.partition(".")
    return _find_path(values.get(head), rest, ignores_case) if dot else None


def _flatten_names(values: dict[str, Any], prefix: str = "") -> Sequence[str]:
    names = []
    for name, value in values.items():
        names.append(prefix + name)
        if isinstance(value, dict):
            names.extend(_flatten_names(value, f"{prefix}{name}."))
    return names
