"""
Songs scored by several processes, for all cores and cards of one machine: songs come in, reports leave in their order.

Each process holds the model and reads ahead for itself. It asks for a song when it has use for one, so that none waits
for another, and no more songs are on their way than are read. A process that dies takes no song along: each song that
it had is scored again, alone in a process, and the one that ends that process too gets a report with its `error`.
"""

import contextlib
import copy
import itertools
import logging
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

from modeling_apex.inference.decoding_apex import name_song
from modeling_apex.inference.scoring_apex import ScoreOptions
from modeling_apex.inference.song_report_apex import SongReport, build_error_report
from modeling_apex.storage.stop_signals import STOPPING
from modeling_apex.storage.worker_processes import follow_parent, start_worker

SONGS_AHEAD = 64  # per process: so many may be done before the report of one that takes long
JOIN_SECONDS = 10  # that a process whose pipe is closed may take to end
MAX_DEATHS_IN_A_ROW = 10  # more, and no song between them, are the machine's fault and not that of the songs
# What a process says, and the answer that is no song: report on what you have, however few segments these are.
READY, ASKS, REPORT, FAULT, FLUSH = range(5)


class WorkerFaultError(Exception):
    """A fault of this program in one of its processes."""


class ScorerProcesses:
    """
    Score songs in processes of their own, which live as long as a call of `score`.

    A program that uses it does its work under `if __name__ == "__main__":`, as `multiprocessing` asks of all.

    Args:
        model (`str` or `os.PathLike`, *optional*):
            A folder or Hub id; by default the embedded demonstration model.
        num_processes (`int`):
            How many; no more are started than there are songs.
        devices (`Sequence[str]`, *optional*):
            Where they run, in turns, as from [`list_devices`]; by default where `load_scorer` runs by itself.
        weights_sha256 (`str`, *optional*):
            What `compute_scores_hash` says of the model that is meant. A process that finds another one under this
            name, which may have changed meanwhile, stops the run.
        loading:
            What `load_scorer` takes besides: `dtype`, `engine`, `batch_size`, `revision`, ...

    Raises:
        `ValueError`: If there is to be no process.
    """

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        *,
        num_processes: int,
        devices: Sequence[str | None] = (None,),
        weights_sha256: str | None = None,
        **loading: Any,
    ):
        if num_processes < 1:
            raise ValueError(f"`num_processes` must be at least 1, got {num_processes}.")
        self.num_processes, self.devices = num_processes, tuple(devices)
        self.weights_sha256, self.loading = weights_sha256, {"model": model, **loading}

    def score(self, songs: Iterable[Mapping[str, Any]], **options: Unpack[ScoreOptions]) -> Iterator[SongReport]:
        """
        Return an iterator over the reports of songs, in their order.

        Args:
            songs (`Iterable[Mapping]`):
                Songs with their `id`, `audio` and perhaps `features`, taken one by one when they are needed.
            options:
                Those of [`SongScorer.score`]; `on_error` is `"report"`.

        Raises:
            `ValueError`: If a song that fails is to raise, or the model is not the one that is meant.
            `RuntimeError`: If a process dies before it has the model, or one song after the other ends one.
            [`WorkerFaultError`]: If this program is at fault in a process. What else stops a scorer is raised too.
        """
        if options.get("on_error") != "report":
            raise ValueError(
                f"`on_error` is {options.get('on_error')!r}, and songs that are scored in processes fail by their "
                'report. Pass on_error="report".'
            )
        return _Run(self, songs, {**options, "read_ahead": True}).iterate()


