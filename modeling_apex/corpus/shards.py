"""
Shards: the segment embeddings of consecutive songs as one Parquet file, one row a segment.

What comes in are encoded songs; what leaves is a file that appears whole or not at all, and that says of itself which
model made it, what the audio of each of its songs was, and which songs failed. It holds no labels.
"""

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_apex.inference.report_apex import format_count
from modeling_apex.storage.file_names import check_file_name
from modeling_apex.storage.output_folder import replace_file

SHARD_METADATA = b"apex"
FACTS = {"identity": dict, "block": dict, "failures": list}


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
    """
    Cut the songs of each split, so many, into blocks.

    Raises:
        `ValueError`: If a split has a name from which no file's can be made.
    """
    return [
        Block(check_file_name(split, "the split"), number, start, min(start + songs_per_shard, num_songs))
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
    # Floats do not repeat: a dictionary of them would only cost time.
    dictionary = [name for name in arrays if name != "embedding"]
    options: dict[str, Any] = {"compression": "lz4", "use_dictionary": dictionary}
    with replace_file(path) as file, pq.ParquetWriter(file, table.schema, **options) as writer:
        if table.num_rows:  # `datasets` cannot read a group without rows
            writer.write_table(table)


def read_shard_facts(path: Path) -> dict[str, Any]:
    """
    Read what a shard says about itself: `identity`, `block`, `failures`, and since version 0.2 `audio`.

    Raises:
        `ValueError`: If the file is damaged, or not a shard of embeddings.
    """
    with _name_damage(path):
        metadata = pq.read_schema(path).metadata or {}
    if SHARD_METADATA not in metadata:
        raise ValueError(f"{path}: not a shard of embeddings; remove it from the folder.")
    with _name_damage(path):
        facts: dict[str, Any] = json.loads(metadata[SHARD_METADATA])
        if wrong := [name for name, kind in FACTS.items() if not isinstance(facts.get(name), kind)]:
            raise ValueError(f"it lacks {', '.join(wrong)}")
    return facts


def count_segments(path: Path) -> int:
    """Return how many rows a shard has; errors are those of `read_shard`."""
    with _name_damage(path):
        return int(pq.read_metadata(path).num_rows)


def list_songs(path: Path, facts: Mapping[str, Any]) -> dict[str, str | None]:
    """
    Return the ids of the songs of a shard, in order, those that failed among them, with the content of their audio.

    Args:
        path (`Path`), facts (`Mapping`):
            The shard, and what it says about itself. Those of version 0.1 do not tell the content, and not where
            between the others a song stood that failed.

    Raises:
        `ValueError`: If the shard holds other songs than it tells of.
    """
    with _name_damage(path):
        stored = pq.read_table(path, columns=["id"])["id"].to_pylist()
        found = dict.fromkeys([*stored, *(failure["id"] for failure in facts["failures"])])
        contents = dict(facts["audio"]) if "audio" in facts else found
        if set(contents) != set(found):
            raise ValueError("the songs that it lists are not those that it holds")
    return contents


def read_shard(path: Path, width: int) -> pa.Table:
    """
    Read the rows of a shard: `id`, `segment_index`, `num_real_samples` and `embedding`.

    Args:
        path (`Path`):
            The shard. Those of version 0.1 hold labels too: old ones, perhaps.
        width (`int`):
            Numbers in an embedding.

    Raises:
        `ValueError`: If the file is damaged.
    """
    with _name_damage(path):
        table = pq.read_table(path, columns=["id", "segment_index", "num_real_samples", "embedding"])
        kind = table.schema.field("embedding").type
        if not pa.types.is_fixed_size_list(kind) or (kind.list_size, kind.value_type) != (width, pa.float32()):
            raise ValueError(f"its embeddings are of the type {kind} and not {width} numbers of float32")
        if table.num_rows and table["segment_index"][0].as_py() != 0:
            raise ValueError("it begins within a song")
        return table


@contextmanager
def _name_damage(path: Path) -> Iterator[None]:
    """Name the shard in what a library says about a damaged one, and say how to make it anew."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())  # a library may say it in several lines
        raise ValueError(
            f"{path}: damaged ({reason}). Delete it, then make it again: apex-music embed DATASET "
            f"--output {path.parent}"
        ) from error


def list_shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split, in order."""
    return sorted(folder.glob(f"{glob.escape(split)}-[0-9][0-9][0-9][0-9][0-9].parquet"))


def list_all_shards(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[Path]]:
    """
    Return the shards of each split that a manifest tells of, in order.

    Raises:
        `ValueError`: If one is missing.
    """
    shards = {split: list_shards(folder, split) for split in manifest["source"]["splits"]}
    for split, num_songs in manifest["source"]["splits"].items():
        expected = -(-num_songs // manifest["songs_per_shard"])
        if len(shards[split]) != expected:
            raise ValueError(
                f"{folder}: its manifest lists {format_count(expected, 'shard')} of {split!r}, and there are "
                f"{len(shards[split])}. Make the others with the same command as before: "
                f"apex-music embed DATASET --output {folder}"
            )
    return shards
