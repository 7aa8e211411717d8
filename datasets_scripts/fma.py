"""
FMA: the Free Music Archive's `tracks.csv` and its MP3 folders come in, songs with real-world popularity leave.

The table has three header rows (group, column, and the name of the index), and the file of a song lies in a folder
named by the first three digits of its six-digit id (`000/000002.mp3`). Listens count as plays and favourites as likes;
songs of one artist never fall into two splits.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datasets_scripts.audio_files import AudioFolder
from datasets_scripts.creators import split_creators
from datasets_scripts.field_values import read_count, read_duration, read_time
from datasets_scripts.song_builder import BUILDER_VERSION, SongDatasetBuilder, SongDatasetConfig
from datasets_scripts.song_record import CorpusOptions, SongRecord
from modeling_apex.storage.cell_values import read_text
from modeling_apex.storage.table_reader import TableError, iterate_csv_cells

FMA_PLATFORM = "fma"
FMA_CORPUS = CorpusOptions(group_by=("creator", "audio"))
# Our field to FMA's group and column.
FMA_COLUMNS: Mapping[str, tuple[str, str]] = {
    "play_count": ("track", "listens"),
    "like_count": ("track", "favorites"),
    "creator": ("artist", "id"),
    "created_at": ("track", "date_created"),
    "duration": ("track", "duration"),
    "title": ("track", "title"),
}
NUM_HEADER_ROWS = 3


@dataclass
class FmaConfig(SongDatasetConfig):
    """
    Where FMA lies.

    Args:
        tracks (`str`):
            The file `tracks.csv`.
        audio (`str`, *optional*):
            The folder with the folders `000` to `155`; without it the dataset has no audio.
    """

    corpus: CorpusOptions = FMA_CORPUS
    tracks: str = ""
    audio: str | None = None

    def list_source_files(self) -> list[Path]:
        """List the table."""
        return [Path(os.path.expanduser(self.tracks))]

    def list_audio_folders(self) -> list[Path]:
        """List the audio folder."""
        return [Path(os.path.expanduser(self.audio))] if self.audio else []


class Fma(SongDatasetBuilder):
    """Songs that people made, with listens and favourites on the Free Music Archive."""

    BUILDER_CONFIG_CLASS = FmaConfig
    BUILDER_CONFIGS: ClassVar[list] = [FmaConfig(name="songs", version=BUILDER_VERSION)]
    DEFAULT_CONFIG_NAME = "songs"
    PRETTY_NAME = "FMA songs with popularity targets"
    INTRODUCTION = """\
Songs of the Free Music Archive (FMA, arXiv 1612.01840), made by people, with listens and favourites turned into
popularity targets. Each song has its own licence, which FMA's tables name.
"""
    TAGS = ("music-popularity", "fma")

    def iterate_records(self, working_folder: Path) -> Iterator[SongRecord]:
        """Stream the songs."""
        audio = None if self.config.audio is None else self.open_audio_folder(self.config.audio)
        return iterate_fma_songs(self.config.tracks, audio)

    def describe_options(self) -> dict[str, Any]:
        """Return the options of the build for the manifest."""
        return {"tracks": Path(self.config.tracks).name, "has_audio": bool(self.config.audio)} | (
            super().describe_options()
        )


def iterate_fma_songs(tracks: str | Path, audio: str | Path | AudioFolder | None = None) -> Iterator[SongRecord]:
    """
    Stream the songs of `tracks.csv` in the order of the table, with their audio where its folder is given.

    Raises:
        `FileNotFoundError`: If there is no such table.
        `TableError`: If it lacks the three header rows of FMA, or a cell makes no sense.
    """
    path = Path(os.path.expanduser(tracks))
    if not path.is_file():
        raise FileNotFoundError(f"No FMA table at {path}: give the file tracks.csv of fma_metadata.zip.")
    folder = audio if audio is None or isinstance(audio, AudioFolder) else AudioFolder(audio)
    rows = iterate_csv_cells(path)
    positions = _read_header(rows, path)
    for location, cells in rows:
        if len(cells) <= max(positions.values()):
            raise TableError(f"{location} has {len(cells)} cells, fewer than the header.")
        yield _build_record(cells, positions, folder, location)


def _read_header(rows: Iterator[tuple[str, list[str]]], path: Path) -> dict[str, int]:
    header = [cells for _, (_, cells) in zip(range(NUM_HEADER_ROWS), rows, strict=False)]
    pairs = list(zip(*header[:2], strict=False)) if len(header) == NUM_HEADER_ROWS else []
    missing = [".".join(pair) for pair in FMA_COLUMNS.values() if pair not in pairs]
    if missing:
        there = ", ".join(".".join(pair) for pair in pairs if any(pair)) or "none"
        raise TableError(
            f"{path} lacks the three header rows of FMA's tracks.csv: {', '.join(missing)} missing. "
            f"Its columns: {there}."
        )
    return {name: pairs.index(pair) for name, pair in FMA_COLUMNS.items()}


def _build_record(
    cells: list[str], positions: Mapping[str, int], folder: AudioFolder | None, location: str
) -> SongRecord:
    if not cells[0].isdigit():
        raise TableError(f"{location}: the id is {cells[0]!r}, expected a number.")
    number = int(cells[0])
    found = {name: cells[position] for name, position in positions.items()}
    name = f"{number:06d}"
    creators = split_creators(found["creator"])
    return SongRecord(
        location=location,
        id=str(number),
        platform=FMA_PLATFORM,
        audio_path=folder.find(name, f"{name[:3]}/{name}.mp3", location=location) if folder else None,
        creator=creators[0] if creators else None,
        other_creators=creators[1:],
        play_count=read_count(found["play_count"], "track.listens", location),
        like_count=read_count(found["like_count"], "track.favorites", location),
        created_at=read_time(found["created_at"], "track.date_created", location),
        duration=read_duration(found["duration"], "track.duration", location),
        title=read_text(found["title"]),
    )
