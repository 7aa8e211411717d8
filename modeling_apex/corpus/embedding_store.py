"""
Stored embeddings as columns on disk, which is how training reads them, joined to the labels of their songs.

What comes in is a folder of Parquet shards (see `embed`) and the dataset of their songs; what leaves, per split, are
fixed-width arrays on disk: all segments `(N, D)`, where each song's segments start, the song embeddings `(B, D)`, and
a small table of ids, labels, groups and platforms. The arrays are built once, in a cache, under a name that changes
with the manifest and the shards; a batch is then a plain slice or gather of rows, with no decoding and no copy of the
whole. The labels are read from the dataset each time.
"""

import hashlib
import json
import logging
import os
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import cached_assets_path
from numpy.typing import NDArray

from modeling_apex.corpus.audio_record import record_audio
from modeling_apex.corpus.embedding_manifest import load_finished_manifest, refuse_other_identity
from modeling_apex.corpus.identity import FileStamp, hash_json
from modeling_apex.corpus.shards import (
    count_segments,
    list_all_shards,
    list_shards,
    plan_blocks,
    read_shard,
    read_shard_facts,
)
from modeling_apex.corpus.song_labels import SongLabels
from modeling_apex.corpus.song_source import SongSource, open_song_source
from modeling_apex.corpus.song_store import Rows, SongSplit, SongStore, StoredRows, make_store
from modeling_apex.inference.report_apex import format_count

logger = logging.getLogger(__name__)

SONGS_PER_BLOCK = 1024  # songs whose segments are averaged at once, in float64; bounds memory, changes nothing
STORE_FORMAT = 2  # part of the name of a store, so that a change of layout builds a new one


def open_embedding_store(
    folder: str | os.PathLike,
    cache_dir: str | os.PathLike | None = None,
    *,
    songs: str | os.PathLike | SongSource | None = None,
    rereads: bool = False,
) -> SongStore:
    """
    Open a folder of embeddings for training; the first time, build its columns.

    Args:
        folder (`str` or `os.PathLike`):
            What `embed_songs` or `apex-music embed` wrote.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where the columns are kept. Defaults to the cache of Hugging Face (`assets/apex-music/embeddings`): the
            folder may be a stranger's, and nothing is written into it.
        songs (`str`, `os.PathLike` or [`SongSource`], *optional*):
            The dataset that was embedded, for its labels. Defaults to the one that the manifest names.
        rereads (`bool`, defaults to `False`):
            Whether to read audio again whose files look unchanged.

    Returns:
        [`SongStore`]

    Raises:
        `FileNotFoundError`: If the folder has no manifest, or the dataset is not found.
        `ValueError`: If the embedding is unfinished, a shard is missing, damaged or from another model, or songs of
            the dataset are not those that were embedded or have other audio.
    """
    folder = Path(folder)
    manifest = load_finished_manifest(folder)
    source = _open_songs(folder, manifest, songs)
    labels = SongLabels(source)
    described = {**manifest, "source": {**manifest["source"], "name": None}, "model": None, "store": STORE_FORMAT}
    manifest_sha256 = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    shards = list_all_shards(folder, manifest)
    # Other shards under the same manifest are other embeddings: their stamps belong to the name.
    stamps = [[path.name, *astuple(FileStamp.from_status(path.stat()))] for paths in shards.values() for path in paths]
    columns = _find_cache(cache_dir) / hash_json([manifest_sha256, stamps])[:16]

    def build(part: Path) -> None:
        for split, paths in shards.items():
            _build_split(paths, manifest["identity"], part, split)

    make_store(columns, build)
    _refuse_other_songs(folder, manifest, source, labels, columns)
    _refuse_other_audio(folder, manifest, source, columns, rereads)
    splits = {split: _open_split(folder, columns, split, labels) for split in manifest["source"]["splits"]}
    return SongStore(folder, manifest, manifest_sha256, labels.sha256, splits)


