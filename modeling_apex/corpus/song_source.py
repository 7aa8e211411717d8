"""
Where songs to embed come from: a built dataset, a Hub dataset, or a folder of audio files.

What comes in is a name; what leaves is a source that knows its splits and how many songs each has, and that yields any
range of songs in a fixed order. That order is what a corpus embedding is resumed by, so a source also has a
fingerprint of its song ids.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_apex.corpus.identity import is_uri
from modeling_apex.corpus.song_files import (
    DATASET_ID,
    SHARD_NAME,
    find_songs,
    is_dataset,
    is_table,
    list_parquet_files,
    search_folder,
)
from modeling_apex.inference.report_apex import format_count
from modeling_apex.inference.track_features_apex import CATEGORICAL_NAMES
from modeling_apex.storage.contained_paths import refuse_outside
from modeling_apex.storage.output_folder import escape_surrogates
from modeling_apex.storage.source_names import name_source

# What training reads of a song besides numbers: what it groups, splits and reports by, and categories to learn from.
TEXT_COLUMNS = ("platform", "creator", "group", "label_source", *CATEGORICAL_NAMES)
ROWS_AT_ONCE = 8  # rows hold whole audio files
# Where audio may lie that a dataset names by its path, besides the dataset's own folder; as PATH lists folders.
AUDIO_FOLDERS_VARIABLE = "APEX_MUSIC_AUDIO_FOLDERS"


@dataclass(frozen=True)
class Song:
    """One song to embed: its id, its audio as `audio_apex` takes it, and the columns that training reads."""

    id: str
    audio: Any
    columns: dict[str, Any]


class SongSource(Protocol):
    """Splits of songs in a fixed order."""

    name: str
    splits: dict[str, int]
    columns: pa.Schema

    def iterate(self, split: str, start: int, stop: int) -> Iterator[Song]:
        """Yield the songs `start` to `stop` of a split."""

    def read_columns(self, split: str, names: Sequence[str] = ()) -> pa.Table:
        """Return `id`, as text, and the named columns of all songs of a split, in order, without their audio."""

    def locate(self, split: str, start: int, stop: int) -> list[tuple[Path, int, int]]:
        """Return the files that hold the rows `start` to `stop`, each with the first of its rows and the one after."""


def open_song_source(name: str | os.PathLike | SongSource) -> SongSource:
    """
    Open a dataset folder, a folder of audio, or a Hub dataset.

    Args:
        name (`str`, `os.PathLike` or [`SongSource`]):
            A folder with Parquet shards `<split>-00000-of-00001.parquet` (also under `data/`), a folder of audio
            files, or a Hub dataset id. An open source is returned as it is.

    Returns:
        [`SongSource`]

    Raises:
        `FileNotFoundError`: If a folder holds neither shards nor audio, or the name leads nowhere.
        `ValueError`: If a dataset lacks the columns `id` and `audio`, or the name is empty. Songs whose audio is named
            by a path outside of the dataset's folder are refused when they are read, unless
            `APEX_MUSIC_AUDIO_FOLDERS` has that folder.
    """
    if not isinstance(name, (str, os.PathLike)):
        return name
    if not os.fspath(name).strip():
        raise ValueError(
            "the songs are given by an empty string. Pass a dataset folder, a folder of audio or a dataset."
        )
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        shards = list_parquet_files(path)
        is_audio = shards and any(search_folder(path)) and not _hold_songs(shards)
        return ParquetSongSource(path, shards) if shards and not is_audio else AudioFolderSource(path)
    if path.exists() or not DATASET_ID.fullmatch(str(name)):
        problem = "not a folder" if path.exists() else "no such folder"
        raise FileNotFoundError(
            f"{name}: {problem}. Pass a dataset folder that datasets_scripts wrote, a folder of audio files, or a "
            "Hub dataset id such as owner/name."
        )
    return HubSongSource(str(name))


def open_songs(names: Sequence[str], **columns: str | None) -> SongSource:
    """
    Open the songs that a command line names: one table, dataset or folder of audio, or files, patterns and URLs.

    Args:
        names (`Sequence[str]`):
            A single name as for `find_song_source` or `open_song_source`, or any names as for `find_songs`.
        columns:
            Those of `find_song_source`.

    Returns:
        [`SongSource`]: the ids of files are their paths, those of URLs the URLs without what opens them.

    Raises:
        `FileNotFoundError`, `ValueError`: As `find_song_source`, `open_song_source` and `find_songs` do.
    """
    if source := find_song_source(names, **columns):
        return source
    if len(names) == 1 and os.path.isdir(os.path.expanduser(names[0])):
        return open_song_source(names[0])
    return AudioFileSource(find_songs(names), name=names[0] if len(names) == 1 else format_count(len(names), "name"))


def find_song_source(
    names: Sequence[str], *, id_column: str | None = None, audio_column: str | None = None
) -> SongSource | None:
    """
    Open the table or dataset that a command line names, whose songs have ids.

    Args:
        names (`Sequence[str]`):
            A single table, folder of shards or Hub dataset; or files, patterns and URLs.
        id_column (`str`, *optional*), audio_column (`str`, *optional*):
            What the columns of a table are called, where they do not have a usual name.

    Returns:
        [`SongSource`] or `None`: `None` for files, patterns and URLs.

    Raises:
        `ValueError`: If a table stands beside other names, or columns are named and there is no table.
        `FileNotFoundError`, `ValueError`: As `open_song_source` does.
    """
    table = next(filter(is_table, names), None)
    if table is None and (id_column or audio_column):
        option = "--id-column" if id_column else "--audio-column"
        raise ValueError(f"{option} names a column of a table, and {names[0]} is not a table of songs. Leave it out.")
    if table is not None:
        if len(names) > 1:
            raise ValueError(f"{table}: is a table of songs, which stands alone. Leave the other names out.")
        from modeling_apex.corpus.song_table import TableSongSource

        return TableSongSource(table, id_column=id_column, audio_column=audio_column)
    if len(names) > 1 or not is_dataset(names[0]):
        return None
    source = open_song_source(names[0])
    return None if isinstance(source, AudioFolderSource) else source


def compute_source_fingerprint(source: SongSource) -> str:
    """
    Hash the song ids of every split, in order.

    Raises:
        `ValueError`: If an id occurs twice.
    """
    digest = hashlib.sha256()
    seen: set[str] = set()
    for split in sorted(source.splits):
        digest.update(f"\0{split}\0".encode())
        for song_id in source.read_columns(split)["id"].to_pylist():
            if song_id in seen:
                raise ValueError(f"{source.name}: the song id {song_id!r} occurs twice; ids must be unique.")
            seen.add(song_id)
            digest.update(song_id.encode() + b"\n")
    return digest.hexdigest()


def select_columns(schema: pa.Schema) -> pa.Schema:
    """Keep the columns that training reads: numbers, booleans, and a few short texts."""

    def is_kept(field: pa.Field) -> bool:
        kind = field.type
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        return is_number or field.name in TEXT_COLUMNS

    return pa.schema([pa.field(field.name, field.type) for field in schema if is_kept(field) and field.name != "id"])


@contextlib.contextmanager
def name_shard(shard: Path) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(
            f"{shard}: damaged: it is not Parquet that can be read ({error}). Build the dataset again."
        ) from error


class ParquetSongSource:
    """A dataset folder in the layout of datasets_scripts, read without copying it into a cache."""

    def __init__(self, folder: Path, shards: list[Path]):
        self.name = str(folder)
        self._folder = folder
        self._shards: dict[str, list[Path]] = {}
        for shard in shards:
            match = SHARD_NAME.fullmatch(shard.name)
            if match is None:
                raise ValueError(f"{shard}: expected shards named like train-00000-of-00001.parquet.")
            self._shards.setdefault(match["split"], []).append(shard)
        self._num_rows = {}
        for shard in shards:
            with name_shard(shard):
                self._num_rows[shard] = pq.read_metadata(shard).num_rows
        schema = pq.read_schema(shards[0])
        _refuse_missing_columns(self.name, schema.names)
        self.columns = select_columns(schema)
        self.splits = {split: sum(self._num_rows[shard] for shard in files) for split, files in self._shards.items()}

    def read_columns(self, split: str, names: Sequence[str] = ()) -> pa.Table:
        tables = []
        for shard in self._shards[split]:
            with name_shard(shard):
                tables.append(pq.read_table(shard, columns=["id", *names]))
        return _write_ids_as_text(pa.concat_tables(tables, promote_options="permissive"))

    def locate(self, split: str, start: int, stop: int) -> list[tuple[Path, int, int]]:
        found, position = [], 0
        for shard in self._shards[split]:
            first, last = max(start - position, 0), min(stop - position, self._num_rows[shard])
            found += [(shard, first, last)] if first < last else []
            position += self._num_rows[shard]
        return found

    def iterate(self, split: str, start: int, stop: int) -> Iterator[Song]:
        wanted = ["id", "audio", *self.columns.names]
        for shard, first, last in self.locate(split, start, stop):
            with name_shard(shard), pq.ParquetFile(shard) as file:
                ends = np.cumsum([file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)])
                groups = range(np.searchsorted(ends, first, "right"), np.searchsorted(ends, last) + 1)
                rows = itertools.chain.from_iterable(
                    batch.to_pylist()
                    for number in groups
                    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[number], columns=wanted)
                )
                position = ends[groups[0] - 1] if groups[0] else 0
                yield from map(self._build_song, itertools.islice(rows, first - position, last - position))

    def _build_song(self, row: dict[str, Any]) -> Song:
        song_id, audio = str(row.pop("id")), row.pop("audio")
        return Song(song_id, locate_audio(audio, [self._folder], f"{self.name}, song {song_id!r}"), row)


class AudioFileSource:
    """
    Audio files and URLs: one split, `train`, in the order of the list.

    Bytes of a path that are no text stand in its id as escapes: Parquet holds text alone.

    Args:
        paths (`list[str]`):
            Where the songs are.
        name (`str`):
            What they are called together.
        folder (`Path`, *optional*):
            The folder from which ids count.
    """

    def __init__(self, paths: list[str], *, name: str, folder: Path | None = None):
        self.name = name
        self._paths, self._folder = paths, folder
        self.splits = {"train": len(self._paths)}
        self.columns = pa.schema([])

    def read_columns(self, split: str, names: Sequence[str] = ()) -> pa.Table:
        return pa.table({"id": pa.array([self._name(path) for path in self._paths], pa.string())})

    def locate(self, split: str, start: int, stop: int) -> list[tuple[Path, int, int]]:
        return []  # each song is a file of its own

    def iterate(self, split: str, start: int, stop: int) -> Iterator[Song]:
        for path in self._paths[start:stop]:
            yield Song(self._name(path), path, {})

    def _name(self, path: str) -> str:
        return str(escape_surrogates(os.path.relpath(path, self._folder) if self._folder else name_source(path)))


class AudioFolderSource(AudioFileSource):
    """A folder of audio files, in the order of the paths; an id is the path in the folder."""

    def __init__(self, folder: Path):
        super().__init__(find_songs([str(folder)]), name=str(folder), folder=folder)


class HubSongSource:
    """A dataset on the Hub, by way of `datasets.load_dataset`; audio stays encoded until it is needed."""

    def __init__(self, name: str, **loading_options: Any):
        from datasets import Audio, load_dataset

        self.name = name
        self._caches = list_caches()
        try:
            self._dataset = load_dataset(name, **loading_options)
        except OSError as error:
            raise FileNotFoundError(
                f"{name}: no such folder, and no dataset of the Hub that could be read ({error}). Pass a folder that "
                "is there, or the id of a dataset, and log in (`hf auth login`) if it is private."
            ) from error
        self.splits = {str(split): len(songs) for split, songs in self._dataset.items()}
        songs = next(iter(self._dataset.values()))
        _refuse_missing_columns(name, songs.column_names)
        if isinstance(songs.features["audio"], Audio):
            self._dataset = self._dataset.cast_column("audio", Audio(decode=False))
        self.columns = select_columns(songs.features.arrow_schema)

    def read_columns(self, split: str, names: Sequence[str] = ()) -> pa.Table:
        table = self._dataset[split].select_columns(["id", *names]).with_format("arrow")[:]
        return _write_ids_as_text(table.replace_schema_metadata(None))

    def locate(self, split: str, start: int, stop: int) -> list[tuple[Path, int, int]]:
        return [(Path(file["filename"]), start, stop) for file in self._dataset[split].cache_files]

    def iterate(self, split: str, start: int, stop: int) -> Iterator[Song]:
        songs = self._dataset[split].select_columns(["id", "audio", *self.columns.names])
        for index in np.arange(start, min(stop, len(songs))).tolist():
            row = songs[index]
            song_id, audio = str(row.pop("id")), row.pop("audio")
            yield Song(song_id, locate_audio(audio, self._caches, f"{self.name}, song {song_id!r}"), row)


def list_caches() -> list[Path]:
    """List the folders that a dataset on the Hub is read from."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE)]


