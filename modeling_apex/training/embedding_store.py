"""
Stored embeddings as memory-mapped columns, which is how training reads them.

What comes in is a folder of Parquet shards (see `embed`); what leaves, per split, are fixed-width arrays on disk: all
segments `(N, D)`, where each song's segments start, the song embeddings `(B, D)`, and a small table of ids, labels,
groups and platforms. They are built once, beside the shards, under a name that changes with the manifest; a batch is
then a plain slice or gather of rows, with no decoding and no copy of the whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from modeling_apex.output_lock import OutputLock
from modeling_apex.training.embed import iterate_shards
from modeling_apex.training.embedding_manifest import load_manifest, refuse_other_identity

STORE_FORMAT = 1  # part of the name of a store, so that a change of layout builds a new one
SEGMENT_COLUMNS = ("segment_index", "num_real_samples", "embedding")


@dataclass(frozen=True)
class EmbeddingSplit:
    """
    The songs of one split.

    Args:
        name (`str`):
            Name of the split.
        segments (`np.ndarray` of shape `(num_segments, hidden_size)`):
            Embeddings of all segments, song after song; memory-mapped float32.
        offsets (`np.ndarray` of shape `(num_songs + 1,)`):
            Song `i` owns the segments `offsets[i]` to `offsets[i + 1]`.
        song_embeddings (`np.ndarray` of shape `(num_songs, hidden_size)`):
            Mean of each song's segments; memory-mapped float32.
        songs (`pa.Table`):
            One row a song: `id` and what travelled with it.
    """

    name: str
    segments: NDArray[np.float32]
    offsets: NDArray[np.int64]
    song_embeddings: NDArray[np.float32]
    songs: pa.Table

    @property
    def num_songs(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_segments(self) -> int:
        return int(self.offsets[-1])

    def build_labels(self, head_names: Sequence[str]) -> NDArray[np.float32]:
        """
        Collect labels as one matrix.

        Returns:
            `np.ndarray` of shape `(num_songs, num_heads)`, float32: NaN where a song has no label, also where the
            dataset has no such column.
        """
        labels = np.full((self.num_songs, len(head_names)), np.nan, np.float32)
        for position, name in enumerate(head_names):
            if name in self.songs.column_names:
                labels[:, position] = self.songs[name].cast(pa.float32()).to_numpy()
        return labels

    def list_values(self, column: str) -> list[Any]:
        """Return a column of the songs as Python values; `None` for each song where there is no such column."""
        if column not in self.songs.column_names:
            return [None] * self.num_songs
        values: list[Any] = self.songs[column].to_pylist()
        return values


@dataclass(frozen=True)
class EmbeddingStore:
    """All splits of a folder of embeddings, its manifest, and the hash of that manifest."""

    folder: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    splits: dict[str, EmbeddingSplit]

    def get_split(self, name: str) -> EmbeddingSplit:
        """
        Return a split.

        Raises:
            `ValueError`: If there is no such split or it holds no song.
        """
        if name not in self.splits or not self.splits[name].num_songs:
            raise ValueError(
                f"{self.folder}: no split {name!r} with songs; there is {', '.join(self.splits) or 'none'}. Training "
                "needs `train` and `validation`: build the dataset with its splits (datasets_scripts) and embed it."
            )
        return self.splits[name]

    def refuse_shared_groups(self, first: str = "train", second: str = "validation") -> None:
        """
        Refuse splits that share a group, such as a creator whose songs sit on both sides.

        Raises:
            `ValueError`: If a group is in both splits, or a split has no groups.
        """
        groups = [set(self.get_split(name).list_values("group")) for name in (first, second)]
        if any(None in values for values in groups):
            raise ValueError(
                f"{self.folder}: songs without a `group`, so nothing shows that {first} and {second} are apart. Build "
                "the dataset with datasets_scripts, or train with require_grouped_splits=False."
            )
        shared = sorted(groups[0] & groups[1])
        if shared:
            raise ValueError(
                f"{self.folder}: {len(shared)} groups are both in {first} and in {second}, for example {shared[0]!r}. "
                "Split by group (datasets_scripts does), or train with require_grouped_splits=False."
            )


def open_embedding_store(folder: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> EmbeddingStore:
    """
    Open a folder of embeddings for training; the first time, build its columns.

    Args:
        folder (`str` or `os.PathLike`):
            What `embed_songs` or `apex-music embed` wrote.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where the columns are kept. Defaults to `columns/` in the folder itself.

    Returns:
        [`EmbeddingStore`]

    Raises:
        `FileNotFoundError`: If the folder has no manifest.
        `ValueError`: If the embedding is unfinished, or a shard comes from another model.
    """
    folder = Path(folder)
    manifest = load_manifest(folder)
    if not manifest["is_complete"]:
        raise ValueError(
            f"{folder}: this embedding is unfinished. Run the same `apex-music embed` again to finish it."
        )
    described = {**manifest, "source": {**manifest["source"], "name": None}, "model": None, "store": STORE_FORMAT}
    manifest_sha256 = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    columns = Path(cache_dir or folder / "columns") / manifest_sha256[:16]
    if not columns.is_dir():
        with OutputLock(columns, is_file=True, waits=True):  # another training run may be building the same ones
            if not columns.is_dir():
                _build_columns(folder, manifest, columns)
    splits = {split: _open_split(columns, split) for split in manifest["source"]["splits"]}
    return EmbeddingStore(folder, manifest, manifest_sha256, splits)


def _open_split(columns: Path, split: str) -> EmbeddingSplit:
    def load(kind: str) -> Any:
        path = columns / f"{split}.{kind}.npy"
        return np.load(path, mmap_mode="r")

    songs = pq.read_table(columns / f"{split}.songs.parquet")
    return EmbeddingSplit(split, load("segments"), np.asarray(load("offsets")), load("song_embeddings"), songs)


def _build_columns(folder: Path, manifest: dict[str, Any], columns: Path) -> None:
    """Write the columns of every split under another name, then give the folder its name: it is whole or absent."""
    part = columns.with_name(f"{columns.name}.writing")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    try:
        for split in manifest["source"]["splits"]:
            _build_split(list(iterate_shards(folder, split)), manifest["identity"], part, split)
        part.rename(columns)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _build_split(shards: list[Path], identity: dict[str, Any], part: Path, split: str) -> None:
    from modeling_apex.training.embed import read_shard_facts

    width = identity["hidden_size"]
    for shard in shards:
        refuse_other_identity(str(shard), read_shard_facts(shard)["identity"], identity)
    num_segments = sum(pq.read_metadata(shard).num_rows for shard in shards)
    segments = _create_array(part / f"{split}.segments.npy", (num_segments, width))
    starts: list[NDArray[np.int64]] = []
    tables: list[pa.Table] = []
    position = 0
    for table in _iterate_tables(shards):
        values = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width)
        segments[position : position + len(values)] = values
        first = np.flatnonzero(table["segment_index"].to_numpy() == 0)
        starts.append(first + position)
        tables.append(table.drop_columns(list(SEGMENT_COLUMNS)).take(pa.array(first)).replace_schema_metadata(None))
        position += len(values)
    offsets = np.concatenate([*starts, [num_segments]]).astype(np.int64)
    np.save(part / f"{split}.offsets.npy", offsets)
    songs = pa.concat_tables(tables) if tables else pa.table({"id": pa.array([], pa.string())})
    pq.write_table(songs, part / f"{split}.songs.parquet")
    means = _create_array(part / f"{split}.song_embeddings.npy", (len(offsets) - 1, width))
    for start in range(0, len(means), 4096):  # a few thousand songs at a time, in float64
        stop = min(start + 4096, len(means))
        rows = np.asarray(segments[offsets[start] : offsets[stop]], np.float64)
        sums = np.add.reduceat(rows, offsets[start:stop] - offsets[start], axis=0)
        means[start:stop] = sums / np.diff(offsets[start : stop + 1])[:, None]


def _iterate_tables(shards: list[Path]) -> Iterator[pa.Table]:
    for shard in shards:
        yield pq.read_table(shard)


def _create_array(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    if shape[0] == 0:  # an empty file cannot be mapped
        np.save(path, np.zeros(shape, np.float32))
        return np.zeros(shape, np.float32)
    array: NDArray[np.float32] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        # The file is a hole so far: on a full disk, writing to its map would end the process without a word.
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array