class _Worker:
    """The parent's end of a process, and the songs that it has."""

    def __init__(self, scorer: ScorerProcesses, number: int, options: ScoreOptions, *, tries_alone: bool):
        from multiprocessing import Pipe

        self.number, self.tries_alone = number, tries_alone
        self.songs: deque[tuple[int, Mapping[str, Any]]] = deque()
        self.is_asking = False
        self.identity: dict[str, Any] | None = None
        self.connection, theirs = Pipe()
        loading = {**scorer.loading, "device": scorer.devices[number % len(scorer.devices)]}
        self.process = start_worker(_serve, (theirs, loading, scorer.weights_sha256, scorer.num_processes, options))
        theirs.close()  # this process's copy, which would keep the pipe open

    def give(self, task: tuple[int, Mapping[str, Any]] | None) -> None:
        """Give a song, or `None` for the order to report on what is there."""
        self.is_asking = False
        if task is not None:
            self.songs.append(task)
        with contextlib.suppress(OSError):  # it died; what it has is looked after when its pipe is read
            self.connection.send(FLUSH if task is None else task[1])

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Run:
    """One call of `score`."""

    def __init__(self, scorer: ScorerProcesses, songs: Iterable[Mapping[str, Any]], options: ScoreOptions):
        self._scorer, self._options = scorer, options
        self._songs: Iterator[tuple[int, Mapping[str, Any]]] = enumerate(songs)
        self._suspects: deque[tuple[int, Mapping[str, Any]]] = deque()  # of processes that died
        self._workers: list[_Worker] = []
        self._reports: dict[int, SongReport] = {}  # that wait for those of songs before them
        self._num_taken, self._num_yielded, self._num_deaths, self._is_exhausted = 0, 0, 0, False

    def iterate(self) -> Iterator[SongReport]:
        from multiprocessing.connection import wait

        try:
            first = list(itertools.islice(self._songs, self._scorer.num_processes))
            self._songs = itertools.chain(first, self._songs)
            for number in range(len(first)):
                self._start(number)
            while first:
                while self._num_yielded in self._reports:
                    self._num_yielded += 1
                    yield self._reports.pop(self._num_yielded - 1)
                for worker in self._workers:
                    if worker.is_asking:
                        self._answer(worker)
                if self._is_exhausted and self._num_yielded == self._num_taken:
                    return
                ready = wait([worker.connection for worker in self._workers])
                for worker in [worker for worker in self._workers if worker.connection in ready]:
                    self._listen(worker)
        finally:
            for worker in self._workers:
                worker.end()

    def _start(self, number: int, *, tries_alone: bool = False) -> None:
        self._workers.append(_Worker(self._scorer, number, self._options, tries_alone=tries_alone))

    def _answer(self, worker: _Worker) -> None:
        """Give a process that asks for a song one, or have it report, or let it wait."""
        if worker.tries_alone and not worker.songs:
            if self._suspects:
                worker.give(self._suspects.popleft())
                return
            worker.tries_alone = False
        has_room = self._num_taken - self._num_yielded < SONGS_AHEAD * self._scorer.num_processes
        song = self._take_song() if has_room and not worker.tries_alone else None
        if song is not None or worker.songs:
            worker.give(song)

    def _take_song(self) -> tuple[int, Mapping[str, Any]] | None:
        song = next(self._songs, None)
        self._is_exhausted = song is None
        self._num_taken += song is not None
        return song

    def _listen(self, worker: _Worker) -> None:
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == READY:
            worker.identity = content
        elif kind == ASKS:
            worker.is_asking = True
        elif kind == REPORT:
            self._reports[worker.songs.popleft()[0]] = content
            self._num_deaths = 0
        else:
            raise content

    def _bury(self, worker: _Worker) -> None:
        """Look after the songs of a process that died: those that may have ended it, and the one that must have."""
        worker.process.join(JOIN_SECONDS)
        status = worker.process.exitcode
        worker.end()
        self._workers.remove(worker)
        if worker.identity is None:
            raise RuntimeError(
                f"a process that was to score songs {_describe_end(status)} before it had loaded the model. What was "
                "finished is kept; run the same command again, with fewer processes if memory is short."
            )
        # One that somebody asked to end, as schedulers ask all processes of a job, was not ended by a song.
        if worker.tries_alone and worker.songs and -(status or 0) not in STOPPING:
            position, song = worker.songs.popleft()
            name = name_song(song["id"])
            error = (
                f"{name}: the process that scored it {_describe_end(status)}, and did so again with this song alone. "
                "The file is damaged, or was made to break its decoder, or takes more memory than there is; other "
                "songs are not touched by it. Convert it to WAV or FLAC, or score it by itself, to see which."
            )
            self._reports[position] = build_error_report(name, error, **worker.identity)
            self._num_deaths += 1
            if self._num_deaths > MAX_DEATHS_IN_A_ROW:
                raise RuntimeError(
                    f"{self._num_deaths} songs in a row ended the process that scored them, at last {name}: it "
                    f"{_describe_end(status)}. That is hardly the fault of the songs: score one by itself to see why. "
                    "What was finished is kept; run the same command again to resume."
                )
        self._suspects.extend(worker.songs)
        if self._suspects or not self._is_exhausted:
            self._start(worker.number, tries_alone=True)


