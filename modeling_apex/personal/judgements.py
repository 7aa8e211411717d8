"""
What one listener says of songs: a table of ratings, or of pairs with the song that they prefer.

What comes in is a table and the ids of songs that have embeddings; what leaves are judgements by song. A judgement
that stands twice, says nothing or is about no song is never guessed at.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from modeling_apex.corpus.song_ids import SONG_COLUMNS, IdIndex
from modeling_apex.statistics.pair_metrics import OUTCOMES
from modeling_apex.storage.cell_values import parse_number, read_text
from modeling_apex.storage.table_reader import TableError, TableRow, iterate_rows

RATING, GROUP = "rating", "group"
MINIMUM_JUDGEMENTS = 20
MINIMUM_GROUPS = 10  # that folds are made of
# Pairs that hang together by their songs stay together, unless so many do that no folds are left.
LARGEST_SHARE = 0.2
EXPECTED = (
    f"Expected a column {RATING!r} beside one of {', '.join(SONG_COLUMNS)}; or song_a, song_b and preference (A, B, "
    "TIE); or chosen and rejected, as in the pairs.jsonl of apex-music select."
)


@dataclass(frozen=True)
class Judgements:
    """
    Hold what a listener said.

    Args:
        source (`str`): The table.
        songs (`list[str]`): The songs, as the table names them.
        rows (`np.ndarray` of shape `(num_judgements, 1)` or `(num_judgements, 2)`):
            Which songs a judgement is about: the rated one, or those of a pair.
        values (`np.ndarray` of shape `(num_judgements,)`):
            Ratings; of pairs 1 where the first song is preferred, 0 where the second is, 0.5 for a tie.
        stated_groups (`list[str | None]`): What the table says that songs of a judgement share.
        num_left_out (`dict[str, int]`): Rows that are no judgement, by reason.
    """

    source: str
    songs: list[str]
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    stated_groups: list[str | None]
    num_left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_of_pairs(self) -> bool:
        return self.rows.shape[1] == 2

    def select(self, kept: NDArray, reason: str) -> "Judgements":
        """Keep some judgements, and count the others."""
        counts = {**self.num_left_out, reason: int((~kept).sum())}
        groups = [group for group, is_kept in zip(self.stated_groups, kept, strict=True) if is_kept]
        return replace(self, rows=self.rows[kept], values=self.values[kept], stated_groups=groups, num_left_out=counts)

    def number_groups(self) -> tuple[NDArray[np.int64], str]:
        """
        Tell what repeats, so that what is told apart was not learnt from.

        Returns:
            `tuple`: the groups of the songs of each judgement, in the shape of `rows`, and what they are called.

        Raises:
            `ValueError`: If there are fewer than ten.
        """
        named = [name is not None for name in self.stated_groups]
        is_stated = any(named)
        groups, unit = self.rows, "song"
        if is_stated or self.is_of_pairs:
            joined = self._join_songs()
            groups, unit = joined[self.rows], GROUP if is_stated else "pairs that share a song"
            if self.is_of_pairs and np.unique(groups[:, 0], return_counts=True)[1].max() > LARGEST_SHARE * len(self):
                groups, unit = self.rows, "song"
        if (found := len(np.unique(groups))) < MINIMUM_GROUPS:
            raise ValueError(
                f"{self.source}: the judgements come down to {found} independent groups ({unit}), and "
                f"{MINIMUM_GROUPS} are needed to validate a head on groups that it was not fitted to. Judge a wider "
                "choice of songs."
            )
        return groups, unit

    def _join_songs(self) -> NDArray[np.int64]:
        """Number the sets of songs that pairs or stated groups tie together, by song."""
        names = {name: len(self.songs) + place for place, name in enumerate(dict.fromkeys(self.stated_groups))}
        first = np.concatenate([self.rows[:, 0], self.rows[:, 0]])
        stated = [
            song if name is None else names[name]
            for song, name in zip(self.rows[:, 0], self.stated_groups, strict=True)
        ]
        second = np.concatenate([self.rows[:, -1], np.array(stated, np.int64)])
        size = len(self.songs) + len(names)
        graph = coo_array((np.ones(len(first)), (first, second)), shape=(size, size))
        return connected_components(graph, directed=False)[1].astype(np.int64)


def read_judgements(path: str | os.PathLike) -> Judgements:
    """
    Read the table of a listener.

    Args:
        path (`str` or `os.PathLike`):
            Ratings: columns `rating`, `song` (or `id`, `path`, `file`), and `group` where songs go together. Pairs:
            `song_a`, `song_b`, `preference` (A, B, TIE or BOTH_BAD, which compares nothing), or `chosen`, `rejected`.

    Raises:
        `FileNotFoundError`: If there is no such file.
        `TableError`: If a row cannot be read, or a song or a pair stands twice.
        `ValueError`: If the columns are others, or there are fewer than twenty judgements, or all are alike.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. Name a table of ratings or pairs. {EXPECTED}")
    places: dict[str, int] = {}
    seen: dict[tuple[str, ...], str] = {}
    rows, values, groups = [], [], []
    num_undecided = 0
    for row in iterate_rows(file, keeps_audio=False):
        songs, value = _read_row(row, row.values)
        key = tuple(sorted(songs))
        if key in seen:
            raise TableError(f"{row.location}: {' and '.join(songs)} already in {seen[key]}. Keep one of the two.")
        seen[key] = row.location
        if np.isnan(value):
            num_undecided += 1
            continue
        rows.append([places.setdefault(song, len(places)) for song in songs])
        values.append(value)
        groups.append(read_text(row.values.get(GROUP)))
    if len(rows) < MINIMUM_JUDGEMENTS:
        raise ValueError(
            f"{file}: judgements ({len(rows)}) are too few to learn a taste from; at least {MINIMUM_JUDGEMENTS} are "
            "needed, and about 150 work well."
        )
    found = Judgements(
        str(file), list(places), np.array(rows), np.array(values), groups, {"says nothing": num_undecided}
    )
    refuse_constant(found)
    return found


