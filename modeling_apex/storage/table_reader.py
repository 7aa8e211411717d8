"""
The one door for tables: a file of any of the formats below comes in, rows that know where they stand leave, in order.

CSV and TSV, JSON Lines (`.jsonl`, `.ndjson`), JSON and Parquet are read, the text formats also as `.gz` and `.zst`.
Text is UTF-8 or what a byte order mark says, and anything else is refused by name: a wrong guess would change names
without a word. Rows are streamed, but for `.json`, which is bounded; lines and what compressed data grow to are
bounded, too. A row that cannot be read is an error that names file and line: a table that silently loses rows would
shift every percentile.
"""

import csv
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
COMPRESSED_SUFFIXES = (".gz", ".zst")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", *(text + end for text in TEXT_SUFFIXES for end in COMPRESSED_SUFFIXES))
FORMATS_TEXT = ".csv, .tsv, .jsonl, .ndjson, .json (each also with .gz or .zst behind it) or .parquet"

BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    # Before UTF-16, whose mark this one begins with.
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# Under which names an object holds the array of its rows.
ROWS_KEYS = ("data", "rows", "records", "items", "results", "songs", "tracks", "battles", "labels")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Lyrics can make a CSV cell larger than the 128 KiB that the csv module allows by default.
MAX_CSV_CELL = 16 * 1024**2
MAX_LINE_LENGTH = 64 * 1024**2
MAX_JSON_BYTES = 256 * 1024**2
# A block of compressed data is this small because zstandard makes up to 128 KiB of four bytes: 32 MiB at a time.
COMPRESSED_BLOCK_BYTES = 1024
MAX_EXPANSION = 250
FREE_EXPANSION_BYTES = 64 * 1024**2
MAX_EXPANDED_BYTES = 256 * 1024**3
PARQUET_BATCH_ROWS = 256
PARQUET_BATCH_BYTES = 32 * 1024**2


class TableError(ValueError):
    """A table that cannot be read; the message names file, line and fix."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table by column, and where it stands, as messages show it: `"songs.jsonl:12"`."""

    location: str
    values: dict[str, Any]


