"""Stored spectrograms follow the audio of the songs, and their labels and features the dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_apex.corpus.song_source import ParquetSongSource, open_song_source
from modeling_apex.training.arguments import build_arguments
from modeling_apex.training.fusion.data import open_fusion_store
from modeling_apex.training.fusion.task import build_front_end_config

from song_folders import make_wav
from track_folders import SMALL, write_tracks


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    return write_tracks(tmp_path / "tracks", {"train": 6, "validation": 3})


def rewrite(tracks: Path, column: str, value: Any) -> None:
    path = tracks / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    columns = table.to_pydict()
    columns[column][2] = value
    pq.write_table(pa.table(columns, schema=table.schema), path)


def open_store(tracks: Path, branches: str = "fused") -> Any:
    arguments = build_arguments("fusion", segment_seconds=0.1, branches=branches)
    config = build_front_end_config(arguments, SMALL)
    return open_fusion_store(open_song_source(tracks), tracks.parent / "cache", config)


def test_spectrograms_follow_their_audio_and_not_their_labels(tracks: Path) -> None:
    before = open_store(tracks)
    rewrite(tracks, "popularity", 4.0)
    corrected = open_store(tracks)
    assert corrected.folder == before.folder
    assert corrected.get_split("train").list_values("popularity")[2] == 4.0
    assert corrected.dataset_sha256 != before.dataset_sha256
    rewrite(tracks, "audio", {"bytes": make_wav(77, 0.25), "path": None})
    after = open_store(tracks)
    assert after.manifest_sha256 != before.manifest_sha256
    assert after.dataset_sha256 == corrected.dataset_sha256
    old, new = (np.asarray(store.get_split("train").segments) for store in (before, after))
    assert not np.array_equal(old, new)


def test_features_alone_are_read_without_audio(tracks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ParquetSongSource, "iterate", lambda *_: pytest.fail("audio was read"))
    before = open_store(tracks, "features")
    rewrite(tracks, "tempo", 4.0)
    after = open_store(tracks, "features")
    assert after.get_split("train").list_values("tempo")[2] == 4.0
    assert after.dataset_sha256 != before.dataset_sha256
