"""
Track features of the songs on a command line: a table comes in, the features of each song leave.

The table has a column `song` (the song as the command line names it, or its file name, with or without the suffix; see
`song_ids` for what else is the same id) and one column a feature. A column that no model knows is refused when the
song is scored: a misspelt feature would otherwise count as missing.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modeling_apex.corpus.song_ids import IdIndex
from modeling_apex.storage.cell_values import is_unknown, parse_number, read_text
from modeling_apex.storage.table_reader import TableError, iterate_rows

SONG_COLUMN = "song"


class FeatureTable:
    """
    Track features by song.

    Args:
        path (`str` or `os.PathLike`):
            A table in any format of `iterate_rows`.

    Raises:
        `FileNotFoundError`: If there is no such file.
        [`TableError`]: If the table cannot be read, a row has no song, or a song has two rows.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such table of track features.")
        self._index = IdIndex(str(path), shares_rows=True)
        self._rows: list[dict[str, Any]] = []
        names: set[str] = set()
        for row in iterate_rows(self.path):
            song = read_text(row.values.pop(SONG_COLUMN, None))
            if song is None:
                raise TableError(f"{row.location} has no `{SONG_COLUMN}`; its columns: {', '.join(row.values)}.")
            if song in names:
                raise TableError(f"{row.location}: {song!r} has two rows; keep one of them.")
            names.add(song)
            self._index.add(song)
            self._rows.append({name: _read_cell(value) for name, value in row.values.items()})

    def find(self, song: str) -> dict[str, Any] | None:
        """Return the features of a song, or `None` if the table does not have it."""
        row = self._index.find(song, (Path(song).name, Path(song).stem))
        return None if row is None else dict(self._rows[row])

    def find_all(self, songs: Iterable[str]) -> list[dict[str, Any] | None]:
        """
        Return the features of many songs, with a warning if they are few.

        Raises:
            [`TableError`]: If the table has none of them, which is never what was meant.
        """
        found = [self.find(song) for song in songs]
        self._index.check_matches()
        return found


def _read_cell(value: Any) -> Any:
    """Read a cell: a number where its text is one; `None` where nothing is known."""
    if is_unknown(value):
        return None
    number = parse_number(value) if isinstance(value, str) else None
    return value if number is None else float(number)
