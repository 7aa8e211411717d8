"""
Columns on disk: arrays that are written once from start to end, read in slices, and sorted without being in memory.

What ranking, filtering and splitting need of a million songs would fill hundreds of megabytes as arrays. Here such
columns lie in files, a function reads a chunk of rows at a time, and what has to meet regardless of its place (equal
ids, equal prompts, the ranks of counts) is brought together by an external merge sort. So memory is the same for ten
thousand songs and ten million. Files are read and written, not mapped: pages of a map count as memory of the process.
"""

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Rows that are in memory at once, of each column that takes part.
ROWS_PER_CHUNK = 2**16
# Sorted runs that are merged at once; more of them are merged in rounds.
MAX_MERGED_RUNS = 16


class Column(Protocol):
    """What can be read a slice at a time: a [`DiskColumn`], a field of one, or simply an array."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


class DiskColumn:
    """
    A one-dimensional array in a file of its own, which goes when the column does.

    Args:
        dtype (`numpy.typing.DTypeLike`):
            What a row is; records (structured types) hold several fields.
        folder (`Path`, *optional*):
            Where the file lies. Defaults to the system's folder for temporary files.
    """

    def __init__(self, dtype: DTypeLike, folder: Path | None = None):
        self.dtype = np.dtype(dtype)
        self.folder = folder
        self._length = 0
        descriptor, name = tempfile.mkstemp(prefix="column-", dir=folder)
        os.close(descriptor)
        self._path = Path(name)
        weakref.finalize(self, _remove, self._path, os.getpid())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice) -> NDArray:
        start, stop, _ = rows.indices(self._length)
        size = self.dtype.itemsize
        # Opened for every slice, so that processes that share the column do not share a place in its file.
        with open(self._path, "rb") as file:
            file.seek(start * size)
            return np.fromfile(file, self.dtype, max(stop - start, 0))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self[:], dtype)

    def append(self, values: NDArray) -> None:
        """Add rows at the end."""
        with open(self._path, "ab") as file:
            file.write(np.ascontiguousarray(values, self.dtype).data)
        self._length += len(values)

    def field(self, name: str) -> "ColumnField":
        """Return one field of a column of records, as a column."""
        return ColumnField(self, name)


class ColumnField:
    """One field of a column of records."""

    def __init__(self, records: DiskColumn, name: str):
        self._records = records
        self._name = name

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, rows: slice) -> NDArray:
        return self._records[rows][self._name]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self[:], dtype)


def save_column(chunks: Iterable[NDArray], dtype: DTypeLike, folder: Path | None = None) -> DiskColumn:
    """Write chunks one after the other to a new column."""
    column = DiskColumn(dtype, folder)
    for chunk in chunks:
        column.append(chunk)
    return column


def iterate_chunks(*columns: Column) -> Iterator[tuple[int, Any]]:
    """
    Read columns of one length side by side.

    Args:
        columns ([`Column`]):
            What to read.

    Returns:
        `Iterator[tuple[int, Any]]`: the number of a first row, and the rows of each column from there on: an array for
        one column, a tuple of arrays for several.
    """
    for start in range(0, len(columns[0]), ROWS_PER_CHUNK):
        arrays = tuple(column[start : start + ROWS_PER_CHUNK] for column in columns)
        yield start, arrays if len(arrays) > 1 else arrays[0]


def iterate_marked(column: Column, rows: Column) -> Iterator[tuple[NDArray, NDArray[np.bool_]]]:
    """
    Read a column and tell which of its rows are in a list.

    Args:
        column ([`Column`]):
            What to read.
        rows ([`Column`]):
            Row numbers, ascending, each at most once.

    Returns:
        `Iterator[tuple[np.ndarray, np.ndarray]]`: what the column has, and whether that row is listed.
    """
    position = 0
    for start, values in iterate_chunks(column):
        listed = _read_below(rows, position, start + len(values), len(values))
        position += len(listed)
        is_listed = np.zeros(len(values), dtype=bool)
        is_listed[listed - start] = True
        yield values, is_listed


def build_records(dtype: np.dtype, **fields: NDArray) -> NDArray:
    """Put arrays of one length together as records of a type."""
    records = np.empty(len(next(iter(fields.values()))), dtype)
    for name, values in fields.items():
        records[name] = values
    return records


def sort_records(
    chunks: Iterable[NDArray], dtype: np.dtype, order: Sequence[str], folder: Path | None = None
) -> DiskColumn:
    """
    Sort records that are too many for memory: runs that fit are sorted one by one, written, and merged.

    Args:
        chunks (`Iterable[np.ndarray]`):
            The records.
        dtype (`np.dtype`):
            Their type.
        order (`Sequence[str]`):
            The fields to sort by, the most important one first. Two records must differ in one of them.
        folder (`Path`, *optional*):
            Where files lie.

    Returns:
        [`DiskColumn`]: the records, sorted.
    """
    runs = [save_column([_sort(chunk, order)], dtype, folder) for chunk in _gather_chunks(chunks)]
    while len(runs) > 1:
        groups = [runs[start : start + MAX_MERGED_RUNS] for start in range(0, len(runs), MAX_MERGED_RUNS)]
        runs = [save_column(_merge(group, order), dtype, folder) for group in groups]
    return runs[0] if runs else DiskColumn(dtype, folder)


def iterate_groups(
    records: DiskColumn, fields: Sequence[str]
) -> Iterator[tuple[NDArray, NDArray[np.int64], NDArray[np.bool_]]]:
    """
    Read sorted records and tell which belong together.

    Args:
        records ([`DiskColumn`]):
            Records sorted by `fields` before anything else.
        fields (`Sequence[str]`):
            What records of one group have in common.

    Returns:
        `Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]`: records, the number of each one's group, counted from 0
        over the whole column, and whether it is the first of its group.
    """
    previous, last_group = None, -1
    for _, chunk in iterate_chunks(records):
        is_first = np.zeros(len(chunk), dtype=bool)
        is_first[0] = previous is None or any(previous[name] != chunk[name][0] for name in fields)
        for name in fields:
            is_first[1:] |= chunk[name][1:] != chunk[name][:-1]
        groups = last_group + np.cumsum(is_first)
        previous, last_group = chunk[-1], int(groups[-1])
        yield chunk, groups, is_first


def save_group_bounds(records: DiskColumn, fields: Sequence[str], folder: Path | None = None) -> DiskColumn:
    """Write where each group of [`iterate_groups`] begins, and at last where the last one ends."""
    bounds, position = DiskColumn(np.int64, folder), 0
    for chunk, _, is_first in iterate_groups(records, fields):
        bounds.append(position + np.flatnonzero(is_first))
        position += len(chunk)
    bounds.append(np.array([position]))
    return bounds


def read_near(column: Column, rows: NDArray[np.int64]) -> NDArray:
    """Read chosen rows of a column that lie close together, given in ascending order; a row may be asked for twice."""
    if not len(rows):
        return column[0:0]
    first = int(rows[0])
    return column[first : int(rows[-1]) + 1][rows - first]


def _read_below(rows: Column, position: int, stop: int, most: int) -> NDArray[np.int64]:
    """Read, from a position on, the row numbers before `stop`, of which there are at most `most`."""
    window = rows[position : position + most]
    return window[: np.searchsorted(window, stop)]


def _gather_chunks(chunks: Iterable[NDArray]) -> Iterator[NDArray]:
    """Join chunks to larger ones: many runs of a few records would make a sort slow."""
    gathered: list[NDArray] = []
    for chunk in chunks:
        gathered.append(chunk)
        if sum(map(len, gathered)) >= ROWS_PER_CHUNK:
            yield np.concatenate(gathered)
            gathered = []
    if gathered:
        yield np.concatenate(gathered)


def _sort(records: NDArray, order: Sequence[str]) -> NDArray:
    return records[np.lexsort([records[name] for name in reversed(order)])]


def _merge(runs: Sequence[DiskColumn], order: Sequence[str]) -> Iterator[NDArray]:
    rows_per_read = max(ROWS_PER_CHUNK // len(runs), 1)
    buffers = [run[:rows_per_read] for run in runs]
    positions = [len(buffer) for buffer in buffers]
    while any(map(len, buffers)):
        unread = [number for number, run in enumerate(runs) if positions[number] < len(run)]
        if not unread:
            yield _sort(np.concatenate(buffers), order)
            return
        # What is still on disk comes after the smallest of the last records of the runs that it belongs to.
        limit = _sort(np.concatenate([buffers[number][-1:] for number in unread]), order)[0]
        counts = [_count_up_to(buffer, limit, order) for buffer in buffers]
        yield _sort(np.concatenate([buffer[:count] for buffer, count in zip(buffers, counts, strict=True)]), order)
        buffers = [buffer[count:] for buffer, count in zip(buffers, counts, strict=True)]
        for number in unread:
            if not len(buffers[number]):
                buffers[number] = runs[number][positions[number] : positions[number] + rows_per_read]
                positions[number] += len(buffers[number])


def _count_up_to(records: NDArray, limit: Any, order: Sequence[str]) -> int:
    """Count the sorted records that do not come after `limit`."""
    start, stop = 0, len(records)
    for name in order[:-1]:
        values = records[name][start:stop]
        start, stop = (
            start + int(np.searchsorted(values, limit[name], "left")),
            start + int(np.searchsorted(values, limit[name], "right")),
        )
    return start + int(np.searchsorted(records[order[-1]][start:stop], limit[order[-1]], "right"))


def _remove(path: Path, owner: int) -> None:
    # A forked process inherits the column, not the right to remove its file.
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
