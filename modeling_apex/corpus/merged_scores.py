"""
The parts of a corpus that many machines scored, put together: what comes in are the files of `score --shard`, what
leaves is the file that one machine would have written.
"""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from modeling_apex.corpus.score_journal import OUTPUT_FORMATS, format_json_lines
from modeling_apex.inference.report_apex import format_json, format_row
from modeling_apex.storage.output_folder import TEXT_ERRORS, replace_file

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
_FACTS = ("model_id", "model_revision")  # what must be the same in every row that names it


def find_parts(names: Sequence[str | os.PathLike]) -> list[Path]:
    """
    Find the parts of one whole, in order.

    Args:
        names (`Sequence[str]`): Parts such as `scores-00002-of-00020.jsonl`; of one, the others beside it are found.

    Returns:
        `list[Path]`: all parts of it, the first one first.

    Raises:
        `ValueError`: If a name is none of a part, or they are of several wholes.
        `FileNotFoundError`: If parts are missing; the message says which.
    """
    wholes: dict[tuple[str, str, int, str], None] = {}
    for path in map(Path, names):
        found = _PART.fullmatch(path.name)
        if found is None or found[4] not in OUTPUT_FORMATS:
            raise ValueError(
                f"{path}: is not called like a part of `score --shard`; expected a name such as "
                "scores-00002-of-00020.jsonl."
            )
        wholes[str(path.parent), found[1], int(found[3]), found[4]] = None
    if len(wholes) != 1:
        texts = ", ".join(f"{stem}-...-of-{count:05d}{suffix}" for _, stem, count, suffix in wholes)
        raise ValueError(f"the parts are of {len(wholes)} outputs ({texts or 'none named'}). Merge one at a time.")
    ((folder, stem, count, suffix),) = wholes
    parts = [Path(folder) / f"{stem}-{number:05d}-of-{count:05d}{suffix}" for number in range(1, count + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {count} parts are missing: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}. Score these shares, then merge again."
        )
    return parts


def merge_parts(parts: Sequence[Path], output: Path) -> tuple[int, int]:
    """
    Write the rows of all parts into one file, in the order that the songs were listed in.

    Args:
        parts (`Sequence[Path]`): As [`find_parts`] returns them.
        output (`Path`): The file to write, of the same format.

    Returns:
        `tuple[int, int]`: songs, and how many of them failed.

    Raises:
        `ValueError`: If formats, columns or models differ, a part is damaged, or the parts are not the shares of one
            list.
    """
    suffix = parts[0].suffix
    if output.suffix != suffix:
        raise ValueError(f"{output}: the parts are {suffix} files, so the output must end in {suffix}.")
    if suffix == ".parquet":
        return _merge_parquet(parts, output)
    read = [_read_rows(part) for part in parts]
    _refuse_differences({part: str(header) for part, (header, _) in zip(parts, read, strict=True)}, "columns")
    tables = [table for _, table in read]
    rows = [tables[place][row] for place, row in _interleave([len(table) for table in tables], parts)]
    _refuse_other_models(rows)
    with replace_file(output) as file:
        _write_rows(read[0][0], rows, suffix, file)
    failed = sum(bool(row.get("error")) for row in rows)
    return len(rows), failed


def _interleave(counts: Sequence[int], parts: Sequence[Path]) -> list[tuple[int, int]]:
    """Return part and row of each song: every part took every N-th, so none has more than the one before it."""
    if sorted(counts, reverse=True) != list(counts) or counts[0] - counts[-1] > 1:
        texts = ", ".join(f"{part.name} has {count}" for part, count in zip(parts, counts, strict=True))
        raise ValueError(f"the parts are not the shares of one list of songs ({texts} songs). Score them anew.")
    return [(part, row) for row in range(counts[0]) for part, count in enumerate(counts) if row < count]


def _read_rows(part: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Read the columns of a part, if it is CSV, and its rows."""
    with open(part, encoding="utf-8", errors=TEXT_ERRORS, newline="") as file:
        text = file.read()
    try:
        if part.suffix == ".csv":
            table = csv.DictReader(io.StringIO(text), strict=True)
            return list(table.fieldnames or []), list(table)
        rows = json.loads(text) if part.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a row is no object")
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{part}: is damaged ({error}). Score this share anew.") from error
    return [], list(rows)


def _write_rows(columns: Sequence[str], rows: Sequence[dict[str, Any]], suffix: str, file: BinaryIO) -> None:
    if suffix == ".csv":  # cells are text by now, and safe in a spreadsheet
        text = "".join(map(format_row, (columns, *(row.values() for row in rows))))
    else:
        text = format_json(rows) if suffix == ".json" else format_json_lines(rows)
    file.write(text.encode("utf-8", TEXT_ERRORS))


def _merge_parquet(parts: Sequence[Path], output: Path) -> tuple[int, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for part in parts:
        try:
            tables.append(pq.read_table(part))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{part}: is damaged ({error}). Score this share anew.") from error
    _refuse_differences(
        {part: str(table.schema) for part, table in zip(parts, tables, strict=True)}, "columns, or their types,"
    )
    starts = [sum(len(table) for table in tables[:number]) for number in range(len(tables))]
    order = [starts[place] + row for place, row in _interleave([len(table) for table in tables], parts)]
    whole = pa.concat_tables(tables).take(order).combine_chunks()
    _refuse_other_models(whole.select([name for name in _FACTS if name in whole.column_names]).to_pylist())
    with replace_file(output) as file:
        pq.write_table(whole, file)
    errors = whole["error"]
    return len(whole), len(errors) - errors.null_count


def _refuse_differences(facts: dict[Path, str], words: str) -> None:
    first, *others = facts or {Path(): ""}
    for other in others:
        if facts[other] != facts[first]:
            raise ValueError(f"{other}: has other {words} than {first}. Score the shares with one model and options.")


def _refuse_other_models(rows: Sequence[dict[str, Any]]) -> None:
    for name in _FACTS:
        found = {str(row[name]) for row in rows if row.get(name)}
        if len(found) > 1:
            raise ValueError(
                f"the parts are of several models ({name}: {', '.join(sorted(found)[:3])}). Score all shares with one."
            )
