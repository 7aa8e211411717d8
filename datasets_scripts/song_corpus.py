"""
A corpus of songs on its way to a dataset: records of any source come in, filtered, ranked, split rows leave.

Four steps, each in memory that does not grow with the text or the audio of the corpus. *Scan*: every record goes to
a working table on disk; what ranking, filtering and splitting need stays as a few numbers per song. *Examine*: the
audio of the songs that are still in is decoded once (resumable, in parallel). *Plan*: filters, percentiles, splits and
the leakage check, on the numbers. *Read*: rows of one split, with their audio, as Arrow tables.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets_scripts.audio_examination import examine_songs
from datasets_scripts.audio_files import hash_file
from datasets_scripts.audio_fingerprint import cluster_fingerprints
from datasets_scripts.parquet_folder import EmptyDatasetError
from datasets_scripts.song_record import CorpusOptions, SongRecord, build_working_row
from datasets_scripts.song_schema import build_song_features
from datasets_scripts.splits import (
    NO_KEY,
    SPLIT_NAMES,
    build_splits,
    check_split_leakage,
    compute_exact_key,
    compute_key,
    compute_quota_codes,
    compute_split_balance,
    compute_split_codes,
)
from datasets_scripts.targets import compute_percentile_ranks, compute_popularity_scores
from datasets_scripts.working_files import WorkingTable, WorkingTableWriter

UNKNOWN_COUNT = -1
UNKNOWN_TIME = np.iinfo(np.int64).min
# A table that is read from disk holds about this many bytes of audio.
TABLE_AUDIO_BYTES = 32 * 1024**2
# Size of a row without its audio, for cutting shards.
ROW_BYTES = 500
MAX_NAMED_SONGS = 100
COMPUTED_COLUMNS = ("audio", "group", "score_streams", "score_likes")


class SongCorpus:
    """
    Scan, examine, filter, rank and split songs, then read them back split by split.

    Args:
        records (`Iterable[SongRecord]`):
            The songs, streamed once.
        options ([`CorpusOptions`]):
            What to keep and how to divide it.
        working_folder (`Path`):
            A folder for working files. What an earlier, killed run left there is used again.
        extra_columns (`Mapping[str, datasets.Value]`, *optional*):
            Columns beyond the shared ones, filled from `SongRecord.extras`.

    Raises:
        `ValueError`: If an id occurs twice and `refuses_duplicate_ids`.
        [`EmptyDatasetError`]: If no song is left.
    """

    def __init__(
        self,
        records: Iterable[SongRecord],
        options: CorpusOptions,
        working_folder: Path,
        *,
        extra_columns: Mapping[str, datasets.Value] | None = None,
    ):
        self.options = options
        self.features = build_song_features(extra_columns)
        self._folder = working_folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self.num_dropped: dict[str, int] = {}
        self.corrupt_songs: list[dict[str, str]] = []
        self._scan(records)
        self._is_kept = np.ones(self.num_records, dtype=bool)
        self._filter_by_metadata()
        self._audio = examine_songs(
            self._table, np.flatnonzero(self._is_kept), self.num_records, self._folder, options
        )
        self._filter_by_audio()
        self._plan()

    def get_indices(self, split: str) -> NDArray[np.int64]:
        """Return the rows of a split, as row numbers of the scanned corpus."""
        return self._kept_rows[self.assignment.get_indices(split)]

    def get_row_bytes(self, split: str) -> NDArray[np.int64]:
        """Return about how many bytes every row of a split takes when it is stored."""
        indices = self.get_indices(split)
        embedded = self._audio.num_bytes[indices] if self._stores_audio_bytes else 0
        return np.full(len(indices), ROW_BYTES, dtype=np.int64) + embedded

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
        indices = self.get_indices(split)[start:stop]
        done = 0
        for scanned in self._table.iterate_rows(indices):
            rows = indices[done : done + scanned.num_rows]
            done += scanned.num_rows
            for first, last in self._cut_by_audio_bytes(rows):
                yield self._complete(scanned.slice(first, last - first), rows[first:last])

    def compute_digest(self) -> str:
        """Return a hash that changes whenever a row of the result would."""
        digest = hashlib.sha256(hash_file(self._table.path))
        for numbers in (self._kept_rows, self.assignment.split_codes, self._audio.sha256, self._scores):
            digest.update(np.ascontiguousarray(numbers).data)
        return digest.hexdigest()

    @property
    def _stores_audio_bytes(self) -> bool:
        return self.options.needs_audio and self.options.embeds_audio

    def _scan(self, records: Iterable[SongRecord]) -> None:
        shared = {name: feature for name, feature in self.features.items() if name not in COMPUTED_COLUMNS}
        schema = datasets.Features({**shared, "audio_path": datasets.Value("string")}).arrow_schema
        path = self._folder / "songs.arrow"
        writer = WorkingTableWriter(path, schema)
        plays, likes, created, platform_codes = array("q"), array("q"), array("q"), array("H")
        keys: dict[str, array] = {name: array("Q") for name in ("id", "creator", "prompt")}
        platform_names: dict[str, int] = {}
        for record in records:
            writer.append(build_working_row(record))
            plays.append(UNKNOWN_COUNT if record.play_count is None else record.play_count)
            likes.append(UNKNOWN_COUNT if record.like_count is None else record.like_count)
            created.append(UNKNOWN_TIME if record.created_at is None else round(record.created_at.timestamp()))
            platform_codes.append(platform_names.setdefault(record.platform, len(platform_names)))
            keys["id"].append(compute_exact_key(record.id))
            # A creator's name means something on their platform; a prompt is the same text everywhere.
            keys["creator"].append(compute_key(record.platform, record.creator))
            keys["prompt"].append(compute_key(record.prompt))
        writer.close()
        self.num_records = len(plays)
        self._table = WorkingTable(path)
        self._plays, self._likes, self._created = (_as_array(column, np.int64) for column in (plays, likes, created))
        self._platform_codes = _as_array(platform_codes, np.uint16)
        self.platforms = list(platform_names)
        self._keys = {name: _as_array(column, np.uint64) for name, column in keys.items()}

    def _filter_by_metadata(self) -> None:
        options = self.options
        if options.needs_popularity:
            self._drop("without play or like count", (self._plays < 0) | (self._likes < 0))
            if not options.keeps_zero_plays:
                self._drop("zero plays", self._plays == 0)
        if options.minimum_age_days > 0:
            known = self._created[self._created != UNKNOWN_TIME]
            newest = options.as_of.timestamp() if options.as_of else known.max(initial=0)
            latest = newest - timedelta(days=options.minimum_age_days).total_seconds()
            self._drop("without creation date", self._created == UNKNOWN_TIME)
            self._drop(f"younger than {options.minimum_age_days:g} days", self._created > latest)
        repeated = self._find_repeated(self._keys["id"])
        if options.refuses_duplicate_ids and (repeated & self._is_kept).any():
            row = int(np.flatnonzero(repeated & self._is_kept)[0])
            raise ValueError(
                f"The id {self._name_song(row)} occurs twice. Remove one of the two, or, for training songs, have "
                f"later ones dropped (--duplicate-ids drop)."
            )
        self._drop("duplicate id", repeated)

    def _filter_by_audio(self) -> None:
        if not self.options.needs_audio:
            return
        self._drop("without audio file", ~self._audio.has_file)
        for row in np.flatnonzero(self._is_kept & ~self._audio.is_sound)[:MAX_NAMED_SONGS]:
            self.corrupt_songs.append({"id": self._name_song(int(row)), "reason": self._audio.errors[int(row)]})
        self._drop("corrupt audio", ~self._audio.is_sound)
        self._drop("duplicate audio", self._find_repeated(self._audio.sha256))

    def _drop(self, reason: str, is_dropped: NDArray[np.bool_]) -> None:
        self.num_dropped[reason] = int(np.sum(self._is_kept & is_dropped))
        self._is_kept &= ~is_dropped

    def _find_repeated(self, keys: NDArray) -> NDArray[np.bool_]:
        """Mark every kept song whose key an earlier kept song has."""
        rows = np.flatnonzero(self._is_kept)
        _, first = np.unique(keys[rows], return_index=True)
        is_repeated = np.zeros(len(keys), dtype=bool)
        is_repeated[np.delete(rows, first)] = True
        return is_repeated

    def _plan(self) -> None:
        rows = self._kept_rows = np.flatnonzero(self._is_kept).astype(np.int64)
        if not rows.size:
            dropped = ", ".join(f"{count} {reason}" for reason, count in self.num_dropped.items() if count)
            raise EmptyDatasetError(
                f"No song is left of {self.num_records} ({dropped or 'the source is empty'}). "
                f"Check the source, its columns and the filters."
            )
        platforms = self._platform_codes[rows]
        percentiles = np.full((2, len(rows)), np.nan)
        if self.options.needs_popularity:
            percentiles[0] = compute_percentile_ranks(self._plays[rows], platforms)
            percentiles[1] = compute_percentile_ranks(self._likes[rows], platforms)
            self._scores = compute_popularity_scores(percentiles).astype(np.float32)
        else:
            self._scores = percentiles.astype(np.float32)
        self._split(rows, platforms, percentiles[0])
        self.balance = []
        if self.options.needs_popularity:
            self.balance = compute_split_balance(self.assignment.split_codes, platforms, percentiles[0])
            for entry in self.balance:
                entry["platform"] = self.platforms[int(entry["platform"])]
        self.num_songs = {name: len(self.get_indices(name)) for name in SPLIT_NAMES}

    def _split(self, rows: NDArray[np.int64], platforms: NDArray[np.uint16], percentiles: NDArray[np.float64]) -> None:
        keys = {name: column[rows] for name, column in self._keys.items()}
        if self.options.needs_audio:
            keys["audio"] = self._cluster_audio(rows)
        grouping = {name: keys[name] for name in self.options.group_by if name in keys}
        self._group_keys = keys["id"]
        for name in ("prompt", "creator"):
            if name in grouping:
                self._group_keys = np.where(grouping[name] != NO_KEY, grouping[name], self._group_keys)
        # Songs of one creator share a split because the creator is their group; the rest has to be seen to.
        linked = {name: column for name, column in grouping.items() if name != "creator"}
        self.assignment = build_splits(self._compute_split_codes(platforms, percentiles), linked)
        check_split_leakage(
            self.assignment.split_codes, grouping, name_song=lambda position: self._name_song(int(rows[position]))
        )
        for name, count in self.assignment.num_left_out.items():
            self.num_dropped[f"{name} shared with another split"] = count

    def _compute_split_codes(
        self, platforms: NDArray[np.uint16], percentiles: NDArray[np.float64]
    ) -> NDArray[np.int8]:
        seed, ratios = self.options.seed, self.options.split_ratios
        if self.options.split_method == "hash":
            return compute_split_codes(self._group_keys, seed=seed, ratios=ratios)
        # Songs without counts have no popularity to balance: they are one band.
        known = np.nan_to_num(percentiles)
        return compute_quota_codes(self._group_keys, platforms, known, seed=seed, ratios=ratios)

    def _cluster_audio(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        fingerprinted = rows[self._audio.has_fingerprint[rows]]
        # A song that is like no other carries its own key, so it links nothing.
        keys = np.zeros(self.num_records, dtype=np.uint64)
        clusters = cluster_fingerprints(self._audio.fingerprint[fingerprinted])
        keys[fingerprinted] = fingerprinted[clusters] + 1
        return keys[rows]

    def _cut_by_audio_bytes(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        sizes = self._audio.num_bytes[rows] if self._stores_audio_bytes else np.zeros(len(rows), dtype=np.int64)
        first, total = 0, 0
        for position, size in enumerate(sizes):
            if position > first and total + size > TABLE_AUDIO_BYTES:
                yield first, position
                first, total = position, 0
            total += int(size)
        yield first, len(rows)

    def _complete(self, scanned: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
        positions = np.searchsorted(self._kept_rows, rows)
        columns: dict[str, Any] = {name: scanned[name] for name in scanned.column_names}
        paths = columns.pop("audio_path").to_pylist()
        columns["audio"] = [self._read_audio(path, int(row)) for path, row in zip(paths, rows, strict=True)]
        columns["group"] = [f"{key:016x}" for key in self._group_keys[positions]]
        for name, scores in zip(("score_streams", "score_likes"), self._scores, strict=True):
            columns[name] = pa.array(scores[positions], from_pandas=True)
        if self.options.needs_audio:
            columns["duration"] = pa.array(self._audio.duration[rows])
        schema = self.features.arrow_schema
        arrays = [_cast(columns[column.name], column.type) for column in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _read_audio(self, path: str | None, row: int) -> dict[str, Any] | None:
        if not self.options.needs_audio or path is None:
            return None
        if not self.options.embeds_audio:
            return {"bytes": None, "path": path}
        data = Path(path).read_bytes()
        if len(data) != self._audio.num_bytes[row]:
            raise ValueError(f"{path} changed while the dataset was being built. Start the build again.")
        return {"bytes": data, "path": Path(path).name}

    def _name_song(self, row: int) -> str:
        return str(self._table.get_value(row, "id"))


def _as_array(column: array, dtype: type) -> NDArray:
    return np.frombuffer(column, dtype=dtype) if len(column) else np.zeros(0, dtype=dtype)


def _cast(column: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return column.cast(kind) if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column, type=kind)
