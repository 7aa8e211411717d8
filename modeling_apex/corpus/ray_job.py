"""
A whole job on a cluster: a table of songs comes in, a folder in which every song has one row leaves.

A block of songs is scored and its file gets its name in one step, by a rename on a file system that all nodes see.
What bears a name is done; Ray keeps no account of its own. Before each pass the files of the passes before are put
aside, so that what still runs for a killed driver finds no folder to write to, and no song comes out twice.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_apex.corpus.cluster_scores import FILES, SETTINGS
from modeling_apex.corpus.identity import list_differences
from modeling_apex.corpus.ray_data import (
    SONGS_PER_BLOCK,
    import_ray,
    map_songs,
    plan_workers,
    running_ray,
)
from modeling_apex.corpus.scored_tables import SongTableScorer
from modeling_apex.corpus.song_ids import (
    AUDIO_COLUMNS,
    ID_COLUMNS,
    IdIndex,
    compute_exact_key,
    find_column,
    read_id,
    refuse_repeated,
)
from modeling_apex.corpus.song_table import read_place
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.report_apex import format_count
from modeling_apex.storage.links import open_new, refuse_links_out_of
from modeling_apex.storage.output_folder import check_new_folder, escape_surrogates, load_json, replace_file, save_json
from modeling_apex.storage.output_lock import OutputLock
from modeling_apex.storage.source_names import name_song_by_place
from modeling_apex.storage.table_reader import iterate_rows

ROWS_PER_SHARD = 100_000
BLOCK_SCORER = SongTableScorer  # what workers make
NO_RESULT = (
    "it could not be scored: the process died or failed each time, even with this song alone. Score it by `apex-music "
    "score` to see why."
)
_SONGS = pa.schema([("id", pa.string()), ("uri", pa.string())])


@dataclass(frozen=True)
class ScoredCorpus:
    """What came of a corpus: how many songs have a row, how many of these failed, and in which folder they are."""

    output: Path
    num_songs: int
    num_failed: int


def read_errors(output: Path) -> list[str | None]:
    """Read from an output why songs failed, and `None` for each that did not."""
    files = sorted(output.glob(FILES))
    return [error for path in files for error in pq.read_table(path, columns=["error"])["error"].to_pylist()]


def score_table(
    table: str | os.PathLike,
    output: str | os.PathLike,
    model: Any = None,
    *,
    address: str | None = None,
    num_actors: int | None = None,
    num_gpus: float | None = None,
    songs_per_block: int = SONGS_PER_BLOCK,
    id_column: str | None = None,
    audio_column: str | None = None,
    resampler: str = "sinc",
    tail: str | None = None,
    limits: AudioLimits | None = None,
    **loading: Any,
) -> ScoredCorpus:
    """
    Score the songs of a table on a cluster, or on this machine, into a folder of Parquet files.

    The same call goes on where a killed one stopped, also with another number of nodes, actors or songs a block. Until
    all songs have a row, the folder is called `OUTPUT.partial`. Of a song that has a row only the place is compared.

    Args:
        table (`str` or `os.PathLike`), output (`str` or `os.PathLike`):
            Songs with an id and a place each, whose paths are taken from its folder; a new folder. All nodes see both.
        model (`str`, `os.PathLike` or a loaded model, *optional*), resampler, tail, limits, loading:
            As for [`SongTableScorer`].
        address (`str`, *optional*):
            Of a cluster: `"auto"`, `"host:6379"`; by default `RAY_ADDRESS`, or one that runs here, or a new one.
        num_actors (`int`, *optional*), num_gpus (`float`, *optional*):
            Processes with a model each, at most, and the cards of each. By default as many as there is room for, with
            one card where the cluster has cards and `device` names no other.
        songs_per_block, id_column, audio_column:
            As for [`score_corpus`] and [`SongTableScorer`]; ids are looked for in `id`, `song_id` and `track_id`.

    Returns:
        [`ScoredCorpus`]: every song of the table has one row, a song that failed has its `error` in it.

    Raises:
        `ImportError`, `FileExistsError`: If Ray Data is not installed; if the output exists.
        `ValueError`: If a song lacks an id, two share one, or what is there is of other settings or songs.
        [`OutputInUseError`]: If another run is writing the output.
        `RuntimeError`: If not one song could be scored or refused, so that the cluster is at fault and not the songs.
    """
    ray = import_ray()
    place = Path(os.path.expanduser(output))
    with OutputLock(place, is_file=True):
        scorer = SongTableScorer(model, resampler=resampler, tail=tail, limits=limits, **loading)
        settings = {"weights_sha256": scorer.weights_sha256, "resampler": resampler, "tail": tail} | _name(loading)
        job = _Job(ray, scorer, place, settings)
        if job.was_finished():
            return job.finish()
        check_new_folder(place)
        job.take_up(table, id_column, audio_column)
        if job.count_missing():
            with running_ray(ray, address):
                job.run_passes(songs_per_block, *plan_workers(ray, loading, num_actors, num_gpus))
        job.gather()
        return job.finish()


def _name(loading: Mapping[str, Any]) -> dict[str, str]:
    """Name the options of loading that decide numbers; where and in what batches decides none."""
    return {name: str(value) for name, value in loading.items() if name not in ("device", "batch_size", "on_segment")}


class BlockWriter:
    """What runs in an actor: score a block and write it, so that a block is there whole or not at all."""

    def __init__(self, folder: str, scorer: type[SongTableScorer], **options: Any):
        self._score, self._folder = scorer(**options), Path(folder)

    def __call__(self, table: pa.Table) -> pa.Table:
        write_rows(self._score(table), self._folder)
        return pa.table({"num_songs": pa.array([len(table)], pa.int64())})


def write_rows(rows: pa.Table, folder: Path) -> None:
    """
    Write scored rows into a folder that is there.

    The name follows from their ids: of a block that is tried twice, the second file takes the place of the first.
    """
    name = hashlib.sha256("\0".join(rows["id"].to_pylist()).encode()).hexdigest()[:32]
    part = folder / f"{name}.{uuid.uuid4().hex}.writing"
    with open_new(part) as file:
        pq.write_table(rows, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / f"{name}.parquet")


class _Job:
    """
    A job and its folder while it is unfinished: `settings.json`; `songs.parquet`, what is to be scored;
    `missing.parquet`, what of it a pass takes; `pass-N.open`, where workers write; `pass-N`, files that count;
    `scores`, what becomes the output.
    """

    def __init__(self, ray: Any, scorer: SongTableScorer, output: Path, settings: Mapping[str, Any]):
        self._ray, self._scorer, self._output, self._settings = ray, scorer, output, settings
        self._work = output.absolute().with_name(f"{output.name}.partial")
        self._done = np.zeros(0, np.uint64)  # keys of the songs that have a row, sorted
        self._num_songs, self._table = 0, ""

    def was_finished(self) -> bool:
        """Tell whether an earlier run was killed after the output got its name; one of other settings is refused."""
        refuse_links_out_of(self._work)
        path = self._work / SETTINGS
        if path.exists():
            found = load_json(path, f"Delete {self._work}, then run the same command again.")
            found = found if isinstance(found, dict) else {}
            if names := list_differences(found, self._settings) or sorted({*found} - {*self._settings}):
                raise ValueError(
                    f"{self._work}: an unfinished run with other settings ({'; '.join(names)}) left this folder. "
                    "Finish it with what it was started with, or delete it."
                )
            return (self._output / SETTINGS).exists() and not (self._work / "scores").exists()
        if self._work.is_dir() and any(self._work.iterdir()):
            raise ValueError(f"{self._work}: holds files of something else. Choose another output, or move them away.")
        return False

    def take_up(self, table: str | os.PathLike, id_column: str | None, audio_column: str | None) -> None:
        """Begin a job or go on with one: put aside what earlier passes wrote, and find the songs that are missing."""
        self._table = str(table)
        self._work.mkdir(exist_ok=True)
        save_json(self._work / SETTINGS, dict(self._settings))
        index = IdIndex(self._table)
        with replace_file(self._work / "songs.parquet") as file, pq.ParquetWriter(file, _SONGS) as writer:
            for rows in _read_songs(table, id_column, audio_column):
                for song_id in rows["id"].to_pylist():
                    index.add(song_id)
                writer.write_table(rows)
        self._num_songs = len(index)
        if not self._num_songs:
            raise ValueError(f"{table}: holds no song. Expected one row per song, with its id and its place.")
        if (row := index.find_repeated()) is not None:
            ids = pq.read_table(self._work / "songs.parquet", columns=["id"])["id"]
            refuse_repeated(self._table, ids.index(ids[row]).as_py(), row, ids[row].as_py())
        for folder in self._work.glob("pass-*.open"):
            self._close(folder)
        self._find_done()

    def _open(self) -> Path:
        folder = self._work / f"pass-{len(list(self._work.glob('pass-*'))) + 1}.open"
        folder.mkdir()
        return folder

    def _close(self, folder: Path) -> None:
        """Give the folder of a pass the name that counts: who knows the old one can write no more."""
        os.replace(folder, folder.with_suffix(""))

    def _list_files(self) -> list[Path]:
        folders = (folder for folder in self._work.glob("pass-*") if not folder.suffix)
        return sorted(path for folder in folders for path in folder.glob("*.parquet"))

    def _find_done(self) -> None:
        """Find the songs that have rows; refuse rows of songs that the table does not have."""
        keys = [np.zeros(0, np.uint64)]
        for path in self._list_files():
            rows = pq.read_table(path, columns=["id", "song"])
            keys.append(_compute_keys(rows["id"].to_pylist(), rows["song"].to_pylist()))
        self._done = np.unique(np.concatenate(keys))
        if num_strange := len(self._done) + self.count_missing() - self._num_songs:
            raise ValueError(
                f"{self._work}: {format_count(num_strange, 'song')} that an unfinished run scored cannot be found in "
                f"{self._table}, or have moved. Finish it with the table that it was started with, or "
                "delete it."
            )

    def _iterate_missing(self) -> Iterator[pa.Table]:
        with pq.ParquetFile(self._work / "songs.parquet") as file:
            for batch in file.iter_batches(ROWS_PER_SHARD):
                ids = batch["id"].to_pylist()
                places = [name_song_by_place(*song) for song in zip(ids, batch["uri"].to_pylist(), strict=True)]
                is_done = np.isin(_compute_keys(ids, places), self._done)
                yield pa.Table.from_batches([batch]).filter(pa.array(~is_done))

    def count_missing(self) -> int:
        """Count the songs that have no row yet."""
        return sum(len(rows) for rows in self._iterate_missing())

    def run_passes(self, songs_per_block: int, num_actors: int, num_gpus: float) -> None:
        """
        Score the songs that are missing, then in smaller blocks those of blocks that came to nothing, at last alone.

        What comes to nothing alone, twice, gets a row that says so.
        """
        sizes = sorted({songs_per_block, max(1, songs_per_block // 8), 1}, reverse=True)
        num_missing = self.count_missing()
        while num_missing and sizes:
            self._run_pass(sizes[0], num_actors, num_gpus)
            num_before, num_missing = num_missing, self.count_missing()
            if len(sizes) > 1 or num_missing == num_before:  # alone for as long as that helps
                sizes.pop(0)
        if num_missing == self._num_songs > 1:
            raise RuntimeError(
                f"{self._work}: not one of {self._num_songs} songs came back from a worker. See what the workers say; "
                "run the same command again to resume."
            )
        if num_missing:
            songs = {row["id"]: row["uri"] for rows in self._iterate_missing() for row in rows.to_pylist()}
            folder = self._open()
            write_rows(self._scorer.build_failed_rows(songs, NO_RESULT), folder)
            self._close(folder)

    def _run_pass(self, songs_per_block: int, num_actors: int, num_gpus: float) -> None:
        missing = self._work / "missing.parquet"
        with replace_file(missing) as file, pq.ParquetWriter(file, _SONGS) as writer:
            for rows in self._iterate_missing():
                writer.write_table(rows)
        folder = self._open()
        arguments = {
            **self._scorer.arguments,
            "folder": str(folder),
            "scorer": BLOCK_SCORER,
            "id_column": "id",
            "audio_column": "uri",
        }
        written = map_songs(
            self._ray,
            self._ray.data.read_parquet(str(missing)),
            BlockWriter,
            arguments,
            num_actors=num_actors,
            num_gpus=num_gpus,
            songs_per_block=songs_per_block,
            batch_size=None,  # a block is one file
        )
        try:
            for _ in written.iter_batches(batch_size=None, batch_format="pyarrow"):
                pass
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(
                f"{self._work}: Ray ended before all songs were scored ({error}). See what its workers say; run the "
                "same command again to resume."
            ) from error
        self._close(folder)
        self._find_done()

    def gather(self) -> None:
        """
        Write the rows into few files, prove that every song has one, and give them the name of the output.

        Raises:
            `RuntimeError`: If a row is missing or there twice.
        """
        scores = self._work / "scores"
        shutil.rmtree(scores, ignore_errors=True)
        scores.mkdir()
        keys, pending, num_files = [], [], 0
        files = self._list_files()
        for position, path in enumerate(files, start=1):
            rows = pq.read_table(path, schema=self._scorer.schema)
            keys.append(_compute_keys(rows["id"].to_pylist(), rows["song"].to_pylist()))
            pending.append(rows)
            if position == len(files) or sum(map(len, pending)) >= ROWS_PER_SHARD:
                with replace_file(scores / f"scores-{num_files:05d}.parquet") as file:
                    pq.write_table(pa.concat_tables(pending), file)
                pending, num_files = [], num_files + 1
        found = np.concatenate(keys)
        if not len(found) == len(np.unique(found)) == self._num_songs:
            raise RuntimeError(
                f"{self._work}: has {len(found)} rows of {len(np.unique(found))} songs where {self._num_songs} were "
                "expected. This is a fault of this program: please report it, and keep the folder."
            )
        save_json(scores / SETTINGS, dict(self._settings))
        os.replace(scores, self._output)

    def finish(self) -> ScoredCorpus:
        """Remove what the job worked with, and count what is in the output."""
        for path in self._work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != SETTINGS:
                path.unlink()
        (self._work / SETTINGS).unlink()  # at last: by it a run that was killed here is known
        self._work.rmdir()
        errors = read_errors(self._output)
        return ScoredCorpus(self._output, len(errors), sum(error is not None for error in errors))


def _compute_keys(ids: list[str], places: list[str]) -> np.ndarray:
    """Hash songs by id and place to 64 bits."""
    keys = [compute_exact_key(f"{song_id}\0{place}") for song_id, place in zip(ids, places, strict=True)]
    return np.array(keys, dtype=np.uint64)


def _read_songs(table: str | os.PathLike, id_column: str | None, audio_column: str | None) -> Iterator[pa.Table]:
    """Yield ids and places of a table, in pieces; paths are absolute, since workers run in other folders."""
    path = Path(os.path.expanduser(table)).absolute()
    own_id, audio, pending = "", "", []
    for row in iterate_rows(path, keeps_audio=False):
        if not audio:
            names = list(row.values)
            own_id = find_column(names, id_column, ID_COLUMNS, str(table))
            audio = find_column(names, audio_column, AUDIO_COLUMNS, str(table))
        place = read_place(row.values.get(audio), path.parent)
        song = {"id": read_id(row.values.get(own_id), own_id, row.location), "uri": place}
        pending.append({name: escape_surrogates(value) for name, value in song.items()})
        if len(pending) == ROWS_PER_SHARD:
            yield pa.Table.from_pylist(pending, _SONGS)
            pending = []
    yield pa.Table.from_pylist(pending, _SONGS)
