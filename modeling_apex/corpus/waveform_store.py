"""
Decoded songs on disk, for training the encoder itself: each song is decoded once, not once an epoch.

What comes in is a source of songs; what leaves is an [`SongStore`] whose rows are normalised segments
`(N, T)` in float16 instead of embeddings. A 30 s segment at 24 kHz takes 1.4 MB, a thousand songs of three minutes
8.6 GB: this is for corpora that fit on a disk, where an end-to-end run is affordable at all.
"""

import itertools
import logging
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_apex.corpus.audio_record import record_audio
from modeling_apex.corpus.identity import hash_json
from modeling_apex.corpus.song_decoding import decode_songs
from modeling_apex.corpus.song_labels import SongLabels
from modeling_apex.corpus.song_source import SongSource
from modeling_apex.corpus.song_store import SongSplit, SongStore, make_store
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.report_apex import escape_controls
from modeling_apex.storage.file_names import check_file_name
from modeling_apex.storage.output_folder import load_json, save_json

logger = logging.getLogger(__name__)

STORE_FORMAT = 2


def open_waveform_store(
    source: SongSource,
    cache_dir: str | os.PathLike,
    extractor: ApexFeatureExtractor,
    *,
    num_decoders: int = 1,
    rereads: bool = False,
    config: Any = None,
) -> SongStore:
    """
    Open the decoded songs of a source, with their labels; the first time, decode them.

    Args:
        source ([`SongSource`]):
            The songs.
        cache_dir (`str` or `os.PathLike`):
            Where decoded songs are kept, under a name that changes with the audio of any song and with the segment
            length.
        extractor ([`ApexFeatureExtractor`]):
            Sampling rate and segment length.
        num_decoders (`int`, defaults to 1):
            Threads that decode.
        rereads (`bool`, defaults to `False`):
            Whether to read audio again whose files look unchanged.
        config ([`ApexConfig`] or [`SpectrogramFusionConfig`], *optional*):
            That of the model. Where its `tail` asks for the lengths of segments, they are stored too.

    Returns:
        [`SongStore`]: with `segments` of shape `(num_segments, segment_num_samples)`, float16. Broken songs are
        left out, and listed with their reasons in its manifest.
    """
    for split in source.splits:
        check_file_name(split, f"{source.name}: the split")
    labels = SongLabels(source)
    manifest = {
        "format": STORE_FORMAT,
        "ids_sha256": labels.ids_sha256,
        "audio_sha256": _hash_audio(source, Path(cache_dir), rereads),
        "splits": dict(source.splits),
        "sampling_rate": extractor.sampling_rate,
        "segment_seconds": extractor.segment_seconds,
    }
    if config is not None and config.tail != "full":  # stores of before, which lack the lengths, serve all others
        manifest["has_lengths"] = True
    sha256 = hash_json(manifest)
    folder = Path(cache_dir) / f"waveforms-{sha256[:16]}"

    def decode(part: Path) -> None:
        written = (_write_split(source, split, part, extractor, num_decoders) for split in source.splits)
        save_json(part / "manifest.json", {**manifest, "failures": list(itertools.chain.from_iterable(written))})

    make_store(folder, decode)
    content = load_json(folder / "manifest.json", f"Delete {folder}, then run the same command again.")
    splits = {split: _open_split(folder, split, extractor.segment_num_samples, labels) for split in source.splits}
    return SongStore(folder, content, sha256, labels.sha256, splits)


def _hash_audio(source: SongSource, cache_dir: Path, rereads: bool) -> str:
    """Hash what the audio of all songs is; by what it is known to be unchanged is kept in the cache."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    contents = {}
    for split, num_songs in source.splits.items():
        place = cache_dir / f"audio-{hash_json([os.path.abspath(source.name), split])[:16]}.json"
        contents[split] = record_audio(source, split, 0, num_songs, place, rereads=rereads).list_contents()
    return hash_json(contents)


def _write_split(
    source: SongSource, split: str, part: Path, extractor: ApexFeatureExtractor, num_decoders: int
) -> list[dict[str, str]]:
    ids: list[str] = []
    lengths: list[int] = []
    counts: list[int] = []
    failures: list[dict[str, str]] = []
    segment_bytes = 2 * extractor.segment_num_samples
    songs = source.iterate(split, 0, source.splits[split])
    with (
        open(part / f"{split}.segments.f16", "wb") as file,
        closing(decode_songs(songs, extractor, num_threads=num_decoders)) as segments,
    ):
        count = 0
        for segment in segments:
            if segment.samples is None:
                logger.warning("left out: %s", escape_controls(f"{segment.song.id}: {segment.error}"))
                failures.append({"split": split, "id": segment.song.id, "error": str(segment.error)})
                file.seek(-count * segment_bytes, os.SEEK_CUR)
                file.truncate()
                del lengths[len(lengths) - count :]
                count = 0
                continue
            file.write(segment.samples.astype(np.float16).tobytes())
            lengths.append(segment.num_real_samples)
            count += 1
            if segment.is_last:
                ids.append(segment.song.id)
                counts.append(count)
                count = 0
    pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), part / f"{split}.songs.parquet")
    np.save(part / f"{split}.num_real_samples.npy", np.array(lengths, np.int64))
    np.save(part / f"{split}.offsets.npy", np.cumsum([0, *counts]).astype(np.int64))
    return failures


def _open_split(folder: Path, split: str, segment_num_samples: int, labels: SongLabels) -> SongSplit:
    offsets = np.load(folder / f"{split}.offsets.npy")
    shape = (int(offsets[-1]), segment_num_samples)
    path = folder / f"{split}.segments.f16"
    # An empty file cannot be mapped.
    segments: Any = np.memmap(path, np.float16, "r", shape=shape) if shape[0] else np.zeros(shape, np.float16)
    songs = labels.join(split, pq.read_table(folder / f"{split}.songs.parquet")["id"])
    lengths = folder / f"{split}.num_real_samples.npy"
    num_real_samples = np.load(lengths) if lengths.is_file() else None
    return SongSplit(split, segments, offsets, np.zeros((len(offsets) - 1, 0), np.float32), songs, num_real_samples)