def _describe_end(status: int | None) -> str:
    if status is not None and -status in set(signal.Signals):
        return f"died ({signal.Signals(-status).name})"
    return f"died (exit status {status})"


def list_devices(device: str | None) -> list[str | None]:
    """List where processes run: each card of this machine where all are meant, else the device that is named."""
    from torch import accelerator

    cards = accelerator.current_accelerator() if accelerator.is_available() else None
    if cards is None or device not in (None, cards.type):
        return [device]
    return [f"{cards.type}:{number}" for number in range(accelerator.device_count())]


def count_threads(num_processes: int) -> int:
    """Count the threads of torch in each of several processes: its share of the cores, or fewer if fewer are set."""
    import torch

    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), num_cores // num_processes))


class _Asker:
    """A process's end of its pipe. Songs may be asked for in one thread while another reports."""

    def __init__(self, connection: Any):
        self._connection, self._lock = connection, threading.Lock()

    def say(self, kind: int, content: Any = None) -> None:
        with self._lock:
            self._connection.send((kind, content))

    def iterate_songs(self) -> Iterator[Any]:
        """Yield songs until the parent wants to have the reports of those that it gave."""
        while True:
            self.say(ASKS)
            song = self._connection.recv()
            if song == FLUSH:
                return
            yield song


def _serve(
    connection: Any, loading: dict[str, Any], weights_sha256: str | None, num_processes: int, options: ScoreOptions
) -> None:
    """Score the songs that the parent gives until it ends this process; the body of one."""
    follow_parent()
    logging.getLogger("modeling_apex").setLevel(logging.ERROR)  # what there is to say of a model, the parent has said
    asker, has_loaded = _Asker(connection), False
    try:
        import torch

        from modeling_apex.engines.model_hashes import compute_scores_hash
        from modeling_apex.loading import load_scorer

        torch.set_num_threads(count_threads(num_processes))
        scorer = load_scorer(**loading)
        if weights_sha256 is not None and compute_scores_hash(scorer.model) != weights_sha256:
            raise ValueError(
                f"{scorer.model_id}: was replaced by another model since this run began. What was finished is kept; "
                "go on with the model that it was begun with, or name another output."
            )
        asker.say(READY, {"model_id": scorer.model_id, "model_revision": scorer.model_revision})
        has_loaded = True
        while True:
            for report in scorer.score(asker.iterate_songs(), **options):
                asker.say(REPORT, report)
    except Exception as error:
        # A song's own are in its report, so what expressions raise comes from this program.
        is_fault = has_loaded and isinstance(error, TypeError)
        with contextlib.suppress(OSError):  # the parent is gone
            asker.say(FAULT, _make_portable(WorkerFaultError(f"TypeError: {error}") if is_fault else error))


def _make_portable(error: Exception) -> Exception:
    """Return an error that arrives in another process as it is, or as what it says, with where it came from."""
    error.add_note(f"In a process that scores songs:\n{traceback.format_exc()}")
    try:
        copy.copy(error)  # made anew from its arguments, as it is where it arrives
        pickle.dumps(error)
    except Exception:
        said = RuntimeError(f"{type(error).__name__}: {error}")
        said.add_note(error.__notes__[-1])
        return said
    return error
