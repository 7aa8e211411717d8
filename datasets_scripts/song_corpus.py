"""
A corpus of songs on its way to a dataset: records of any source come in, filtered, ranked, split rows leave.

Four steps, each in memory that does not grow with the corpus. *Scan*: every record goes to a working table on disk,
and what ranking, filtering and splitting need to columns of numbers, on disk as well. *Examine*: the audio of the
songs that are still in is decoded once (resumable, in parallel); what is found there, a few numbers a song, is the one
thing held in memory. *Plan*: filters, percentiles, splits and the leakage check, on the numbers. *Read*: rows of one
split, with their audio, as Arrow tables.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from datasets_scripts.audio_examination import examine_songs
from datasets_scripts.audio_files import hash_file
from datasets_scripts.audio_fingerprint import cluster_fingerprints
from datasets_scripts.disk_columns import (
    Column,
    DiskColumn,
    build_records,
    iterate_chunks,
    iterate_groups,
    iterate_marked,
    save_column,
    sort_records,
)
from datasets_scripts.parquet_folder import EmptyDatasetError
from datasets_scripts.song_record import CorpusOptions, SongRecord, build_working_row
from datasets_scripts.song_schema import build_song_features
from datasets_scripts.splits import (
    NO_KEY,
    SPLIT_NAMES,
    SplitAssignment,
    build_splits,
    check_split_leakage,
    compute_exact_key,
    compute_key,
    compute_quota_codes,
    compute_split_balance,
    compute_split_codes,
)
from datasets_scripts.targets import compute_percentile_column, compute_popularity_scores
from datasets_scripts.working_files import WorkingTable, WorkingTableWriter

UNKNOWN_COUNT = -1
UNKNOWN_TIME = np.iinfo(np.int64).min
# A table that is read from disk holds about this many bytes of audio.
TABLE_AUDIO_BYTES = 32 * 1024**2
# Size of a row without its audio, for cutting shards.
ROW_BYTES = 500
MAX_NAMED_SONGS = 100
# Rows of numbers that are collected before they are written.
ROWS_PER_WRITE = 4096
COMPUTED_COLUMNS = ("audio", "group", "score_streams", "score_likes")

# What is kept of every record beside its working row: counts, seconds since 1970, a code and hashes.
SONG_NUMBERS = np.dtype(
    [
        ("plays", "<i8"),
        ("likes", "<i8"),
        ("created", "<i8"),
        ("platform", "<u2"),
        ("id", "<u8"),
        ("creator", "<u8"),
        ("prompt", "<u8"),
    ]
)
# The same of a song that passed the filters, with its row in the working table.
SONG = np.dtype([("row", "<i8"), *SONG_NUMBERS.descr])
# A song of a split, ready to be written.
PLANNED_SONG = np.dtype([("row", "<i8"), ("group", "<u8"), ("scores", "<f4", (2,)), ("num_bytes", "<i8")])
KEYED_ROW = np.dtype([("key", "<u8"), ("row", "<i8")])


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
        # Columns of a run that was killed are of no use to this one.
        self._columns_folder = working_folder / "columns"
        shutil.rmtree(self._columns_folder, ignore_errors=True)
        self._columns_folder.mkdir(parents=True)
        self.num_dropped: dict[str, int] = {}
        self.corrupt_songs: list[dict[str, str]] = []
        self._scan(records)
        self._filter_by_metadata()
        self._audio = examine_songs(
            self._table, np.flatnonzero(self._is_kept), self.num_records, self._folder, options
        )
        self._filter_by_audio()
        self._plan()

    def get_row_bytes(self, split: str) -> Column:
        """Return about how many bytes every row of a split takes when it is stored."""
        return self._splits[split].field("num_bytes")

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
        for scanned in self._table.iterate_rows(songs.field("row"), start=start, stop=stop):
            planned = songs[done : done + scanned.num_rows]
            done += scanned.num_rows
            for first, last in _cut_by_bytes(planned["num_bytes"] - ROW_BYTES):
                yield self._complete(scanned.slice(first, last - first), planned[first:last])

    def compute_digest(self) -> str:
        """Return a hash that changes whenever a row of the result would."""
        digest = hashlib.sha256(hash_file(self._table.path))
        columns: list[Column] = [*self._splits.values(), self._audio.sha256]
        for column in columns:
            for _, chunk in iterate_chunks(column):
                digest.update(np.ascontiguousarray(chunk).data)
        return digest.hexdigest()

    @property
    def _stores_audio_bytes(self) -> bool:
        return self.options.needs_audio and self.options.embeds_audio

    def _scan(self, records: Iterable[SongRecord]) -> None:
        shared = {name: feature for name, feature in self.features.items() if name not in COMPUTED_COLUMNS}
        schema = datasets.Features({**shared, "audio_path": datasets.Value("string")}).arrow_schema
        path = self._folder / "songs.arrow"
        writer = WorkingTableWriter(path, schema)
        self._numbers = self._create_column(SONG_NUMBERS)
        waiting: list[tuple[int, ...]] = []
        platform_codes: dict[str, int] = {}
        for record in records:
            writer.append(build_working_row(record))
            waiting.append(_describe_numbers(record, platform_codes.setdefault(record.platform, len(platform_codes))))
            if len(waiting) == ROWS_PER_WRITE:
                self._numbers.append(np.array(waiting, SONG_NUMBERS))
                waiting = []
        self._numbers.append(np.array(waiting, SONG_NUMBERS))
        writer.close()
        self.num_records = len(self._numbers)
        self._table = WorkingTable(path)
        self.platforms = list(platform_codes)

    def _filter_by_metadata(self) -> None:
        latest = self._find_latest_creation()
        is_kept = self._create_column(bool)
        for _, songs in iterate_chunks(self._numbers):
            is_dropped = self._list_metadata_filters(songs, latest)
            is_kept.append(self._drop(np.ones(len(songs), dtype=bool), is_dropped))
        repeated = self._find_repeated(self._numbers.field("id"), is_kept)
        if self.options.refuses_duplicate_ids and len(repeated):
            raise ValueError(
                f"The id {self._name_song(int(repeated[:1][0]))} occurs twice. Remove one of the two, or, for "
                f"training songs, have later ones dropped (--duplicate-ids drop)."
            )
        self._is_kept = self._drop_rows("duplicate id", is_kept, repeated)

    def _list_metadata_filters(self, songs: NDArray, latest: float) -> dict[str, NDArray[np.bool_]]:
        options, is_dropped = self.options, {}
        if options.needs_popularity:
            is_dropped["without play or like count"] = (songs["plays"] < 0) | (songs["likes"] < 0)
            if not options.keeps_zero_plays:
                is_dropped["zero plays"] = songs["plays"] == 0
        if options.minimum_age_days > 0:
            is_dropped["without creation date"] = songs["created"] == UNKNOWN_TIME
            is_dropped[f"younger than {options.minimum_age_days:g} days"] = songs["created"] > latest
        return is_dropped

    def _find_latest_creation(self) -> float:
        """Return the second after which songs are too young."""
        newest = 0.0
        if self.options.as_of is not None:
            newest = self.options.as_of.timestamp()
        else:
            for _, created in iterate_chunks(self._numbers.field("created")):
                newest = max(newest, float(created.max()))
        return newest - timedelta(days=self.options.minimum_age_days).total_seconds()

    def _filter_by_audio(self) -> None:
        if not self.options.needs_audio:
            return
        audio, is_sound = self._audio, self._create_column(bool)
        for start, (is_kept, has_file, decodes) in iterate_chunks(self._is_kept, audio.has_file, audio.is_sound):
            corrupt = start + np.flatnonzero(is_kept & has_file & ~decodes)
            for row in corrupt[: MAX_NAMED_SONGS - len(self.corrupt_songs)].tolist():
                self.corrupt_songs.append({"id": self._name_song(row), "reason": audio.errors[row]})
            is_sound.append(self._drop(is_kept, {"without audio file": ~has_file, "corrupt audio": ~decodes}))
        self._is_kept = self._drop_rows("duplicate audio", is_sound, self._find_repeated(audio.sha256, is_sound))

    def _drop(self, is_kept: NDArray[np.bool_], is_dropped: dict[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Apply filters to a chunk one after the other; a song counts for the first that drops it."""
        for reason, is_matched in is_dropped.items():
            self.num_dropped[reason] = self.num_dropped.get(reason, 0) + int(np.sum(is_kept & is_matched))
            is_kept = is_kept & ~is_matched
        return is_kept

    def _drop_rows(self, reason: str, is_kept: Column, rows: Column) -> DiskColumn:
        self.num_dropped[reason] = len(rows)
        return self._save(kept & ~is_listed for kept, is_listed in iterate_marked(is_kept, rows))

    def _find_repeated(self, keys: Column, is_kept: Column) -> Column:
        """Find every kept song whose key an earlier kept song has: their rows, ascending."""
        songs = (
            build_records(KEYED_ROW, key=values[kept], row=start + np.flatnonzero(kept))
            for start, (values, kept) in iterate_chunks(keys, is_kept)
        )
        by_key = sort_records(songs, KEYED_ROW, ["key", "row"], self._columns_folder)
        repeated = (chunk[~is_first] for chunk, _, is_first in iterate_groups(by_key, ["key"]))
        return sort_records(repeated, KEYED_ROW, ["row"], self._columns_folder).field("row")

    def _plan(self) -> None:
        songs = self._select_songs()
        if not len(songs):
            dropped = ", ".join(f"{count} {reason}" for reason, count in self.num_dropped.items() if count)
            raise EmptyDatasetError(
                f"No song is left of {self.num_records} ({dropped or 'the source is empty'}). "
                f"Check the source, its columns and the filters."
            )
        platforms = songs.field("platform")
        percentiles = [self._rank(songs.field(name), platforms) for name in ("plays", "likes")]
        group_keys = self._save(self._iterate_group_keys(songs), np.uint64)
        assignment = self._split(songs, group_keys, percentiles[0])
        self.balance = []
        if self.options.needs_popularity:
            self.balance = compute_split_balance(assignment.split_codes, platforms, percentiles[0])
            for entry in self.balance:
                entry["platform"] = self.platforms[int(entry["platform"])]
        self._splits = {name: self._create_column(PLANNED_SONG) for name in SPLIT_NAMES}
        columns: list[Column] = [assignment.split_codes, songs.field("row"), group_keys, *percentiles]
        for _, (codes, rows, groups, *ranks) in iterate_chunks(*columns):
            planned = self._plan_songs(rows, groups, np.stack(ranks, axis=1))
            for code, column in enumerate(self._splits.values()):
                column.append(planned[codes == code])
        self.num_songs = {name: len(column) for name, column in self._splits.items()}

    def _select_songs(self) -> DiskColumn:
        songs = self._create_column(SONG)
        for start, (numbers, is_kept) in iterate_chunks(self._numbers, self._is_kept):
            kept = numbers[is_kept]
            fields = {name: kept[name] for name in SONG_NUMBERS.fields or ()}
            songs.append(build_records(SONG, row=start + np.flatnonzero(is_kept), **fields))
        return songs

    def _rank(self, counts: Column, platforms: Column) -> Column:
        if self.options.needs_popularity:
            return compute_percentile_column(counts, platforms, self._columns_folder)
        # Songs without counts have no place among the others.
        return self._save((np.full(len(chunk), np.nan) for _, chunk in iterate_chunks(counts)), np.float64)

    def _plan_songs(self, rows: NDArray, group_keys: NDArray, percentiles: NDArray[np.float64]) -> NDArray:
        scores = compute_popularity_scores(percentiles) if self.options.needs_popularity else percentiles
        embedded = self._audio.num_bytes[rows] if self._stores_audio_bytes else np.zeros(len(rows), dtype=np.int64)
        return build_records(PLANNED_SONG, row=rows, group=group_keys, scores=scores, num_bytes=ROW_BYTES + embedded)

    def _iterate_group_keys(self, songs: DiskColumn) -> Iterator[NDArray[np.uint64]]:
        for _, chunk in iterate_chunks(songs):
            keys = chunk["id"]
            for name in ("prompt", "creator"):
                if name in self.options.group_by:
                    keys = np.where(chunk[name] != NO_KEY, chunk[name], keys)
            yield keys

    def _split(self, songs: DiskColumn, group_keys: Column, percentiles: Column) -> SplitAssignment:
        keys: dict[str, Column] = {name: songs.field(name) for name in ("id", "creator", "prompt")}
        if self.options.needs_audio:
            keys["audio"] = self._cluster_audio(songs.field("row")[:])
        grouping = {name: keys[name] for name in self.options.group_by if name in keys}
        # Songs of one creator share a split because the creator is their group; the rest has to be seen to.
        linked = {name: column for name, column in grouping.items() if name != "creator"}
        codes = self._compute_split_codes(group_keys, songs.field("platform"), percentiles)
        assignment = build_splits(codes, linked, folder=self._columns_folder)
        check_split_leakage(
            assignment.split_codes,
            grouping,
            name_song=lambda position: self._name_song(int(songs[position : position + 1]["row"][0])),
            folder=self._columns_folder,
        )
        for name, count in assignment.num_left_out.items():
            self.num_dropped[f"{name} shared with another split"] = count
        return assignment

    def _compute_split_codes(self, group_keys: Column, platforms: Column, percentiles: Column) -> Column:
        seed, ratios = self.options.seed, self.options.split_ratios
        if self.options.split_method == "hash":
            chunks = (chunk for _, chunk in iterate_chunks(group_keys))
            return self._save((compute_split_codes(keys, seed=seed, ratios=ratios) for keys in chunks), np.int8)
        # Songs without counts have no popularity to balance: they are one band.
        known = self._save((np.nan_to_num(chunk) for _, chunk in iterate_chunks(percentiles)), np.float64)
        folder = self._columns_folder
        return compute_quota_codes(group_keys, platforms, known, seed=seed, ratios=ratios, folder=folder)

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
            self._read_audio(path, size) for path, size in zip(paths, planned["num_bytes"].tolist(), strict=True)
        ]
        columns["group"] = [f"{key:016x}" for key in planned["group"]]
        for name, scores in zip(("score_streams", "score_likes"), planned["scores"].T, strict=True):
            columns[name] = pa.array(np.ascontiguousarray(scores), from_pandas=True)
        if self.options.needs_audio:
            columns["duration"] = pa.array(self._audio.duration[planned["row"]])
        schema = self.features.arrow_schema
        arrays = [_cast(columns[column.name], column.type) for column in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _read_audio(self, path: str | None, row_bytes: int) -> dict[str, Any] | None:
        if not self.options.needs_audio or path is None:
            return None
        if not self.options.embeds_audio:
            return {"bytes": None, "path": path}
        data = Path(path).read_bytes()
        if len(data) != row_bytes - ROW_BYTES:
            raise ValueError(f"{path} changed while the dataset was being built. Start the build again.")
        return {"bytes": data, "path": Path(path).name}

    def _create_column(self, dtype: DTypeLike) -> DiskColumn:
        return DiskColumn(dtype, self._columns_folder)

    def _save(self, chunks: Iterable[NDArray], dtype: DTypeLike = bool) -> DiskColumn:
        return save_column(chunks, dtype, self._columns_folder)

    def _name_song(self, row: int) -> str:
        return str(self._table.get_value(row, "id"))


def _describe_numbers(record: SongRecord, platform_code: int) -> tuple[int, ...]:
    """Return the row of `SONG_NUMBERS` of a record."""
    return (
        UNKNOWN_COUNT if record.play_count is None else record.play_count,
        UNKNOWN_COUNT if record.like_count is None else record.like_count,
        UNKNOWN_TIME if record.created_at is None else round(record.created_at.timestamp()),
        platform_code,
        compute_exact_key(record.id),
        # A creator's name means something on their platform; a prompt is the same text everywhere.
        compute_key(record.platform, record.creator),
        compute_key(record.prompt),
    )


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
