"""
A corpus of songs on its way to a dataset: scanned songs come in, filtered, ranked, split rows leave.

Three steps. *Examine*: the audio of the songs that are still in is decoded once (resumable, in parallel), unless a
split would be empty, which is known before. *Plan*: filters, percentiles, splits and the leakage check, on numbers in
memory. *Read*: rows of one split, with their audio, as Arrow tables of bounded size.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets_scripts.audio_examination import examine_songs
from datasets_scripts.audio_fingerprint import cluster_fingerprints
from datasets_scripts.parquet_folder import EmptyDatasetError
from datasets_scripts.song_scan import ScannedSongs, compute_audio_key
from datasets_scripts.sources import raise_changed
from datasets_scripts.splits import (
    NO_KEY,
    SPLIT_NAMES,
    Links,
    build_splits,
    check_split_leakage,
    check_split_sizes,
    compute_quota_codes,
    compute_split_balance,
    compute_split_codes,
    find_common,
)
from datasets_scripts.targets import compute_percentile_ranks, compute_popularity_scores
from modeling_apex.checkpoints.hub_files import compute_file_hash

logger = logging.getLogger(__name__)

# A table that is read from disk holds about this many bytes of audio.
TABLE_AUDIO_BYTES = 32 * 1024**2
# Size of a row without its audio, for cutting shards.
ROW_BYTES = 500
MAX_NAMED_SONGS = 100

# A song of a split, ready to be written.
PLANNED_SONG = np.dtype([("row", "<i8"), ("group", "<u8"), ("scores", "<f4", (2,)), ("num_bytes", "<i8")])


class SongCorpus:
    """
    Examine, filter, rank and split songs, then read them back split by split.

    Args:
        scanned ([`ScannedSongs`]):
            The songs, with their audio identified. Its numbers are used up.
        working_folder (`Path`):
            A folder for working files. What an earlier, killed run left there is used again.

    Raises:
        `ValueError`: If an audio file changes meanwhile.
        [`EmptyDatasetError`]: If no song is left.
        [`EmptySplitError`]: If no song is left for a split that was asked for.
    """

    def __init__(self, scanned: ScannedSongs, working_folder: Path):
        self.options, self.features = scanned.options, scanned.features
        self.num_records, self.num_dropped = scanned.num_records, scanned.num_dropped
        self.corrupt_songs: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self.common_prompts = {"num_prompts": 0, "num_songs": 0}
        self._scanned = scanned
        self._foresee_splits()
        self._audio = examine_songs(scanned, working_folder)
        self._filter_by_audio()
        self._plan()

    def get_row_bytes(self, split: str) -> NDArray[np.int64]:
        """Return about how many bytes every row of a split takes when it is stored."""
        return self._splits[split]["num_bytes"]

    def iterate_tables(self, split: str, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
        """
        Read consecutive rows of a split, in tables of bounded size.

        Args:
            split (`str`):
                One of `SPLIT_NAMES`.
            start (`int`, defaults to 0):
                First row.
            stop (`int`, *optional*):
                Row before which to stop. Defaults to the end.

        Returns:
            `Iterator[pa.Table]`: tables with the columns and the schema of `features`.
        """
        songs = self._splits[split]
        done = start
        for scanned in self._scanned.table.iterate_rows(songs["row"][start:stop]):
            planned = songs[done : done + scanned.num_rows]
            done += scanned.num_rows
            for first, last in _cut_by_bytes(planned["num_bytes"] - ROW_BYTES):
                yield self._complete(scanned.slice(first, last - first), planned[first:last])

    def compute_digest(self) -> str:
        """Return a hash that changes whenever a row of the result would."""
        digest = hashlib.sha256(bytes.fromhex(compute_file_hash(self._scanned.table.path)))
        for column in (*self._splits.values(), self._audio.sha256):
            digest.update(column.data)
        return digest.hexdigest()

    def _filter_by_audio(self) -> None:
        if not self.options.needs_audio:
            return
        scanned, audio = self._scanned, self._audio
        is_corrupt = scanned.is_kept & audio.has_file & ~audio.is_sound
        for row in np.flatnonzero(is_corrupt)[:MAX_NAMED_SONGS].tolist():
            self.corrupt_songs.append({"id": scanned.name_song(row), "reason": audio.errors[row]})
        scanned.drop("without audio file", ~audio.has_file)
        scanned.drop("corrupt audio", ~audio.is_sound & ~audio.is_cut)
        scanned.drop("cut or damaged audio", audio.is_cut)
        scanned.drop("duplicate audio", scanned.find_repeated(audio.sha256))

    def _foresee_splits(self) -> None:
        """Name splits that will be empty or tiny before the audio is decoded, which may take hours."""
        scanned = self._scanned
        is_kept = scanned.is_kept & (scanned.audio_keys != 0) if self.options.needs_audio else scanned.is_kept
        rows = np.flatnonzero(is_kept)
        if not len(rows) or not self.options.needs_audio:
            return
        songs = {name: numbers[rows] for name, numbers in scanned.numbers.items()}
        _, group_keys = self._compute_group_keys(songs)
        codes = self._divide(songs, group_keys, self._rank(songs["plays"], songs["platform"]))
        self._check_sizes(codes, group_keys)

    def _check_sizes(self, codes: NDArray[np.int8], group_keys: NDArray[np.uint64]) -> None:
        known, options = self.warnings, self.options
        num_groups = len(np.unique(group_keys))
        self.warnings = check_split_sizes(
            codes, options.split_ratios, num_groups=num_groups, group_by=options.group_by
        )
        for warning in self.warnings:
            if warning not in known:
                logger.warning(warning)

    def _plan(self) -> None:
        rows = np.flatnonzero(self._scanned.is_kept)
        if not len(rows):
            dropped = ", ".join(f"{count} {reason}" for reason, count in self.num_dropped.items() if count)
            raise EmptyDatasetError(
                f"No song is left of {self.num_records} ({dropped or 'the source is empty'}). "
                f"Check the source, its columns and the filters."
            )
        # Whole columns give way to those of the songs that are left, one by one: there are millions of rows.
        numbers = self._scanned.numbers
        songs = {name: numbers.pop(name)[rows] for name in list(numbers)}
        percentiles = [self._rank(songs.pop(name), songs["platform"]) for name in ("plays", "likes")]
        prompts, group_keys = self._compute_group_keys(songs)
        codes = self._split(rows, songs | {"prompt": prompts}, group_keys, percentiles[0])
        self._check_sizes(codes, group_keys)
        self.balance = []
        if self.options.needs_popularity:
            self.balance = compute_split_balance(codes, songs["platform"], percentiles[0])
            for entry in self.balance:
                entry["platform"] = self._scanned.platforms[int(entry["platform"])]
        self._splits = {}
        for code, name in enumerate(SPLIT_NAMES):
            chosen = np.flatnonzero(codes == code)
            planned = np.empty(len(chosen), PLANNED_SONG)
            planned["row"], planned["group"] = rows[chosen], group_keys[chosen]
            for column, ranks in enumerate(percentiles):
                known = ranks[chosen]
                planned["scores"][:, column] = (
                    compute_popularity_scores(known) if self.options.needs_popularity else known
                )
            planned["num_bytes"] = ROW_BYTES
            if self.options.needs_audio and self.options.embeds_audio:
                planned["num_bytes"] += self._audio.num_bytes[planned["row"]]
            self._splits[name] = planned
        self.num_songs = {name: len(planned) for name, planned in self._splits.items()}

    def _rank(self, counts: NDArray[np.int64], platforms: NDArray[np.uint16]) -> NDArray[np.float64]:
        if self.options.needs_popularity:
            return compute_percentile_ranks(counts, platforms)
        # Songs without counts have no place among the others.
        return np.full(len(counts), np.nan)

    def _compute_group_keys(self, songs: Mapping[str, NDArray]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return the prompts, without those that link nothing because many share them, and the groups."""
        is_common = find_common(songs["prompt"], songs["creator"])
        self.common_prompts = {
            "num_prompts": len(np.unique(songs["prompt"][is_common])),
            "num_songs": int(is_common.sum()),
        }
        songs = {**songs, "prompt": np.where(is_common, np.uint64(NO_KEY), songs["prompt"])}
        keys = songs["id"]
        for name in ("prompt", "creator"):
            if name in self.options.group_by:
                keys = np.where(songs[name] != NO_KEY, songs[name], keys)
        return songs["prompt"], keys

    def _divide(
        self, songs: Mapping[str, NDArray], group_keys: NDArray[np.uint64], percentiles: NDArray[np.float64]
    ) -> NDArray[np.int8]:
        options = self.options
        if options.split_method == "hash":
            return compute_split_codes(group_keys, seed=options.seed, ratios=options.split_ratios)
        # Songs without counts have no popularity to balance: they are one band.
        known, platforms = np.nan_to_num(percentiles), songs["platform"]
        return compute_quota_codes(group_keys, platforms, known, seed=options.seed, ratios=options.split_ratios)

    def _split(
        self,
        rows: NDArray[np.int64],
        songs: Mapping[str, NDArray],
        group_keys: NDArray[np.uint64],
        percentiles: NDArray[np.float64],
    ) -> NDArray[np.int8]:
        options = self.options
        keys: dict[str, Links] = {"prompt": songs["prompt"]}
        keys["creator"] = self._scanned.link_creators(rows, songs["creator"])
        if options.needs_audio:
            keys["audio"] = self._cluster_audio(rows)
        grouping = {name: keys[name] for name in options.group_by if name in keys}
        # Songs of one creator share a split because the creator is their group; the rest has to be seen to.
        linked = {name: link for name, link in grouping.items() if name != "creator" or isinstance(link, tuple)}
        assignment = build_splits(self._divide(songs, group_keys, percentiles), linked)
        check_split_leakage(
            assignment.split_codes, grouping, name_song=lambda position: self._scanned.name_song(int(rows[position]))
        )
        for name, count in assignment.num_left_out.items():
            self.num_dropped[f"{name} shared with another split"] = count
        return assignment.split_codes

    def _cluster_audio(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        fingerprinted = rows[self._audio.has_fingerprint[rows]]
        # A song that is like no other carries its own key, so it links nothing.
        keys = np.zeros(self.num_records, dtype=np.uint64)
        clusters = cluster_fingerprints(self._audio.fingerprint[fingerprinted])
        keys[fingerprinted] = fingerprinted[clusters] + 1
        return keys[rows]

    def _complete(self, scanned: pa.Table, planned: NDArray) -> pa.Table:
        columns: dict[str, Any] = {name: scanned[name] for name in scanned.column_names}
        paths = columns.pop("audio_path").to_pylist()
        columns["audio"] = [
            self._read_audio(path, row) for path, row in zip(paths, planned["row"].tolist(), strict=True)
        ]
        columns["group"] = [f"{key:016x}" for key in planned["group"]]
        for name, scores in zip(("score_streams", "score_likes"), planned["scores"].T, strict=True):
            columns[name] = pa.array(np.ascontiguousarray(scores), from_pandas=True)
        if self.options.needs_audio:
            columns["duration"] = pa.array(self._audio.duration[planned["row"]])
        schema = self.features.arrow_schema
        arrays = [_cast(columns[column.name], column.type) for column in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _read_audio(self, path: str | None, row: int) -> dict[str, Any] | None:
        if not self.options.needs_audio or path is None:
            return None
        if not self.options.embeds_audio:
            return {"bytes": None, "path": path}
        data = Path(path).read_bytes()
        if compute_audio_key(path, hashlib.sha256(data).hexdigest()) != self._scanned.audio_keys[row]:
            raise_changed(path)
        return {"bytes": data, "path": Path(path).name}


def _cut_by_bytes(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut the rows of a table so that the audio of each part stays small."""
    first, total = 0, 0
    for position, size in enumerate(sizes.tolist()):
        if position > first and total + size > TABLE_AUDIO_BYTES:
            yield first, position
            first, total = position, 0
        total += size
    yield first, len(sizes)


def _cast(column: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return column.cast(kind) if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column, type=kind)
