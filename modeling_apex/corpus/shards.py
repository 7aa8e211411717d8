"""
Shards: the segment embeddings of consecutive songs as one Parquet file, one row a segment.

What comes in are encoded songs; what leaves is a file that appears whole or not at all, and that says of itself which
model made it, what the audio of each of its songs was, and which songs failed. It holds no labels.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SHARD_METADATA = b"apex"


@dataclass(frozen=True)
class Block:
    """Consecutive songs of one split: the work behind one shard."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"

    def get_shard(self, folder: Path) -> Path:
        """Return the file of the shard."""
        return folder / f"{self.name}.parquet"

    def get_record(self, folder: Path) -> Path:
        """Return the file that says by what the audio of the songs is known to be unchanged."""
        return folder / f"{self.name}.audio.json"


def plan_blocks(splits: Mapping[str, int], songs_per_shard: int) -> list[Block]:
    """Cut the songs of each split, so many, into blocks."""
    return [
        Block(split, number, start, min(start + songs_per_shard, num_songs))
        for split, num_songs in splits.items()
        for number, start in enumerate(range(0, num_songs, songs_per_shard))
    ]


def save_shard(
    path: Path, songs: Sequence[Mapping[str, Any]], block: Block, identity: Mapping[str, Any], audio: list[list[str]]
) -> None:
    """
    Write a shard under another name, flush it to the disk, and only then give it its name.

    Args:
        path (`Path`):
            The shard.
        songs (`Sequence[Mapping]`):
            All songs of the block, in order: `id`, `num_real_samples` of each segment, `embeddings`
            `(num_segments, hidden_size)`, and `error`; those that have one are listed as failures.
        block ([`Block`]), identity (`Mapping`), audio (`list`):
            What the shard says about itself: which songs, made by what, and id and content of each song's audio.
    """
    good = [song for song in songs if song["error"] is None]
    counts = [len(song["embeddings"]) for song in good]
    width = identity["hidden_size"]
    flat = np.concatenate([np.zeros((0, width), np.float32), *(song["embeddings"] for song in good)])
    arrays: dict[str, pa.Array] = {
        "id": pa.array(np.repeat([song["id"] for song in good], counts).tolist(), pa.string()),
        "segment_index": pa.array([index for count in counts for index in range(count)], pa.int32()),
        "num_real_samples": pa.array([number for song in good for number in song["num_real_samples"]], pa.int64()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1), pa.float32()), width),
    }
    bad = [song for song in songs if song["error"] is not None]
    failures = [{"split": block.split, "id": song["id"], "error": song["error"]} for song in bad]
    facts = {"identity": identity, "block": asdict(block), "failures": failures, "audio": audio}
    table = pa.table(arrays).replace_schema_metadata({SHARD_METADATA: json.dumps(facts)})
    part = path.with_name(f"{path.name}.{os.getpid()}.writing")
    # Floats do not repeat: a dictionary of them would only cost time.
    dictionary = [name for name in arrays if name != "embedding"]
    try:
        with open(part, "wb") as file:
            pq.write_table(table, file, compression="lz4", use_dictionary=dictionary)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)  # a full disk is not helped by half a shard
        raise


def read_shard_facts(path: Path) -> dict[str, Any]:
    """
    Read what a shard says about itself: `identity`, `block`, `failures`, and since version 0.2 `audio`.

    Raises:
        `ValueError`: If the file is not a shard of embeddings.
    """
    metadata = pq.read_schema(path).metadata or {}
    if SHARD_METADATA not in metadata:
        raise ValueError(f"{path}: not a shard of embeddings; remove it from the folder.")
    facts: dict[str, Any] = json.loads(metadata[SHARD_METADATA])
    return facts


def list_shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split, in order."""
    return sorted(folder.glob(f"{split}-[0-9][0-9][0-9][0-9][0-9].parquet"))