def refuse_constant(judgements: Judgements) -> None:
    """Raise a `ValueError` if nothing can be learnt because all ratings are equal, or all votes are ties."""
    values = judgements.values
    if np.ptp(values) == 0 and (not judgements.is_of_pairs or values[0] == OUTCOMES["TIE"]):
        what = "votes are ties" if judgements.is_of_pairs else f"ratings are {values[0]:g}"
        raise ValueError(f"{judgements.source}: all {what}, from which no taste can be learnt. Judge songs apart.")


def _read_row(row: TableRow, cells: Mapping[str, Any]) -> tuple[list[str], float]:
    """Return the songs of a row, and its value; NaN where it compares nothing."""
    if {"chosen", "rejected"} <= set(cells):
        return _read_songs(row, ("chosen", "rejected")), 1.0
    if {"song_a", "song_b", "preference"} <= set(cells):
        vote = str(cells["preference"]).strip().upper()
        if vote not in OUTCOMES:
            raise TableError(f"{row.location}: preference is {cells['preference']!r}, expected A, B, TIE or BOTH_BAD.")
        return _read_songs(row, ("song_a", "song_b")), OUTCOMES[vote]
    column = next((name for name in SONG_COLUMNS if name in cells), None)
    if RATING not in cells or column is None:
        raise TableError(f"{row.location}: has the columns {', '.join(map(str, cells))}. {EXPECTED}")
    rating = parse_number(cells[RATING])
    if rating is None:
        raise TableError(f"{row.location}: {RATING} is {cells[RATING]!r}, and a finite number is needed.")
    return _read_songs(row, (column,)), float(rating)


def _read_songs(row: TableRow, columns: Sequence[str]) -> list[str]:
    songs = [read_text(row.values[column]) for column in columns]
    if None in songs or len(set(songs)) < len(songs):
        what = "two different songs" if len(songs) > 1 else "a song"
        given = " and ".join(repr(row.values[column]) for column in columns)
        raise TableError(f"{row.location}: {' and '.join(columns)} must name {what}, got {given}.")
    return [str(song) for song in songs]


def match_songs(judgements: Judgements, song_ids: Sequence[str]) -> tuple[Judgements, list[int | None]]:
    """
    Find the songs of judgements among those that have embeddings.

    Args:
        judgements ([`Judgements`]), song_ids (`Sequence[str]`): From [`read_judgements`]; ids of embedded songs.

    Returns:
        `tuple`: the judgements all of whose songs are there, and of each song its place in `song_ids` or `None`.

    Raises:
        `ValueError`: If none is there, two ids fit one song, or too few judgements are left.
    """
    index = IdIndex(judgements.source)
    for song in judgements.songs:
        index.add(song)
    found: list[int | None] = [None] * len(judgements.songs)
    for place, song_id in enumerate(song_ids):
        row = index.find(song_id)
        if row is not None:
            found[row] = place
    index.check_matches()
    is_there = np.array([place is not None for place in found])
    kept = judgements.select(np.all(is_there[judgements.rows], axis=1), "about a song without embedding")
    if len(kept) < MINIMUM_JUDGEMENTS:
        raise ValueError(
            f"{judgements.source}: only {len(kept)} of {len(judgements)} judgements are about songs that have "
            f"embeddings, and {MINIMUM_JUDGEMENTS} are needed. Embed the songs that were judged."
        )
    refuse_constant(kept)
    return kept, found