def _find_cache(cache_dir: str | os.PathLike | None) -> Path:
    return Path(cached_assets_path("apex-music", namespace="embeddings") if cache_dir is None else cache_dir)


def _open_songs(folder: Path, manifest: dict[str, Any], songs: str | os.PathLike | SongSource | None) -> SongSource:
    if songs is not None:
        return open_song_source(songs)
    name = manifest["source"]["name"]
    try:
        return open_song_source(name)
    except OSError as error:
        raise FileNotFoundError(
            f"{folder}: labels are read from the dataset that was embedded, and {name!r}, which the manifest names, "
            f"was not found ({error}). Name it: --songs DATASET (`songs=`)."
        ) from error


def _refuse_other_songs(
    folder: Path, manifest: dict[str, Any], source: SongSource, labels: SongLabels, columns: Path
) -> None:
    """Refuse a dataset from which songs are gone since they were embedded, or in which songs are new."""
    if labels.ids_sha256 == manifest["source"]["ids_sha256"]:
        return
    failed = {
        (split, failure["id"])
        for split in manifest["source"]["splits"]
        for shard in list_shards(folder, split)
        for failure in read_shard_facts(shard)["failures"]
    }
    embedded = {
        (split, song_id)
        for split in manifest["source"]["splits"]
        for song_id in pq.read_table(columns / f"{split}.songs.parquet")["id"].to_pylist()
    }
    known = {(split, song_id) for split in source.splits for song_id in labels.list_ids(split)}
    gone, new = sorted(embedded - known), sorted(known - embedded - failed)
    parts = [
        f"{format_count(len(found), 'song')} {one if len(found) == 1 else many}, for example {found[0][1]!r} in "
        f"{found[0][0]!r}"
        for found, one, many in (
            (gone, "was embedded and is not in the dataset", "were embedded and are not in the dataset"),
            (new, "is new in the dataset", "are new in the dataset"),
        )
        if found
    ]
    if missing := [split for split in manifest["source"]["splits"] if split not in source.splits]:
        parts.append(f"the dataset has no split {', '.join(missing)}")
    if parts:
        raise ValueError(
            f"{folder}: holds embeddings of other songs than {source.name}: {'; '.join(parts)}. Embed it into a new "
            f"folder: apex-music embed {source.name} --output FOLDER"
        )


def _refuse_other_audio(
    folder: Path, manifest: dict[str, Any], source: SongSource, columns: Path, rereads: bool
) -> None:
    """Refuse embeddings of songs whose audio has changed since."""
    if "audio_sha256" not in manifest:
        logger.warning(
            "%s: made by apex-music 0.1, which did not record the audio; whether it is still the same is not "
            "known. To be sure, embed into a new folder: apex-music embed %s --output FOLDER",
            folder,
            source.name,
        )
        return
    records = columns.with_name(f"{columns.name}-audio")  # not in the folder, which is read and no more
    records.mkdir(exist_ok=True)
    found: dict[str, str] = {}
    stored: dict[str, str] = {}
    changed: list[str] = []
    for block in plan_blocks(manifest["source"]["splits"], manifest["songs_per_shard"]):
        place, first = block.get_record(records), block.get_record(folder)
        record = record_audio(source, block.split, block.start, block.stop, place, first=first, rereads=rereads)
        found |= dict(record.list_contents())
        stored |= dict(read_shard_facts(block.get_shard(folder))["audio"])
        # Of songs in the order of then, nothing is left for the next block; others find each other later.
        changed += [song_id for song_id in found.keys() & stored.keys() if found.pop(song_id) != stored.pop(song_id)]
    if changed:
        raise ValueError(
            f"{folder}: the audio of {format_count(len(changed), 'song')} has changed since it was embedded, for "
            f"example that of {min(changed)!r}. Embed them again with the same command as before: apex-music embed "
            f"{source.name} --output {folder}"
        )


