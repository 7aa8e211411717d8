"""
Metadata tables, one row at a time: a JSONL, JSONL.zst, CSV or Parquet file, a folder of them, or a Hub dataset id
comes in; rows that know where they stand leave, in bounded memory.

A row that cannot be read is an error that names the file and the line: a table that silently loses rows would shift
every percentile. Columns are found by [`ColumnSpec`], which also reaches into nested objects.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from modeling_apex.checkpoints.hub_files import get_hub_errors

TABLE_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.zst", ".csv", ".parquet")
HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PARQUET_BATCH_ROWS = 256
# A required column may be missing from single JSON rows; it must turn up somewhere among this many.
NUM_PEEKED_ROWS = 100
COMPRESSED_BLOCK_BYTES = 64 * 1024
# Lyrics can make a CSV cell larger than the 128 KiB that the csv module allows by default.
MAX_CSV_CELL = 16 * 1024**2


class TableError(ValueError):
    """A metadata table that cannot be read; the message names file, line and fix."""


@dataclass(frozen=True)
class TableRow:
    """One row of a metadata table by column, and where it stands, as messages show it: `"songs.jsonl:12"`."""

    location: str
    values: dict[str, Any]


@dataclass(frozen=True)
class ColumnSpec:
    """
    Where a field is found in a row: alternatives separated by `|`, nesting by dots.

    `"metadata.gpt_description_prompt|metadata.prompt"` takes the first of the two that is there and not empty. A
    column whose own name contains the dots wins over nesting, so flattened tables work too.

    Args:
        text (`str`):
            The specification.
    """

    text: str

    @property
    def alternatives(self) -> list[str]:
        """The column paths, in order of preference."""
        return [path.strip() for path in self.text.split("|") if path.strip()]

    def find(self, values: dict[str, Any]) -> Any:
        """Return the first alternative that is there and not empty, else `None`."""
        for path in self.alternatives:
            value = _find_path(values, path)
            if value is not None and value != "":
                return value
        return None

    def is_known(self, columns: set[str]) -> bool:
        """Return whether one of the alternatives is among these flattened column names."""
        return any(path in columns for path in self.alternatives)


def iterate_table(source: str | Path, *, split: str = "train", revision: str | None = None) -> Iterator[TableRow]:
    """
    Stream the rows of a metadata table.

    Args:
        source (`str` or `Path`):
            A file with one of the suffixes `.jsonl`, `.ndjson`, `.jsonl.zst`, `.csv`, `.parquet`, a folder of such
            files, or the id of a dataset on the Hub (`"owner/name"`).
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
    path = Path(source).expanduser()
    files = list_table_files(source)
    if path.is_dir() and not files:
        raise TableError(f"No metadata table in {path}: expected files ending in {', '.join(TABLE_SUFFIXES)}.")
    if files:
        return (row for file in files for row in _iterate_file(file))
    if is_hub_id(source):
        return _iterate_hub_dataset(str(source), split=split, revision=revision)
    raise FileNotFoundError(f"No metadata table at {path}. Give a file, a folder of files or a Hub id (owner/name).")


def list_table_files(source: str | Path) -> list[Path]:
    """List the files of a metadata table: a folder's, the file itself, or none where it is not on this machine."""
    path = Path(source).expanduser()
    if path.is_dir():
        return [file for file in sorted(path.iterdir()) if _get_suffix(file)]
    return [path] if path.is_file() else []


def is_hub_id(source: str | Path) -> bool:
    """Tell whether a table is a dataset on the Hub."""
    path = Path(source).expanduser()
    return not path.exists() and not _get_suffix(path) and HUB_ID_PATTERN.fullmatch(str(source)) is not None


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
            f"{source}: the Hub does not tell which commit {revision or 'the main branch'} is ({error}). Check the id "
            "and the connection, then give the same command again."
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


