"""
The parts of a corpus that many machines scored, put together: what comes in are the files of `score --shard`, what
leaves is the file that one machine would have written.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.corpus.label_teacher import TEACHER_COLUMNS
from modeling_apex.corpus.score_rows import OUTPUT_FORMATS, ScoreRows
from modeling_apex.corpus.scored_songs import ScoredSongs
from modeling_apex.storage.output_folder import replace_file

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
# What must be the same in every row that names it; the teacher's day and version may differ.
_FACTS = ("model_id", "model_revision", *TEACHER_COLUMNS[:3])


def find_parts(names: Sequence[str | os.PathLike]) -> list[Path]:
    """
    Find the parts of one whole, in order.

    Args:
        names (`Sequence[str]`): Parts such as `scores-00002-of-00020.jsonl`; of one, the others beside it are found.
            Of a folder, all parts in it.

    Returns:
        `list[Path]`: all parts of it, the first one first.

    Raises:
        `ValueError`: If a name is none of a part, or they are of several wholes.
        `FileNotFoundError`: If parts are missing; the message says which.
    """
    wholes: dict[tuple[str, str, int, str], None] = {}
    for path in _list_files(names):
        found = PART.fullmatch(path.name)
        if found is None or found[4] not in OUTPUT_FORMATS:
            raise ValueError(
                f"{path}: is not named like a part of `score --shard`; expected a name such as "
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


def _list_files(names: Sequence[str | os.PathLike]) -> Iterator[Path]:
    for path in map(Path, names):
        if not path.is_dir():
            yield path
            continue
        found = sorted(part for part in path.iterdir() if PART.fullmatch(part.name))
        if not found:
            raise FileNotFoundError(f"{path}: holds no part of `score --shard`, such as scores-00002-of-00020.jsonl.")
        yield from found


def merge_parts(parts: Sequence[Path], output: Path) -> list[str | None]:
    """
    Write the rows of all parts into one file, in the order that the songs were listed in.

    Args:
        parts (`Sequence[Path]`): As [`find_parts`] returns them.
        output (`Path`): The file to write, of the same format.

    Returns:
        `list`: what went wrong with each song, or nothing.

    Raises:
        `ValueError`: If formats, columns or models differ, a part is damaged, or the parts are not the shares of one
            list.
    """
    suffix = parts[0].suffix
    if output.suffix != suffix:
        raise ValueError(f"{output}: the parts are {suffix} files, so the output must end in {suffix}.")
    read = [ScoreRows.read(part, "Score this share again.") for part in parts]
    words = "columns, or their types," if suffix == ".parquet" else "columns"
    _refuse_differences({part: rows.schema for part, rows in zip(parts, read, strict=True)}, words)
    order = _interleave([len(rows) for rows in read], parts)
    starts = [sum(len(rows) for rows in read[:number]) for number in range(len(read))]
    whole = read[0].put_behind(read[1:]).take([starts[part] + row for part, row in order])
    _refuse_other_models(whole)
    records = _read_records(parts)
    with replace_file(output) as file:
        whole.write(file)
    if records:
        songs = [list(record.songs.items()) for record in records]
        merged = dict(songs[part][row] for part, row in order)
        ScoredSongs(records[0].settings, merged, compute_file_hash(output)).save(ScoredSongs.locate(output))
    return whole.list_values("error")


def _read_records(parts: Sequence[Path]) -> list[ScoredSongs]:
    """Read what the parts were made from, where all of them say so."""
    if not all(ScoredSongs.locate(part).is_file() for part in parts):
        return []
    records = [ScoredSongs.load(part) for part in parts]
    for part, record in zip(parts, records, strict=True):
        record.refuse_other_settings(part, records[0].settings)
    return records


def _interleave(counts: Sequence[int], parts: Sequence[Path]) -> list[tuple[int, int]]:
    """Return part and row of each song: every part took every N-th, so none has more than the one before it."""
    if sorted(counts, reverse=True) != list(counts) or counts[0] - counts[-1] > 1:
        texts = ", ".join(f"{part.name} has {count}" for part, count in zip(parts, counts, strict=True))
        raise ValueError(f"the parts are not the shares of one list of songs ({texts} songs). Score them again.")
    return [(part, row) for row in range(counts[0]) for part, count in enumerate(counts) if row < count]


def _refuse_differences(facts: dict[Path, str], words: str) -> None:
    first, *others = facts or {Path(): ""}
    for other in others:
        if facts[other] != facts[first]:
            raise ValueError(f"{other}: has other {words} than {first}. Score the shares with one model and options.")


def _refuse_other_models(rows: ScoreRows) -> None:
    for name in _FACTS:
        found = {str(value) for value in rows.list_values(name) if value}
        if len(found) > 1:
            raise ValueError(
                f"the parts are of several models ({name}: {', '.join(sorted(found)[:3])}). Score all shares with one."
            )
