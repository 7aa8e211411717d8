"""
The finished dataset on disk: prepared rows come in, a folder that `load_dataset` reads leaves.

The folder holds Parquet shards under `data/`, a dataset card whose `configs:` name the splits, and `manifest.json`
with row counts, hashes, options and versions. A shard is whole or absent, and the manifest is written last, so a
folder without one is unfinished; a build that is started again keeps the shards it finds and ends with the same bytes
as one that was never interrupted. Nothing in the folder depends on the time, the machine's paths or the number of
processes, but for the ledger of its sources (see `sources`), which stays on this machine.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm.auto import tqdm

from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.storage.output_lock import LOCK_NAME

WORKING_FOLDER = ".build"
MANIFEST_NAME = "manifest.json"
CARD_NAME = "README.md"
LEDGER_NAME = ".sources.jsonl"
# A row group is what a streaming reader fetches at once.
ROW_GROUP_BYTES = 32 * 1024**2
ROW_GROUP_ROWS = 1000
RECORDED_PACKAGES = ("datasets", "numpy", "pyarrow")


class EmptyDatasetError(ValueError):
    """Nothing is left to write; the message says why."""


class OutputFolderError(ValueError):
    """The output folder holds something else; the message says what to do."""


@dataclass
class PreparedSplit:
    """
    One split of a dataset, ready to be written.

    Args:
        path_prefix (`str`):
            Where its shards go, such as `"data/train"`.
        row_bytes (`np.ndarray` of shape `(num_rows,)`):
            About how many bytes each row takes; decides where shards are cut.
        iterate_tables (`Callable[[int, int], Iterator[pa.Table]]`):
            Gives the rows from a first to before a last.
    """

    path_prefix: str
    row_bytes: NDArray[np.int64]
    iterate_tables: Callable[[int, int], Iterator[pa.Table]]


@dataclass
class PreparedDataset:
    """
    What a builder hands over for writing.

    Args:
        builder (`str`):
            The builder's name.
        features (`datasets.Features`):
            The columns.
        configs (`dict[str, dict[str, str]]`):
            Config names to split names to the glob of their shards; the first config is the default.
        splits (`dict[str, PreparedSplit]`):
            What is written.
        options (`dict`):
            The builder's options, for the manifest; no paths of this machine.
        facts (`dict`):
            What the build counted, for the manifest.
        card (`Callable[[dict], str]`):
            Writes the card's text from the manifest.
        sources (`dict[str, str]`):
            A hash of the content of each source, for the manifest.
        digest (`str`):
            Changes whenever a row would.
    """

    builder: str
    features: datasets.Features
    configs: dict[str, dict[str, str]]
    splits: dict[str, PreparedSplit]
    options: dict[str, Any]
    facts: dict[str, Any]
    card: Callable[[dict[str, Any]], str]
    sources: dict[str, str]
    digest: str


@dataclass(frozen=True)
class _Shard:
    path: str
    split: PreparedSplit = field(repr=False)
    start: int
    stop: int


def open_output_folder(output: str | Path, *, options: Mapping[str, Any], overwrite: bool = False) -> Path | None:
    """
    Make an output folder ready for a build.

    Args:
        output (`str` or `Path`):
            The folder. It may be absent, empty, or hold an unfinished build.
        options (`Mapping`):
            The options of the build, compared with those of a finished one.
        overwrite (`bool`, defaults to `False`):
            Whether a finished build is removed first.

    Returns:
        `Path`: the folder for working files, or `None` when the same build is already finished there.

    Raises:
        [`OutputFolderError`]: If the folder holds another build, or files that are no build.
    """
    output = Path(os.path.expanduser(output))
    manifest_path, working_folder = output / MANIFEST_NAME, output / WORKING_FOLDER
    if manifest_path.is_file():
        finished = json.loads(manifest_path.read_text(encoding="utf-8"))
        if not overwrite:
            _refuse_other_build(output, finished.get("options", {}), options)
            shutil.rmtree(working_folder, ignore_errors=True)
            return None
        # First, so that the folder is known as ours if the removal is cut short.
        working_folder.mkdir(exist_ok=True)
        for name in (MANIFEST_NAME, CARD_NAME, LEDGER_NAME):
            (output / name).unlink(missing_ok=True)
        shutil.rmtree(output / "data", ignore_errors=True)
    elif output.is_dir() and not working_folder.is_dir() and {path.name for path in output.iterdir()} - {LOCK_NAME}:
        raise OutputFolderError(
            f"{output} is not empty and was not written by this command. Choose a new or empty folder."
        )
    working_folder.mkdir(parents=True, exist_ok=True)
    return working_folder


def write_parquet_folder(prepared: PreparedDataset, output: str | Path, *, max_shard_bytes: int) -> dict[str, Any]:
    """
    Write a prepared dataset, or what is still missing of it.

    Args:
        prepared ([`PreparedDataset`]):
            Its rows and facts.
        output (`str` or `Path`):
            A folder that [`open_output_folder`] made ready.
        max_shard_bytes (`int`):
            Where shards are cut, in bytes before compression.

    Returns:
        `dict`: the manifest, as written.

    Raises:
        [`EmptyDatasetError`]: If no split has rows.
        `ValueError`: If `max_shard_bytes` is not positive.
    """
    output = Path(os.path.expanduser(output))
    working_folder = output / WORKING_FOLDER
    shards = _plan_shards(prepared, max_shard_bytes)
    _forget_other_shards(output, working_folder, [prepared.digest, prepared.options, prepared.sources], shards)
    num_rows = sum(shard.stop - shard.start for shard in shards)
    with tqdm(total=num_rows, desc="Writing", unit="row") as progress:
        for shard in shards:
            if not (output / shard.path).is_file():
                _write_shard(shard, output, working_folder, prepared.features)
            progress.update(shard.stop - shard.start)
    manifest = _build_manifest(prepared, output, shards)
    write_atomically(output / CARD_NAME, prepared.card(manifest))
    (working_folder / LEDGER_NAME).replace(output / LEDGER_NAME)
    write_atomically(output / MANIFEST_NAME, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(working_folder)
    return manifest


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that it is whole or absent."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def _refuse_other_build(output: Path, finished: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(wanted))
    differing = sorted(name for name in {*finished, *wanted} if finished.get(name) != wanted.get(name))
    if differing:
        raise OutputFolderError(
            f"{output} holds a finished dataset that was built with other options ({', '.join(differing)}). "
            f"Choose another folder, or rebuild it with --overwrite."
        )


def _plan_shards(prepared: PreparedDataset, max_shard_bytes: int) -> list[_Shard]:
    if max_shard_bytes <= 0:
        raise ValueError(f"`max_shard_bytes` must be positive, got {max_shard_bytes}.")
    shards = []
    for split in prepared.splits.values():
        # A row goes to the shard in which its first byte falls.
        numbers = (np.cumsum(split.row_bytes) - split.row_bytes) // max_shard_bytes
        bounds = [*np.flatnonzero(np.diff(numbers, prepend=-1)).tolist(), len(numbers)]
        for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
            path = f"{split.path_prefix}-{number:05d}-of-{len(bounds) - 1:05d}.parquet"
            shards.append(_Shard(path, split, start, stop))
    if not shards:
        raise EmptyDatasetError("No split has any rows: nothing was written.")
    return shards


def _forget_other_shards(output: Path, working_folder: Path, identity: list[Any], shards: list[_Shard]) -> None:
    """Remove shards of an unfinished build whose rows or cuts were others."""
    plan = json.dumps([identity, *((shard.path, shard.start, shard.stop) for shard in shards)])
    plan_path = working_folder / "plan.json"
    if not plan_path.is_file() or plan_path.read_text(encoding="utf-8") != plan:
        shutil.rmtree(output / "data", ignore_errors=True)
        write_atomically(plan_path, plan)


def _write_shard(shard: _Shard, output: Path, working_folder: Path, features: datasets.Features) -> None:
    partial = working_folder / "shard.partial"
    schema = features.arrow_schema
    audio_columns = [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
    # Encoded audio does not get smaller, and a dictionary of it would only cost memory.
    plain = {f"{name}.{child}" for name in audio_columns for child in ("bytes", "path")}
    compression = dict.fromkeys(_list_leaves(schema), "zstd") | dict.fromkeys(plain, "NONE")
    dictionary = [name for name in _list_leaves(schema) if name not in plain]
    with open(partial, "wb") as stream:
        with pq.ParquetWriter(
            stream, schema, compression=compression, use_dictionary=dictionary, write_statistics=dictionary
        ) as writer:
            for group in _gather_row_groups(shard.split.iterate_tables(shard.start, shard.stop)):
                writer.write_table(group, row_group_size=group.num_rows)
        stream.flush()
        os.fsync(stream.fileno())
    target = output / shard.path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)


def _gather_row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    gathered: list[pa.Table] = []
    for table in tables:
        gathered.append(table)
        num_rows = sum(part.num_rows for part in gathered)
        if num_rows >= ROW_GROUP_ROWS or sum(part.nbytes for part in gathered) >= ROW_GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered = []
    if gathered:
        yield pa.concat_tables(gathered)


def _list_leaves(schema: pa.Schema) -> list[str]:
    leaves = []
    for column in schema:
        children = [column.type.field(index) for index in range(column.type.num_fields)]
        leaves += [f"{column.name}.{child.name}" for child in children] or [column.name]
    return leaves


def _describe_shard(shard: _Shard, output: Path) -> dict[str, Any]:
    path = output / shard.path
    num_rows, num_bytes = shard.stop - shard.start, path.stat().st_size
    return {"path": shard.path, "num_rows": num_rows, "num_bytes": num_bytes, "sha256": compute_file_hash(path)}


def _build_manifest(prepared: PreparedDataset, output: Path, shards: list[_Shard]) -> dict[str, Any]:
    described = {
        name: [_describe_shard(shard, output) for shard in shards if shard.split is split]
        for name, split in prepared.splits.items()
    }
    splits = {
        name: {"num_rows": sum(entry["num_rows"] for entry in entries), "shards": entries}
        for name, entries in described.items()
    }
    hashes = [entry["sha256"] for entries in described.values() for entry in entries]
    return {
        "format_version": 1,
        "builder": prepared.builder,
        "options": prepared.options,
        "sources": prepared.sources,
        **prepared.facts,
        "configs": prepared.configs,
        "columns": list(prepared.features),
        "splits": splits,
        "sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        "versions": {"apex-music": _read_own_version()} | {name: version(name) for name in RECORDED_PACKAGES},
    }


def _read_own_version() -> str:
    from modeling_apex import __version__

    return __version__
