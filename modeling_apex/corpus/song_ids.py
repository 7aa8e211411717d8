"""
Ids of songs as tables and files write them: an id comes in, the row that means the same song leaves.

Programs lose parts of ids: a spreadsheet turns 000123 into 123, a data frame with gaps turns it into 123.0, a list of
files has suffixes and folders. So ids are matched in two steps. First letter by letter. What has no such match is
*loosened*: the folders before it, an audio suffix in whatever case, and, of numbers, `.0` and leading zeros do not
count. A loosened match has to be the only one: which of two rows is meant is never guessed.
"""

import hashlib
import logging
import re
from array import array
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from modeling_apex.corpus.identity import is_uri
from modeling_apex.corpus.song_files import AUDIO_SUFFIXES
from modeling_apex.storage.table_reader import TableError

logger = logging.getLogger(__name__)

# What a table of songs may call the column that names them.
SONG_COLUMNS = ("song", "id", "path", "file")
# What a table may call the column of ids that are kept, and that of places of songs, in this order.
ID_COLUMNS = ("id", "song_id", "track_id")
AUDIO_COLUMNS = ("uri", "url", "path", "audio", "song", "file", "file_name")
_WHOLE_NUMBER = re.compile(r"(\d+)(\.0)?", re.ASCII)


def find_column(names: Sequence[str], wanted: str | None, usual: tuple[str, ...], table: str) -> str:
    """
    Find the column of a table that holds what is looked for.

    Raises:
        `ValueError`: If there is no column of that name, or of one of the usual names.
    """
    choices = (wanted,) if wanted else usual
    for name in choices:
        if name in names:
            return name
    raise ValueError(
        f"{table}: has no column {' or '.join(choices)}; its columns are {', '.join(names)}. Rename the column, or "
        "say what it is called (id_column and audio_column; --id-column and --audio-column)."
    )


def read_id(value: Any, column: str, place: str) -> str:
    """
    Return an id as text.

    Raises:
        `ValueError`: If it is neither text nor a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise ValueError(
            f"{place}: its {column} is {value!r:.80}; expected text or a whole number. Give every song a unique id."
        )
    return str(value)


def refuse_repeated(table: str, first: int, row: int, song_id: str) -> None:
    """
    Refuse a table of which two rows have one id; of two ids with one hash, the first row is `row` itself.

    Raises:
        [`TableError`]: If they have.
    """
    if first != row:
        raise TableError(
            f"{table}: rows {first + 1} and {row + 1} have the same id, {song_id!r:.80}. Give every song a unique id, "
            "or leave one of them out."
        )


def compute_exact_key(text: str) -> int:
    """Hash text to 64 bits letter by letter, as ids need it: unlike prompts, ids differ by case."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def loosen_id(song_id: str) -> str:
    """Reduce an id to what programs keep of it: no folders, no audio suffix, no `.0`, no leading zeros."""
    path = urlsplit(song_id).path if is_uri(song_id) else song_id
    name = strip_audio_suffix(path.replace("\\", "/").rstrip("/").rpartition("/")[2].strip())
    number = _WHOLE_NUMBER.fullmatch(name)
    return (number[1].lstrip("0") or "0") if number else name


def strip_audio_suffix(name: str) -> str:
    """Remove an audio suffix from a name, in whatever case."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in AUDIO_SUFFIXES else name


class IdIndex:
    """
    The rows of a table by song id, in 40 bytes a row, and a count of the songs that have one.

    Args:
        table (`str`):
            Name of the table, for messages.
        shares_rows (`bool`, defaults to `False`):
            Whether two songs may have one row, such as two encodings of one song.
    """

    def __init__(self, table: str, *, shares_rows: bool = False):
        self.table = table
        self.num_songs = self.num_matched_songs = self._num_rows = 0
        self._shares_rows = shares_rows
        self._keys, self._loose_keys = array("Q"), array("Q")
        self._lookups: list[tuple[np.ndarray, np.ndarray]] = []
        self._users = np.zeros(0, dtype=np.uint64)
        self._first_row = self._first_stray = ""

    def __len__(self) -> int:
        return self._num_rows

    def add(self, song_id: str) -> None:
        """Add the id of the next row."""
        self._num_rows += 1
        self._first_row = self._first_row or song_id
        self._keys.append(compute_exact_key(song_id))
        self._loose_keys.append(compute_exact_key(loosen_id(song_id)))

    def find_repeated(self) -> int | None:
        """Return the first row, from 0, whose id an earlier one has."""
        order, keys = self._sort()[0]
        repeated = order[1:][keys[1:] == keys[:-1]]
        return int(repeated.min()) if repeated.size else None

    def find(self, song_id: str, other_names: Sequence[str] = ()) -> int | None:
        """
        Find the row of a song, from 0.

        Args:
            song_id (`str`), other_names (`Sequence[str]`):
                Its id, and what else it may be called letter by letter, in order of preference.

        Raises:
            [`TableError`]: If a loosened id fits several rows, or a row fits several songs.
        """
        self.num_songs += 1
        exact = (self._find_rows(0, name) for name in (song_id, *other_names))
        rows = next((found for found in exact if len(found)), None)
        if rows is None:
            rows = self._find_rows(1, loosen_id(song_id))
        if len(rows) > 1:
            shown = " and ".join(str(row + 1) for row in sorted(rows)[:2])
            raise TableError(
                f"{self.table}: the rows {shown} both fit the song {song_id!r}, whose id is not exactly that of "
                f"either. Write the ids as the songs have them."
            )
        if not len(rows):
            self._first_stray = self._first_stray or song_id
            return None
        row, user = int(rows[0]), np.uint64(compute_exact_key(song_id))
        if not self._shares_rows and self._users[row] not in (0, user):
            raise TableError(
                f"{self.table}: row {row + 1} fits the song {song_id!r} and another one, whose id differs in leading "
                f"zeros, a suffix or a folder. Write the ids as the songs have them."
            )
        self.num_matched_songs += 1
        self._users[row] = user
        return row

    def count_matches(self) -> dict[str, int]:
        """Count rows and songs, and those that found each other."""
        self._sort()
        return {
            "num_rows": len(self),
            "num_matched_rows": int(np.count_nonzero(self._users)),
            "num_songs": self.num_songs,
            "num_matched_songs": self.num_matched_songs,
        }

    def check_matches(self) -> str | None:
        """
        Refuse a table of which no row belongs to a song, and warn of one of which few do.

        Returns:
            `str` or `None`: the warning, which is logged, too, where fewer than half of the rows, or of the songs
            where these are fewer, were matched.

        Raises:
            [`TableError`]: If there are songs and none has a row; the message shows an id of each side.
        """
        counts = self.count_matches()
        num_matched, num_possible = counts["num_matched_rows"], min(counts["num_rows"], counts["num_songs"])
        if not num_possible or 2 * num_matched >= num_possible:
            return None
        sides = f"the table has, for example, {self._first_row!r}, the songs {self._first_stray!r}"
        if not num_matched:
            raise TableError(
                f"{self.table}: none of its {len(self)} rows is about one of the {self.num_songs} songs; {sides}. "
                "Give the ids of the songs; suffixes, folders and leading zeros need not agree."
            )
        found = f"only {num_matched} of {len(self)} rows are about one of the {self.num_songs} songs"
        # Kept with results: the folders of this machine are no part of them.
        warning = f"{PurePosixPath(self.table).name}: {found}; {sides}"
        logger.warning(warning)
        return warning

    def _find_rows(self, step: int, song_id: str) -> np.ndarray:
        order, keys = self._sort()[step]
        key = np.uint64(compute_exact_key(song_id))
        return order[np.searchsorted(keys, key) : np.searchsorted(keys, key, side="right")]

    def _sort(self) -> list[tuple[np.ndarray, np.ndarray]]:
        if not self._lookups:
            for keys in (self._keys, self._loose_keys):
                unsorted = np.frombuffer(keys, dtype=np.uint64) if keys else np.zeros(0, dtype=np.uint64)
                order = np.argsort(unsorted, kind="stable")
                self._lookups.append((order, unsorted[order]))
            self._keys, self._loose_keys = array("Q"), array("Q")
            self._users = np.zeros(len(self), dtype=np.uint64)
        return self._lookups