def locate_audio(audio: Any, folders: Sequence[Path], location: str) -> Any:
    """Complete the path of audio that lies beside a table, and refuse one that leads elsewhere."""
    path = audio.get("path") if isinstance(audio, dict) and audio.get("bytes") is None else audio
    if not isinstance(path, str) or not path or is_uri(path):
        return audio
    allowed = [Path(folder) for folder in os.environ.get(AUDIO_FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    flag = f"the environment variable {AUDIO_FOLDERS_VARIABLE}=FOLDER"
    found = str(refuse_outside(folders[0] / path, [*folders, *allowed], location=location, flag=flag))
    return found if isinstance(audio, str) else {**audio, "path": found}


def _write_ids_as_text(table: pa.Table) -> pa.Table:
    position = table.schema.get_field_index("id")
    return table.set_column(position, "id", pa.array(map(str, table["id"].to_pylist()), pa.string()))


def _hold_songs(shards: Sequence[Path]) -> bool:
    """Tell whether tables in a folder of audio are a dataset, and not what was written there of the songs."""
    with name_shard(shards[0]):
        names = pq.read_schema(shards[0]).names
    return {"id", "audio"} <= set(names)


def _refuse_missing_columns(name: str, columns: list[str]) -> None:
    missing = [column for column in ("id", "audio") if column not in columns]
    if missing:
        raise ValueError(
            f"{name}: no column {' and no column '.join(missing)}; it has {', '.join(columns)}. Build the dataset "
            "with datasets_scripts, or rename its columns."
        )