def get_table_suffix(path: str | os.PathLike) -> str:
    """Return which of `TABLE_SUFFIXES` a name ends in, in whatever case, or nothing."""
    name = os.fsdecode(path).lower()
    return next((suffix for suffix in sorted(TABLE_SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def iterate_rows(path: str | os.PathLike, *, keeps_audio: bool = True) -> Iterator[TableRow]:
    """
    Stream the rows of a table.

    Args:
        path (`str` or `os.PathLike`):
            A file whose name ends in one of `TABLE_SUFFIXES`.
        keeps_audio (`bool`, defaults to `True`):
            Whether columns of Parquet that hold structures, such as audio, are read.

    Returns:
        `Iterator[TableRow]`: the rows, in order.

    Raises:
        `TableError`: If the format is unknown, the text is not in UTF-8 and has no byte order mark, a row cannot be
            read, or the data expand to more than is plausible.
        `ImportError`: If the format needs a package that is not installed.
    """
    path = Path(path)
    kind = get_table_suffix(path).removesuffix(".gz").removesuffix(".zst")
    if kind in (".csv", ".tsv"):
        return _iterate_csv_rows(path)
    if kind in (".jsonl", ".ndjson"):
        return _iterate_json_lines(path, iterate_lines(path))
    if kind == ".json":
        return _iterate_json(path)
    if kind == ".parquet":
        return _iterate_parquet(path, keeps_audio)
    raise TableError(f"Unknown table format of {path}: expected a name ending in {FORMATS_TEXT}.")


def iterate_lines(path: Path) -> Iterator[tuple[int, str]]:
    """
    Stream the lines of a text file, whatever its encoding and compression, with their numbers from 1.

    Raises:
        `TableError`: If the text is not in UTF-8 and has no byte order mark, or a line is longer than
            `MAX_LINE_LENGTH`.
    """
    with ExitStack() as stack:
        yield from _iterate_numbered_lines(path, _open_text(path, stack, newline="\n"))


def iterate_csv_cells(path: Path) -> Iterator[tuple[str, list[str]]]:
    """
    Stream the rows of a CSV file as lists of cells, each with its location; empty lines are passed over.

    Cells are separated by what separates those of the first line: commas, semicolons, tabs or bars, or what a first
    line `sep=;` says, as Excel writes it.

    Raises:
        `TableError`: If a row cannot be read.
    """
    csv.field_size_limit(MAX_CSV_CELL)
    with ExitStack() as stack:
        lines = _iterate_numbered_lines(path, _open_text(path, stack, newline=""))
        first_number, first = next(((number, line) for number, line in lines if not line.isspace()), (1, ""))
        if first.startswith("sep="):
            delimiter = first.strip("\r\n").removeprefix("sep=")
            if delimiter not in DELIMITERS:
                raise TableError(f"{path} says sep={delimiter}: expected one of {_describe_delimiters()}.")
            first_number, first = next(lines, (1, ""))
        else:
            delimiter = _find_delimiter(first, path)
        reader = csv.reader(chain([first], (line for _, line in lines)), delimiter=delimiter)
        while True:
            location = f"{path}:{first_number + reader.line_num}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise TableError(
                    f"{location} is not CSV ({error}). A quotation mark that is never closed takes in everything "
                    "after it: fix that row."
                ) from error
            if cells is None:
                return
            if cells:
                yield location, cells


def check_expansion(path: str | os.PathLike, num_compressed: int, num_expanded: int) -> None:
    """
    Refuse data that expand to more than a table does, before they fill memory or disk.

    Raises:
        `TableError`: If they expand to more than 250 times their size (beyond 64 MiB), or to more than 256 GiB.
    """
    is_bomb = num_expanded > FREE_EXPANSION_BYTES and num_expanded > MAX_EXPANSION * num_compressed
    if is_bomb or num_expanded > MAX_EXPANDED_BYTES:
        raise TableError(
            f"{path} expands to more than {num_expanded // 1024**2} MiB from {num_compressed} bytes, but a table "
            f"expands at most {MAX_EXPANSION}-fold and to {MAX_EXPANDED_BYTES // 1024**3} GiB. If it is to be "
            "trusted, decompress it and pass the result."
        )


def _iterate_numbered_lines(path: Path, stream: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        while line := stream.readline(MAX_LINE_LENGTH + 1):
            number += 1
            if len(line) > MAX_LINE_LENGTH:
                raise TableError(
                    f"{path}:{number} is longer than {MAX_LINE_LENGTH // 1024**2} million characters: is it a table "
                    "with one row per line?"
                )
            yield number, line
    except UnicodeDecodeError as error:
        # The decoder is ahead of the lines by what it was given last.
        number += 1 + error.object[: error.start].count(b"\n")
        raise TableError(
            f"{path}:{number} is not text in {error.encoding.upper()} (byte 0x{error.object[error.start]:02x}: "
            f"{error.reason}). If it is in Latin-1 or Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8 "
            f"{path.name}."
        ) from error


def _open_text(path: Path, stack: ExitStack, *, newline: str) -> io.TextIOWrapper:
    file: io.BufferedReader = stack.enter_context(path.open("rb"))
    if path.suffix.lower() in COMPRESSED_SUFFIXES:
        file = io.BufferedReader(_ExpandedStream(path, file))
    head = file.peek(4096)[:4096]
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in head:
        raise TableError(
            f"{path} is not text in UTF-8: it holds zero bytes, as text in UTF-16 without a byte order mark does, or "
            f"a file of another kind. If it is text, convert it: iconv -f UTF-16LE -t UTF-8 {path.name}."
        )
    return stack.enter_context(io.TextIOWrapper(file, encoding=encoding, newline=newline))


class _ExpandedStream(io.RawIOBase):
    """What compressed data expand to. Ready-made readers end quietly where a file was cut off, which loses rows."""

    def __init__(self, path: Path, stream: BinaryIO):
        self._blocks = _expand(path, stream)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _expand(path: Path, stream: BinaryIO) -> Iterator[bytes]:
    name = "gzip" if path.suffix.lower() == ".gz" else "zstandard"
    open_frame, errors = _load_gzip() if name == "gzip" else _load_zstandard(path)
    frame, num_compressed, num_expanded = None, 0, 0
    try:
        while compressed := stream.read(COMPRESSED_BLOCK_BYTES):
            num_compressed += len(compressed)
            # Files written in pieces hold several frames one after the other.
            while compressed:
                frame = open_frame() if frame is None or frame.eof else frame
                expanded = frame.decompress(compressed)
                num_expanded += len(expanded)
                check_expansion(path, num_compressed, num_expanded)
                yield expanded
                compressed = frame.unused_data if frame.eof else b""
    except errors as error:
        raise TableError(f"{path} is not whole {name} data ({error}): fetch it again.") from error
    if frame is None or not frame.eof:
        raise TableError(f"{path} ends in the middle of its {name} data: fetch it again.")


def _load_gzip() -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    return lambda: zlib.decompressobj(16 + zlib.MAX_WBITS), (zlib.error, gzip.BadGzipFile)


def _load_zstandard(path: Path) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(f'Reading {path} needs zstandard: pip install "apex-music[data]".') from error
    return lambda: zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError,)


def _find_delimiter(header: str, path: Path) -> str:
    """Return what separates the cells of a header: what occurs most often in it outside of quotation marks."""
    if get_table_suffix(path).startswith(".tsv"):
        return "\t"
    unquoted = "".join(header.split('"')[::2])
    counts = Counter(sign for sign in unquoted if sign in DELIMITERS)
    return max(DELIMITERS, key=lambda sign: counts[sign])


def _describe_delimiters() -> str:
    return ", ".join(repr(sign) for sign in DELIMITERS)


def _iterate_csv_rows(path: Path) -> Iterator[TableRow]:
    rows = iterate_csv_cells(path)
    _, header = next(rows, ("", []))
    header = [name.strip() for name in header]
    if not any(header):
        raise TableError(f"{path} is empty: expected a header line with column names.")
    _refuse_repeated_columns([name for name in header if name], path)
    for location, cells in rows:
        if len(cells) != len(header):
            raise TableError(
                f"{location} has {len(cells)} cells but the header has {len(header)}: {', '.join(header)[:200]}. Fix "
                f"that row; cells are separated by one of {_describe_delimiters()}, the same in all lines, and text "
                "that contains it must be in quotation marks."
            )
        # A column without a name, such as the row numbers that pandas writes, holds nothing that one could ask for.
        yield TableRow(location, {name: cell for name, cell in zip(header, cells, strict=True) if name})


def _refuse_repeated_columns(names: list[str], path: Path) -> None:
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise TableError(f"{path} has two columns that are called {repeated!r}: rename or remove one.")


def _iterate_json_lines(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[TableRow]:
    for number, line in lines:
        if line and not line.isspace():
            location = f"{path}:{number}"
            values = _parse_json(line, location)
            if not isinstance(values, dict):
                raise TableError(f"{location} holds a JSON {type(values).__name__}, expected one object per line.")
            yield TableRow(location, values)


def _parse_json(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise TableError(f"{location} is not JSON ({reason}). Fix or remove that line.") from error


def load_json(path: Path) -> Any:
    """
    Load a JSON file whole.

    Raises:
        `TableError`: If it is not JSON, or larger than `MAX_JSON_BYTES`.
    """
    return _parse_document("".join(_read_json_text(path)), path)


def _read_json_text(path: Path) -> list[str]:
    lines, length = [], 0
    for _, line in iterate_lines(path):
        length += len(line)
        if length > MAX_JSON_BYTES:
            raise TableError(
                f"{path} holds more than {MAX_JSON_BYTES // 1024**2} MiB of JSON, which is loaded whole. Write it as "
                "JSON Lines (.jsonl), one object per line, which is read row by row."
            )
        lines.append(line)
    return lines


def _parse_document(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TableError(f"{path}:{error.lineno} is not JSON ({error}). Fix that line.") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise TableError(f"{path} is not JSON ({reason}). Fix it.") from error


def _iterate_json(path: Path) -> Iterator[TableRow]:
    """Stream the objects of a `.json` file: an array of them, an object that holds them, or JSON Lines after all."""
    lines = _read_json_text(path)
    text = "".join(lines)
    try:
        document = _parse_document(text, path)
    except TableError as error:
        # Many programs, `datasets` among them, write JSON Lines under this suffix.
        if getattr(error.__cause__, "msg", "") != "Extra data" or not text.lstrip().startswith("{"):
            raise
        yield from _iterate_json_lines(path, enumerate(lines, start=1))
        return
    for number, values in enumerate(_find_json_rows(document, path), start=1):
        location = f"{path}, row {number}"
        if not isinstance(values, dict):
            raise TableError(f"{location} is a JSON {type(values).__name__}, expected one object per row.")
        yield TableRow(location, values)


def _find_json_rows(document: Any, path: Path) -> list[Any]:
    """Return the rows of a document: an array, alone or under a usual name in an object, or objects by their ids."""
    if isinstance(document, dict):
        held = [value for key, value in document.items() if len(document) == 1 or key.lower() in ROWS_KEYS]
        if len(held) == 1 and isinstance(held[0], list):
            return held[0]
        if document and all(isinstance(value, dict) for value in document.values()):
            return [{"id": key, **row} for key, row in document.items()]
        return [document]
    if not isinstance(document, list):
        raise TableError(
            f"{path} holds a JSON {type(document).__name__}, expected an array of objects, or an object of them by id."
        )
    return document


def _iterate_parquet(path: Path, keeps_audio: bool) -> Iterator[TableRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f'Reading {path} needs pyarrow: pip install "apex-music[data]".') from error
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            schema, metadata = table.schema_arrow, table.metadata
            _refuse_repeated_columns(schema.names, path)
            sizes = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
            check_expansion(path, path.stat().st_size, sum(sizes))
            # Rows may hold whole audio files: as many at a time as fit.
            row_bytes = max(sum(sizes) // max(metadata.num_rows, 1), 1)
            batch_size = min(max(PARQUET_BATCH_BYTES // row_bytes, 1), PARQUET_BATCH_ROWS)
            columns = [field.name for field in schema if keeps_audio or not pyarrow.types.is_struct(field.type)]
            number = 0
            for batch in table.iter_batches(batch_size=batch_size, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield TableRow(f"{path}, row {number}", values)
    except (pyarrow.ArrowException, UnicodeDecodeError, OverflowError) as error:
        _refuse_parquet(path, error)
    except OSError as error:
        # Damage inside comes as a bare `OSError`; what the system reports has a number.
        if error.errno is not None:
            raise
        _refuse_parquet(path, error)


def _refuse_parquet(path: Path, error: Exception) -> NoReturn:
    raise TableError(f"{path} is not a whole Parquet file ({error}). Write or fetch it again.") from error
