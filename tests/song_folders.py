"""Small dataset folders in the layout of datasets_scripts, and folders of embeddings without any audio."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from modeling_apex.corpus.embed import SHARD_METADATA
from modeling_apex.inference.heads_apex import DEFAULT_HEADS

HEAD_NAMES = [str(head["name"]) for head in DEFAULT_HEADS]
RATE = 24_000


def make_wav(seed: int, seconds: float) -> bytes:
    """A short noise with a tone, as a 16-bit wav file."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    waveform = 0.3 * np.sin(2 * np.pi * generator.uniform(200, 2000) * time) + 0.05 * generator.normal(size=len(time))
    file = io.BytesIO()
    soundfile.write(file, waveform.astype(np.float32), RATE, format="WAV")
    return file.getvalue()


def make_labels(num_songs: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    labels = {}
    for head in DEFAULT_HEADS:
        span = head["maximum"] - head["minimum"]
        labels[str(head["name"])] = (head["minimum"] + span * generator.uniform(0.05, 0.95, num_songs)).astype(
            np.float32
        )
    return labels


def write_dataset(folder: Path, sizes: Mapping[str, int], *, broken: tuple[str, ...] = ()) -> Path:
    """Write `data/<split>-00000-of-00001.parquet` with embedded audio of one to three 0.1 s segments a song."""
    (folder / "data").mkdir(parents=True)
    number = 0
    for split, size in sizes.items():
        ids = [f"{split}-song-{index}" for index in range(size)]
        audio = []
        for song_id in ids:
            sound = b"not audio at all" if song_id in broken else make_wav(number, 0.05 + 0.1 * (number % 3))
            audio.append({"bytes": sound, "path": f"{song_id}.wav"})
            number += 1
        labels = make_labels(size, np.random.default_rng(number))
        columns = {
            "id": ids,
            "audio": audio,
            "platform": ["suno" if index % 2 else "udio" for index in range(size)],
            "creator": [f"{split}-creator-{index // 2}" for index in range(size)],
            "prompt": ["a song about rain"] * size,
            "group": [f"{split}-group-{index // 2}" for index in range(size)],
            "play_count": list(range(size)),
            **labels,
        }
        pq.write_table(pa.table(columns), folder / "data" / f"{split}-00000-of-00001.parquet", row_group_size=4)
    return folder


def write_embeddings(
    folder: Path,
    sizes: Mapping[str, int],
    identity: Mapping[str, object],
    *,
    model: str = "tiny",
    max_segments: int = 3,
    noise: float = 0.1,
    seed: int = 0,
    labels: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    groups: Mapping[str, list[str | None]] | None = None,
) -> Path:
    """Write a finished folder of embeddings whose labels follow from them, so that there is something to learn."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    width = int(identity["hidden_size"])  # type: ignore[call-overload]
    directions = np.random.default_rng(99).normal(size=(width, len(HEAD_NAMES))) / np.sqrt(width)
    totals = {"num_songs": 0, "num_segments": 0}
    for split, size in sizes.items():
        counts = generator.integers(1, max_segments + 1, size)
        means = generator.normal(size=(size, width))
        rows = np.repeat(means, counts, axis=0) + 0.1 * generator.normal(size=(counts.sum(), width))
        hidden = means @ directions + noise * generator.normal(size=(size, len(HEAD_NAMES)))
        made = {}
        for column, head in enumerate(DEFAULT_HEADS):
            share = 1 / (1 + np.exp(-1.5 * hidden[:, column]))
            made[str(head["name"])] = head["minimum"] + share * (head["maximum"] - head["minimum"])
        made |= dict((labels or {}).get(split, {}))
        of_song = np.repeat(np.arange(size), counts)
        group = (groups or {}).get(split, [f"{split}-{index}" for index in range(size)])
        table = {
            "id": [f"{split}-{index}" for index in of_song],
            "segment_index": pa.array([index for count in counts for index in range(count)], pa.int32()),
            "num_real_samples": pa.array(np.full(len(of_song), 2400)),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).reshape(-1)), width),
            "platform": [("suno", "udio")[index % 2] for index in of_song],
            "group": [group[index] for index in of_song],
            **{name: pa.array(values[of_song].astype(np.float32)) for name, values in made.items()},
        }
        facts = {"identity": dict(identity), "block": {}, "failures": []}
        metadata = {SHARD_METADATA: json.dumps(facts)}
        pq.write_table(pa.table(table).replace_schema_metadata(metadata), folder / f"{split}-00000.parquet")
        totals["num_songs"] += size
        totals["num_segments"] += len(of_song)
    manifest = {
        "model": model,
        "identity": dict(identity),
        "source": {"name": "made", "splits": dict(sizes), "ids_sha256": str(seed)},
        "songs_per_shard": 10**6,
        "code_version": "0",
        **totals,
        "num_failures": 0,
        "is_complete": True,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
