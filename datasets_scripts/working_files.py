"""
The working files of a build: what a killed build leaves behind so that the next one need not start over.

[`WorkingTable`] keeps the rows of a scanned corpus on disk, so memory does not grow with their text.
[`AudioJournal`] keeps what was found inside each audio file, which is the expensive part. Both lie in a folder that
the finished build removes.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets_scripts.audio_files import AudioFacts
from datasets_scripts.audio_fingerprint import FINGERPRINT_BYTES

ROWS_PER_BATCH = 500

# Of `is_sound` in a record: the file decodes, but a part of it is missing. 0 is broken and 1 is sound.
CUT = 2
# Journals of versions that took cut files for sound ones bear another name, and are not read.
JOURNAL_NAME = "audio-2.journal"
JOURNAL_RECORD = np.dtype(
    [
        ("row", "<i8"),
        ("file_key", "<u8"),
        ("sha256", "u1", (32,)),
        ("fingerprint", "u1", (FINGERPRINT_BYTES,)),
        ("has_fingerprint", "u1"),
        ("is_sound", "u1"),
        ("num_bytes", "<i8"),
        ("duration", "<f8"),
    ]
)


def write_working_table(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a working table with these columns, a batch at a time; missing columns become null."""
    rows = iter(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))


class WorkingTable:
    """
    Read chosen rows of a working table without holding the rest.

    Args:
        path (`Path`):
            A file that [`write_working_table`] wrote.
    """

    def __init__(self, path: Path):
        self.path = path

    def iterate_rows(self, indices: NDArray[np.int64], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """
        Read rows, in tables of at most `ROWS_PER_BATCH`.

        Args:
            indices (`np.ndarray`):
                Row numbers in ascending order, each at most once.
            columns (`Sequence[str]`, *optional*):
                The columns to keep.

        Returns:
            `Iterator[pa.Table]`: the rows, in order.
        """
        # Not memory-mapped: pages of a map count as memory of the process.
        with pa.OSFile(str(self.path), "rb") as file, pa.ipc.open_file(file) as reader:
            start = 0
            while start < len(indices):
                rows = indices[start : start + ROWS_PER_BATCH]
                number = int(rows[0]) // ROWS_PER_BATCH
                rows = rows[: np.searchsorted(rows, (number + 1) * ROWS_PER_BATCH)]
                start += len(rows)
                table = pa.Table.from_batches([reader.get_batch(number)])
                table = table.select(list(columns)) if columns is not None else table
                yield table.take(pa.array(rows - number * ROWS_PER_BATCH))

    def iterate_paths(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, Path]]:
        """Read the audio paths of some rows, ascending; rows without audio are passed over."""
        start = 0
        for batch in self.iterate_rows(rows, ["audio_path"]):
            for row, path in zip(rows[start:], batch["audio_path"].to_pylist(), strict=False):
                if path is not None:
                    yield int(row), Path(path)
            start += batch.num_rows

    def get_value(self, index: int, column: str) -> Any:
        """Return one cell, for messages."""
        return next(self.iterate_rows(np.array([index]), [column]))[column][0].as_py()


class AudioJournal:
    """
    Remember what was found inside audio files, so that a build that is killed does not look twice.

    Records have a fixed size and are only ever appended; half a record at the end, from a process killed while
    writing, is cut off.

    Args:
        folder (`Path`):
            Where the journal lies.
    """

    def __init__(self, folder: Path):
        self._records_path = folder / JOURNAL_NAME
        self._errors_path = folder / "audio_errors.jsonl"
        self._records_path.touch()
        whole = self._records_path.stat().st_size // JOURNAL_RECORD.itemsize * JOURNAL_RECORD.itemsize
        os.truncate(self._records_path, whole)

    def load(self) -> NDArray:
        """Return the records so far, a structured array of `JOURNAL_RECORD`."""
        return np.fromfile(self._records_path, dtype=JOURNAL_RECORD)

    def append(self, row: int, file_key: int, facts: AudioFacts) -> None:
        """Add what was found in the file of a row."""
        if facts.error is not None:
            # The reason goes first: a record whose reason is lost could not be reported.
            with open(self._errors_path, "a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps({"row": row, "error": facts.error}))
        record = np.zeros(1, dtype=JOURNAL_RECORD)
        record["row"], record["file_key"] = row, file_key
        record["sha256"] = np.frombuffer(facts.sha256, dtype=np.uint8)
        if facts.fingerprint is not None:
            record["fingerprint"], record["has_fingerprint"] = np.frombuffer(facts.fingerprint, dtype=np.uint8), 1
        record["is_sound"] = CUT if facts.is_cut else facts.error is None
        record["num_bytes"], record["duration"] = facts.num_bytes, facts.duration
        with open(self._records_path, "ab") as stream:
            stream.write(record.tobytes())

    def load_errors(self) -> dict[int, str]:
        """Return why files could not be used, by row."""
        if not self._errors_path.is_file():
            return {}
        errors = {}
        for line in self._errors_path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                # Empty, or cut off when the process was killed: that file is looked at again.
                continue
            errors[int(entry["row"])] = str(entry["error"])
        return errors
