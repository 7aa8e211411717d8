"""
Stored embeddings as columns on disk, which is how training reads them.

What comes in is a folder of Parquet shards (see `embed`); what leaves, per split, are fixed-width arrays on disk: all
segments `(N, D)`, where each song's segments start, the song embeddings `(B, D)`, and a small table of ids, labels,
groups and platforms. They are built once, beside the shards, under a name that changes with the manifest; a batch is
then a plain slice or gather of rows, with no decoding and no copy of the whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from modeling_apex.corpus.embed import iterate_shards
from modeling_apex.corpus.embedding_manifest import load_manifest, refuse_other_identity
from modeling_apex.corpus.song_store import SongSplit, SongStore, StoredRows
from modeling_apex.storage.output_lock import OutputLock

SONGS_PER_BLOCK = 1024  # songs whose segments are averaged at once, in float64; bounds memory, changes nothing
STORE_FORMAT = 1  # part of the name of a store, so that a change of layout builds a new one
SEGMENT_COLUMNS = ("segment_index", "num_real_samples", "embedding")


def open_embedding_store(folder: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> SongStore:
    """
    Open a folder of embeddings for training; the first time, build its columns.

    Args:
        folder (`str` or `os.PathLike`):
            What `embed_songs` or `apex-music embed` wrote.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where the columns are kept. Defaults to `columns/` in the folder itself.

    Returns:
        [`SongStore`]

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
    return SongStore(folder, manifest, manifest_sha256, splits)


def _open_split(columns: Path, split: str) -> SongSplit:
    segments, song_embeddings = (
        StoredRows(columns / f"{split}.{kind}.npy") for kind in ("segments", "song_embeddings")
    )
    songs = pq.read_table(columns / f"{split}.songs.parquet")
    return SongSplit(split, segments, np.load(columns / f"{split}.offsets.npy"), song_embeddings, songs)


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
    from modeling_apex.corpus.embed import read_shard_facts

    width = identity["hidden_size"]
    for shard in shards:
        refuse_other_identity(str(shard), read_shard_facts(shard)["identity"], identity)
    num_segments = sum(pq.read_metadata(shard).num_rows for shard in shards)
    path = part / f"{split}.segments.npy"
    starts: list[NDArray[np.int64]] = []
    tables: list[pa.Table] = []
    position = 0
    with open(path, "wb") as file:
        _write_header(file, (num_segments, width))
        for table in _iterate_tables(shards):
            values = table["embedding"].combine_chunks().flatten().to_numpy()
            file.write(np.ascontiguousarray(values, np.float32).data)
            first = np.flatnonzero(table["segment_index"].to_numpy() == 0)
            starts.append(first + position)
            songs = table.drop_columns(list(SEGMENT_COLUMNS)).take(pa.array(first))
            tables.append(songs.replace_schema_metadata(None))
            position += table.num_rows
    offsets = np.concatenate([*starts, [num_segments]]).astype(np.int64)
    np.save(part / f"{split}.offsets.npy", offsets)
    songs = pa.concat_tables(tables) if tables else pa.table({"id": pa.array([], pa.string())})
    pq.write_table(songs, part / f"{split}.songs.parquet")
    segments, num_songs = StoredRows(path), len(offsets) - 1
    with open(part / f"{split}.song_embeddings.npy", "wb") as file:
        _write_header(file, (num_songs, width))
        for start in range(0, num_songs, SONGS_PER_BLOCK):
            stop = min(start + SONGS_PER_BLOCK, num_songs)
            rows = segments[offsets[start] : offsets[stop]].astype(np.float64)
            sums = np.add.reduceat(rows, offsets[start:stop] - offsets[start], axis=0)
            file.write((sums / np.diff(offsets[start : stop + 1])[:, None]).astype(np.float32).data)


def _iterate_tables(shards: list[Path]) -> Iterator[pa.Table]:
    for shard in shards:
        yield pq.read_table(shard)


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Begin a `.npy` file of float32 whose rows are then written one after the other."""
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