def _open_split(folder: Path, columns: Path, split: str, labels: SongLabels) -> SongSplit:
    segments, song_embeddings = (
        StoredRows(columns / f"{split}.{kind}.npy") for kind in ("segments", "song_embeddings")
    )
    ids = pq.read_table(columns / f"{split}.songs.parquet")["id"]
    offsets = np.load(columns / f"{split}.offsets.npy")
    shards = (pq.read_table(shard, columns=["num_real_samples"]) for shard in list_shards(folder, split))
    lengths = np.concatenate([np.zeros(0, np.int64), *(shard[0].to_numpy() for shard in shards)])
    return SongSplit(split, segments, offsets, song_embeddings, labels.join(split, ids), lengths)


def weigh_song_embeddings(store: SongStore, config: Any, cache_dir: str | os.PathLike | None = None) -> SongStore:
    """
    Make each song embedding the mean that a model makes of it; where padded segments count in full, it is already.

    Args:
        store ([`SongStore`]), cache_dir (`str` or `os.PathLike`, *optional*):
            From [`open_embedding_store`], and as there.
        config ([`ApexConfig`]):
            That of the model.
    """
    if config.tail == "full":
        return store
    rule = (
        config.tail if config.tail == "weighted" else f"{config.tail}-{config.tail_seconds:g}-{config.sampling_rate}"
    )
    rows: Any = next(iter(store.splits.values())).segments
    columns = _find_cache(cache_dir) / f"{rows.path.parent.name}-{rule}"

    def build(part: Path) -> None:
        for name, split in store.splits.items():
            path = part / f"{name}.song_embeddings.npy"
            _write_song_embeddings(path, split.segments, split.offsets, split.weigh_segments(config))

    make_store(columns, build)
    splits = {
        name: replace(split, song_embeddings=StoredRows(columns / f"{name}.song_embeddings.npy"))
        for name, split in store.splits.items()
    }
    return replace(store, splits=splits)


def _build_split(shards: list[Path], identity: dict[str, Any], part: Path, split: str) -> None:
    width = identity["hidden_size"]
    for shard in shards:
        refuse_other_identity(str(shard), read_shard_facts(shard)["identity"], identity)
    num_segments = sum(count_segments(shard) for shard in shards)
    path = part / f"{split}.segments.npy"
    starts: list[NDArray[np.int64]] = []
    ids: list[str] = []
    position = 0
    with open(path, "wb") as file:
        _write_header(file, (num_segments, width))
        for shard in shards:
            table = read_shard(shard, width)
            values = table["embedding"].combine_chunks().flatten().to_numpy()
            file.write(np.ascontiguousarray(values, np.float32).data)
            first = np.flatnonzero(table["segment_index"].to_numpy() == 0)
            starts.append(first + position)
            ids += table["id"].take(pa.array(first)).to_pylist()
            position += table.num_rows
    offsets = np.concatenate([*starts, [num_segments]]).astype(np.int64)
    np.save(part / f"{split}.offsets.npy", offsets)
    pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), part / f"{split}.songs.parquet")
    weights = np.ones(num_segments, np.float32)
    _write_song_embeddings(part / f"{split}.song_embeddings.npy", StoredRows(path), offsets, weights)


def _write_song_embeddings(
    path: Path, segments: Rows, offsets: NDArray[np.int64], weights: NDArray[np.float32]
) -> None:
    num_songs = len(offsets) - 1
    with open(path, "wb") as file:
        _write_header(file, (num_songs, segments.shape[1]))
        for start in range(0, num_songs, SONGS_PER_BLOCK):
            stop = min(start + SONGS_PER_BLOCK, num_songs)
            rows = segments[offsets[start] : offsets[stop]].astype(np.float64)
            counts = weights[offsets[start] : offsets[stop], None].astype(np.float64)
            firsts = offsets[start:stop] - offsets[start]
            sums = np.add.reduceat(rows * counts, firsts, axis=0)
            file.write((sums / np.add.reduceat(counts, firsts, axis=0)).astype(np.float32).data)


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Begin a `.npy` file of float32 whose rows are then written one after the other."""
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
