"""
Track features of the songs on a command line: a table comes in, the features of each song leave.

The table has a column `song` (the song as the command line names it, or its file name, with or without the suffix) and
one column a feature. A column that no model knows is refused when the song is scored: a misspelt feature would
otherwise count as missing.
"""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SONG_COLUMN = "song"
TABLE_SUFFIXES = (".csv", ".jsonl", ".json")


class FeatureTable:
    """
    Track features by song.

    Args:
        path (`str` or `os.PathLike`):
            A CSV file with a header, a JSONL file, or a JSON array of objects.

    Raises:
        `FileNotFoundError`: If there is no such file.
        `ValueError`: If the format is unknown, a row has no song, or a song stands in two rows.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such table of track features.")
        self._rows: dict[str, dict[str, Any]] = {}
        for number, row in enumerate(_load_rows(self.path), start=1):
            song = row.pop(SONG_COLUMN, None)
            if song in (None, ""):
                raise ValueError(f"{path}: row {number} has no `{SONG_COLUMN}`; its columns: {', '.join(row)}.")
            if str(song) in self._rows:
                raise ValueError(f"{path}: {song!r} stands in two rows; keep one.")
            self._rows[str(song)] = row

    def find(self, song: str) -> dict[str, Any] | None:
        """Return the features of a song, or `None` if the table does not have it."""
        for name in (song, Path(song).name, Path(song).stem):
            if name in self._rows:
                return dict(self._rows[name])
        return None

    def find_all(self, songs: Iterable[str]) -> list[dict[str, Any] | None]:
        """
        Return the features of many songs.

        Raises:
            `ValueError`: If the table has none of them, which is never what was meant.
        """
        found = [self.find(song) for song in songs]
        if found and not any(row is not None for row in found):
            raise ValueError(
                f"{self.path}: none of the songs is in its column `{SONG_COLUMN}`, which has for example "
                f"{next(iter(self._rows), 'nothing')!r}. Name songs as the command line does, or by file name."
            )
        return found


def _load_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix not in TABLE_SUFFIXES:
        raise ValueError(f"{path}: unknown format; the suffix must be one of {', '.join(TABLE_SUFFIXES)}.")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return [
            {name: value if name == SONG_COLUMN else _read_cell(value) for name, value in row.items()}
            for row in csv.DictReader(text.splitlines())
        ]
    try:
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: expected objects with `{SONG_COLUMN}` and features, one a song.")
    return rows


def _read_cell(value: Any) -> Any:
    """Read a CSV cell: a number where it is one, else text; an empty cell is a missing value."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except ValueError:
        return value
