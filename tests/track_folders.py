"""Small dataset folders of tracks: songs with popularity and track features, in the layout of datasets_scripts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from song_folders import make_wav

GENRES = ("folk", "pop", "rock")
SMALL: dict[str, Any] = {
    "segment_seconds": 0.1,
    "fft_size": 256,
    "hop_size": 120,
    "num_mel_bands": 16,
    "channels": [8, 8],
    "hidden_size": 8,
    "feature_dims": [16, 8],
    "category_size": 3,
    "fusion_size": 8,
}


def write_tracks(folder: Path, sizes: Mapping[str, int], *, broken: tuple[str, ...] = (), **columns: Any) -> Path:
    """Write songs of one to three 0.1 s segments whose popularity follows genre and tempo, and leaks into plays."""
    (folder / "data").mkdir(parents=True)
    number = 0
    for split, size in sizes.items():
        generator = np.random.default_rng(len(split))
        genres = generator.integers(0, len(GENRES), size)
        tempos = generator.uniform(60, 180, size)
        popularity = np.clip(20 + 20 * genres + 0.2 * (tempos - 120) + 3 * generator.standard_normal(size), 0, 100)
        ids = [f"{split}-track-{index}" for index in range(size)]
        audio = []
        for track in ids:
            sound = b"not audio at all" if track in broken else make_wav(number, 0.05 + 0.1 * (number % 3))
            audio.append({"bytes": sound, "path": f"{track}.wav"})
            number += 1
        table = {
            "id": ids,
            "audio": audio,
            "platform": ["spotify"] * size,
            "creator": [f"{split}-artist-{index // 2}" for index in range(size)],
            "group": [f"{split}-artist-{index // 2}" for index in range(size)],
            "popularity": pa.array(popularity.round(), pa.float32()),
            "genre": [GENRES[genre] if index % 9 else None for index, genre in enumerate(genres)],
            "tempo": pa.array(tempos.round(1), pa.float32()),
            "mode": pa.array([1.0] * size, pa.float32()),
            "play_count": pa.array((10 ** (popularity / 20)).astype(int), pa.int64()),
            **{name: values[:size] for name, values in columns.items()},
        }
        pq.write_table(pa.table(table), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder
