"""
What a spectrogram-fusion model learns from: songs with track features come in, arrays that training slices leave.

Track features are found by their names (`track_features_apex`), their statistics and categories come from the training
split alone. Spectrograms are computed once, by the model's own front end, and kept on disk: an epoch then decodes and
transforms nothing.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_apex.corpus.identity import hash_json
from modeling_apex.corpus.song_labels import SongLabels
from modeling_apex.corpus.song_source import SongSource
from modeling_apex.corpus.song_store import SongSplit, SongStore, make_store
from modeling_apex.corpus.waveform_store import open_waveform_store
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.spectrogram_apex import compute_log_spectrogram
from modeling_apex.inference.track_features_apex import TRACK_FEATURES, encode_features, is_missing

STORE_FORMAT = 1
SEGMENTS_AT_ONCE = 16
MAXIMUM_NUM_CATEGORIES = 256  # the most frequent; the others are unseen categories
SPECTROGRAM_SETTINGS = (
    *("spectrogram", "sampling_rate", "segment_seconds", "fft_size", "hop_size", "num_mel_bands"),
    *("minimum_hertz", "maximum_hertz", "power_floor"),
)


def open_fusion_store(
    source: SongSource, cache_dir: str | os.PathLike, config: Any, *, rereads: bool = False
) -> SongStore:
    """
    Open the songs of a source for training; the first time, decode them and compute their spectrograms.

    Args:
        source ([`SongSource`]), cache_dir (`str` or `os.PathLike`):
            The songs, and where they are kept decoded, under names that change with any song's audio and settings.
        config ([`SpectrogramFusionConfig`]):
            Front end and segments; with `branches` `"features"`, no audio is decoded.
        rereads (`bool`, defaults to `False`):
            Whether to read audio again whose files look unchanged.

    Returns:
        [`SongStore`]: with `segments` of shape `(num_segments, num_bands, num_frames)`, float32; empty ones
        where the model does not hear the songs.
    """
    if not config.has_audio:
        return _open_feature_table(source)
    extractor = ApexFeatureExtractor.from_config(config)
    waveforms = open_waveform_store(source, cache_dir, extractor, rereads=rereads, config=config)
    settings = {name: getattr(config, name) for name in SPECTROGRAM_SETTINGS}
    sha256 = hash_json({"format": STORE_FORMAT, "waveforms": waveforms.manifest_sha256, **settings})
    folder = Path(cache_dir) / f"spectrograms-{sha256[:16]}"

    def build(part: Path) -> None:
        for name, split in waveforms.splits.items():
            _write_spectrograms(part / f"{name}.npy", split, config)

    make_store(folder, build)
    splits = {
        name: replace(split, segments=np.load(folder / f"{name}.npy", mmap_mode="r"))
        for name, split in waveforms.splits.items()
    }
    return replace(waveforms, folder=folder, manifest_sha256=sha256, splits=splits)


def _write_spectrograms(path: Path, split: SongSplit, config: Any) -> None:
    num_frames = 1 + config.segment_num_samples // config.hop_size
    shape = (split.num_segments, config.num_bands, num_frames)
    if not split.num_segments:  # an empty file cannot be mapped
        np.save(path, np.zeros(shape, np.float32))
        return
    spectrograms = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, split.num_segments, SEGMENTS_AT_ONCE):
        rows = torch.from_numpy(np.asarray(split.segments[start : start + SEGMENTS_AT_ONCE], np.float32))
        spectrograms[start : start + len(rows)] = compute_log_spectrogram(rows, config).numpy()
    spectrograms.flush()


def _open_feature_table(source: SongSource) -> SongStore:
    """Return the songs with one empty segment each."""
    splits, labels = {}, SongLabels(source)
    for name, num_songs in source.splits.items():
        empty: Any = np.zeros((num_songs, 0, 0), np.float32)
        offsets = np.arange(num_songs + 1, dtype=np.int64)
        songs = labels.join(name, source.read_columns(name)["id"])
        lengths = np.ones(num_songs, np.int64)
        splits[name] = SongSplit(name, empty, offsets, np.zeros((num_songs, 0), np.float32), songs, lengths)
    manifest = {"ids_sha256": labels.ids_sha256}
    return SongStore(Path(source.name), manifest, labels.ids_sha256, labels.sha256, splits)


def build_feature_specs(split: SongSplit, leaking_features: str, target_column: str) -> list[dict[str, Any]]:
    """
    Describe the track features that the songs of a split have: `config.features` of a model that learns from them.

    Args:
        split ([`SongSplit`]):
            The training songs; statistics and categories come from them.
        leaking_features (`str`):
            `"drop"` leaves out what is computed from a track's success; `"keep"` does not.
        target_column (`str`):
            The column to predict, never a feature.

    Returns:
        `list[dict]`: in the order of `TRACK_FEATURES`. A feature that no song has, or whose value all songs share,
        teaches nothing and is left out.
    """
    specs: list[dict[str, Any]] = []
    for feature in TRACK_FEATURES:
        name = feature["name"]
        is_wanted = name != target_column and not (feature["is_leaking"] and leaking_features == "drop")
        known = [value for value in split.list_values(name) if not is_missing(value)] if is_wanted else []
        if len(set(known)) < 2:
            continue
        described = {"name": name, "kind": feature["kind"], "is_leaking": feature["is_leaking"]}
        if feature["kind"] == "categorical":
            names, counts = np.unique([str(value) for value in known], return_counts=True)
            frequent = np.argsort(-counts, kind="stable")[:MAXIMUM_NUM_CATEGORIES]
            specs.append({**described, "categories": sorted(str(names[index]) for index in frequent)})
            continue
        values = np.asarray(known, np.float64)
        values = np.log1p(values) if feature["transform"] == "log1p" else values
        statistics = {"mean": float(values.mean()), "std": float(values.std())}
        specs.append({**described, "transform": feature["transform"], **statistics})
    return specs


def build_feature_rows(split: SongSplit, features: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    """
    Encode the track features of all songs of a split.

    Returns:
        `np.ndarray` of shape `(num_songs, num_features)`, float32; NaN for what is missing, also where the dataset has
        no such column.
    """
    columns = {feature["name"]: split.list_values(feature["name"]) for feature in features}
    songs = ({name: values[song] for name, values in columns.items()} for song in range(split.num_songs))
    rows = np.array([encode_features(song, features) for song in songs], np.float32)
    return rows.reshape(split.num_songs, len(features))


def build_fusion_labels(split: SongSplit, target_column: str, hit_threshold: float) -> NDArray[np.float32]:
    """
    Collect popularity, and whether it reaches the threshold of a hit.

    Returns:
        `np.ndarray` of shape `(num_songs, 2)`, float32; NaN where a song has no popularity.

    Raises:
        `ValueError`: If the songs have no such column, or a popularity is outside 0 to 100.
    """
    if target_column not in split.songs.column_names:
        raise ValueError(
            f"the songs have no column `{target_column}` to predict; they have "
            f"{', '.join(split.songs.column_names)}. Name another by target_column."
        )
    popularity = split.build_labels([target_column])[:, 0]
    if np.any((popularity < 0) | (popularity > 100)):
        raise ValueError(f"`{target_column}` holds values outside 0 to 100, which is the range of popularity.")
    is_hit = np.where(np.isnan(popularity), np.nan, popularity >= hit_threshold)
    return np.stack([popularity, is_hit], axis=1).astype(np.float32)
