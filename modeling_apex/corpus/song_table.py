"""
Songs that a table names: a CSV, JSON Lines or Parquet file with an id and a place of each song comes in, a source
leaves. Places are paths, which count from the folder of the table, URLs and other URIs, or what `datasets` writes of
audio. A row whose place says nothing is a song that fails, with its row in the reason.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from modeling_apex.corpus.identity import is_uri
from modeling_apex.corpus.song_ids import AUDIO_COLUMNS, ID_COLUMNS, IdIndex, find_column, read_id, refuse_repeated
from modeling_apex.corpus.song_source import Song
from modeling_apex.inference.audio_limits_apex import AudioError
from modeling_apex.storage.cell_values import is_unknown
from modeling_apex.storage.output_folder import escape_surrogates
from modeling_apex.storage.table_reader import TableError, TableRow, iterate_rows

# Lines of JSON need not have the same fields: how many rows are asked for theirs.
NUM_LEADING_ROWS = 100


class MissingAudio(io.RawIOBase):
    """The audio of a song of which a table says nothing: whoever reads it is told."""

    def __init__(self, name: str, column: str, cell: Any):
        self.name = name
        self._column, self._cell = column, cell

    def __reduce__(self) -> tuple[Any, ...]:
        return MissingAudio, (self.name, self._column, self._cell)  # what is pickled by itself arrives closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise AudioError(
            f"{self.name}: its {self._column} is {self._cell!r:.80}; expected the path or the URI of a song."
        )


def read_place(cell: Any, folder: Path) -> str | None:
    """Return where the song of a cell is: a URI, or a path that counts from a folder; `None` where it has none."""
    if isinstance(cell, Mapping):
        cell = cell.get("path")
    if not isinstance(cell, str) or is_unknown(cell):
        return None
    place = cell.strip()
    return place if is_uri(place) else str(folder / os.path.expanduser(place))


class TableSongSource:
    """
    The songs of a table: one split, `train`, in the order of the rows.

    Args:
        path (`str` or `os.PathLike`):
            The table, in any format of `iterate_rows`.
        id_column (`str`, *optional*):
            The column of the ids, text or whole numbers; by default `id`, `song_id` or `track_id`.
        audio_column (`str`, *optional*):
            The column of the places; by default `uri`, `url`, `path`, `audio`, `song`, `file` or `file_name`.

    Raises:
        [`TableError`]: If the table cannot be read, is empty, or has an id twice.
        `ValueError`: If a column is missing, or an id is neither text nor a whole number.
    """

    def __init__(self, path: str | os.PathLike, *, id_column: str | None = None, audio_column: str | None = None):
        self.name = str(path)
        self._path = Path(os.path.expanduser(path))
        light, whole = self._list_columns()
        names = list(dict.fromkeys([*whole, *light]))
        self._id_column = find_column(names, id_column, ID_COLUMNS, self.name)
        self._audio_column = find_column(names, audio_column, AUDIO_COLUMNS, self.name)
        # Whole files, which a table of Parquet may hold, are read when their turn comes.
        self._holds_audio = self._audio_column not in light
        self._ids: list[str] = []
        self._audio: list[Any] = []
        index = IdIndex(self.name)
        for row in iterate_rows(self._path, keeps_audio=False):
            song_id = read_id(row.values.get(self._id_column), self._id_column, row.location)
            index.add(song_id)
            self._ids.append(str(escape_surrogates(song_id)))
            if not self._holds_audio:
                self._audio.append(self._find_audio(row))
        if (repeated := index.find_repeated()) is not None:
            song_id = self._ids[repeated]
            refuse_repeated(self.name, self._ids.index(song_id), repeated, song_id)
        self.splits = {"train": len(self._ids)}
        self.columns = pa.schema([])

    def read_columns(self, split: str, names: Sequence[str] = ()) -> pa.Table:
        return pa.table({"id": pa.array(self._ids, pa.string())})

    def locate(self, split: str, start: int, stop: int) -> list[tuple[Path, int, int]]:
        return [(self._path, start, stop)] if self._holds_audio else []

    def iterate(self, split: str, start: int, stop: int) -> Iterator[Song]:
        audio = iter(self._audio[start:stop])
        if self._holds_audio:
            audio = map(self._find_audio, islice(iterate_rows(self._path), start, stop))
        for song_id, found in zip(self._ids[start:stop], audio, strict=True):
            yield Song(song_id, found, {})

    def _list_columns(self) -> tuple[list[str], list[str]]:
        """Return the columns that are read at once, and those of a row with its structures."""
        rows = [row.values for row in islice(iterate_rows(self._path, keeps_audio=False), NUM_LEADING_ROWS)]
        first = next(iterate_rows(self._path), None)
        if first is None:
            raise TableError(
                f"{self.name}: holds no songs; expected one row per song, with its id and its path or URI."
            )
        return list(dict.fromkeys(name for row in rows for name in row)), list(first.values)

    def _find_audio(self, row: TableRow) -> Any:
        """Return where the song of a row is, or its bytes; what says nothing is told by who reads it."""
        cell = row.values.get(self._audio_column)
        if isinstance(cell, Mapping):
            if cell.get("bytes") is not None:
                return dict(cell)
            cell = cell.get("path")
        place = read_place(cell, self._path.parent)
        return MissingAudio(row.location, self._audio_column, cell) if place is None else place