def _iterate_file(path: Path) -> Iterator[TableRow]:
    suffix = _get_suffix(path)
    if suffix in (".jsonl", ".ndjson"):
        with open(path, "rb") as stream:
            yield from _iterate_json_lines(stream, path)
    elif suffix == ".jsonl.zst":
        yield from _iterate_compressed_json_lines(path)
    elif suffix == ".csv":
        yield from _iterate_csv(path)
    elif suffix == ".parquet":
        yield from _iterate_parquet(path)
    else:
        raise TableError(f"Unknown table format of {path}: expected a name ending in {', '.join(TABLE_SUFFIXES)}.")


def _iterate_compressed_json_lines(path: Path) -> Iterator[TableRow]:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(f'Reading {path} needs zstandard: pip install "apex-music[data]".') from error
    try:
        with open(path, "rb") as stream:
            yield from _iterate_json_lines(_decompress_lines(stream, zstandard.ZstdDecompressor()), path)
    except zstandard.ZstdError as error:
        raise TableError(f"{path} is not whole zstandard data ({error}): fetch it again.") from error
    except EOFError as error:
        raise TableError(f"{path} ends in the middle of its zstandard data: fetch it again.") from error


def _decompress_lines(stream: BinaryIO, decompressor: Any) -> Iterator[bytes]:
    """Decompress line by line. Ready-made readers end quietly where a file was cut off, which would lose rows."""
    frame, rest = None, b""
    while compressed := stream.read(COMPRESSED_BLOCK_BYTES):
        # Files written in pieces hold several frames one after the other.
        while compressed:
            frame = decompressor.decompressobj() if frame is None or frame.eof else frame
            lines = (rest + frame.decompress(compressed)).split(b"\n")
            rest = lines.pop()
            yield from lines
            compressed = frame.unused_data if frame.eof else b""
    if frame is None or not frame.eof:
        raise EOFError
    yield rest


def _iterate_json_lines(stream: Any, path: Path) -> Iterator[TableRow]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        location = f"{path}:{number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise TableError(f"{location} is not JSON ({error}). Mend or remove that line.") from error
        if not isinstance(values, dict):
            raise TableError(f"{location} holds a JSON {type(values).__name__}, expected an object per line.")
        yield TableRow(location, values)


def _iterate_csv(path: Path) -> Iterator[TableRow]:
    csv.field_size_limit(MAX_CSV_CELL)
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        try:
            header = next(reader, None)
            if not header:
                raise TableError(f"{path} is empty: expected a header line with column names.")
            for cells in reader:
                location = f"{path}:{reader.line_num}"
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise TableError(f"{location} has {len(cells)} cells but the header has {len(header)}.")
                yield TableRow(location, dict(zip(header, cells, strict=True)))
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableError(f"{path}:{reader.line_num} is not CSV in UTF-8 ({error}).") from error


def _iterate_parquet(path: Path) -> Iterator[TableRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield TableRow(f"{path}, row {number}", values)
    except pyarrow.ArrowInvalid as error:
        raise TableError(f"{path} is not a whole Parquet file ({error}).") from error


def _iterate_hub_dataset(hub_id: str, *, split: str, revision: str | None) -> Iterator[TableRow]:
    import datasets

    rows = datasets.load_dataset(hub_id, split=split, revision=revision, streaming=True)
    for name, feature in (rows.features or {}).items():
        # Audio stays encoded: it is stored as it came.
        if isinstance(feature, datasets.Audio):
            rows = rows.cast_column(name, datasets.Audio(decode=False))
    for number, values in enumerate(rows, start=1):
        yield TableRow(f"{hub_id} ({split}), row {number}", dict(values))


def _get_suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in TABLE_SUFFIXES if name.endswith(suffix)), "")


def _find_path(values: Any, path: str) -> Any:
    if not isinstance(values, dict):
        return None
    if path in values:
        return values[path]
    head, dot, rest = path.partition(".")
    return _find_path(values.get(head), rest) if dot else None


def _flatten_names(values: dict[str, Any], prefix: str = "") -> Sequence[str]:
    names = []
    for name, value in values.items():
        names.append(prefix + name)
        if isinstance(value, dict):
            names.extend(_flatten_names(value, f"{prefix}{name}."))
    return names
