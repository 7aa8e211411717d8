"""Songs scored by several processes: the reports of one, whatever dies."""

import contextlib
import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import stopped_command
import torch
from patience import PATIENCE

from modeling_apex.cli import main
from modeling_apex.corpus import score_processes
from modeling_apex.corpus.error_kinds import find_error_kind
from modeling_apex.corpus.score_processes import ScorerProcesses, WorkerFaultError, count_threads, list_devices
from modeling_apex.corpus.song_uris import open_song
from modeling_apex.inference.scoring_apex import SongScorer
from modeling_apex.loading import load_scorer

from waveforms import make_waveform

SERVE = score_processes._serve


class Trap(io.RawIOBase):
    """A song that ends the process that reads it, the first so many times."""

    def __init__(self, path: Path, number: int, num_deaths: int):
        self.path, self.number, self.num_deaths = path, number, num_deaths
        self._file: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Trap, (self.path, self.number, self.num_deaths)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        deaths = len(list(self.path.parent.glob(f"{self.path.name}.died-*")))
        if deaths < self.num_deaths:
            self.path.with_name(f"{self.path.name}.died-{deaths}").touch()
            os.kill(os.getpid(), self.number)
        self._file = self._file or self.path.open("rb")
        return self._file.readinto(buffer)


def die_at_once(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def slip(*arguments: Any) -> None:
    """Serve with a scorer that calls a function by too many words."""
    SongScorer.report = lambda self: None
    SERVE(*arguments)


class PeculiarError(Exception):
    """An error that cannot be sent."""

    def __init__(self, one: str, two: str):
        super().__init__(one + two)


def fail_oddly(*arguments: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PeculiarError("the card ", "is gone")

    SongScorer.report = fail
    SERVE(*arguments)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A long song, short ones, one that is broken and one that is not there."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", make_waveform(0.2 + 9 * (number == 0), seed=number), 24_000)
    (folder / "broken.mp3").write_bytes(b"no music" * 50)
    return [folder / name for name in ("0.wav", "1.wav", "broken.mp3", "2.wav", "3.wav", "no.wav", "4.wav", "5.wav")]


def describe(songs: list[Path]) -> Iterator[dict[str, Any]]:
    return ({"id": str(song), "audio": str(song)} for song in songs)


def score_here(model: Path, songs: list[Path], **options: Any) -> list[Any]:
    return list(load_scorer(model, device="cpu").score(describe(songs), on_error="report", **options))


def test_reports_are_those_of_one_process_in_order(
    model: Path, songs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a batch is never full, songs are waited for and few may be done before the first, which is long."""
    monkeypatch.setattr(score_processes, "SONGS_AHEAD", 1)
    taken = []
    scorer = ScorerProcesses(model, num_processes=2, devices=["cpu"], batch_size=64)
    described = (taken.append(song) or song for song in describe(songs))
    reports = scorer.score(described, on_error="report", return_timeline=True)
    found = [next(reports)]
    assert len(taken) <= 3
    found += reports
    for report, expected in zip(found, score_here(model, songs, return_timeline=True), strict=True):
        assert report["song"] == expected["song"]
        assert report.get("error") == expected.get("error")
        # With the oldest torch, the size of a batch tells in the last bits.
        assert report.get("scores") == (pytest.approx(expected["scores"], rel=1e-5) if "scores" in report else None)
        assert len(report.get("segments", ())) == len(expected.get("segments", ()))
    assert [song["id"] for song in taken] == [str(song) for song in songs]
    assert sum("error" in report for report in found) == 2


def test_no_process_is_started_without_a_song_and_none_stays(model: Path, songs: list[Path]) -> None:
    before = set(multiprocessing.active_children())
    scorer = ScorerProcesses(model, num_processes=8, devices=["cpu"])
    assert list(scorer.score([], on_error="report")) == []
    reports = scorer.score(describe(songs[:1] * 2), on_error="report")
    next(reports)
    assert len(set(multiprocessing.active_children()) - before) == 2
    reports.close()
    assert set(multiprocessing.active_children()) <= before


def test_a_process_that_dies_costs_the_song_that_ended_it_and_no_other(
    model: Path, songs: list[Path], tmp_path: Path
) -> None:
    """The song is named; one that it died with is scored, and so is one whose process was asked to end, twice."""
    good = songs[3]
    inputs: list[dict[str, Any]] = []
    for name, number, num_deaths in (("asked", signal.SIGTERM, 2), ("deadly", signal.SIGKILL, 99)):
        (tmp_path / f"{name}.wav").write_bytes(good.read_bytes())
        inputs += [*describe([good]), {"id": name, "audio": Trap(tmp_path / f"{name}.wav", number, num_deaths)}]
    scorer = ScorerProcesses(model, num_processes=1, devices=["cpu"])
    reports = list(scorer.score(inputs, on_error="report"))
    (expected,) = score_here(model, [good])
    (failed,) = score_here(model, [good.with_name("nowhere.wav")])
    assert reports[:3] == [expected, {**expected, "song": "asked"}, expected]
    assert reports[3]["error"].startswith("deadly: the process that scored it died (SIGKILL), and did so again")
    assert reports[3] == {**failed, "song": "deadly", "error": reports[3]["error"]}
    assert find_error_kind(reports[3]["error"]) == "decoder died"
    assert len(list(tmp_path.glob("asked.wav.died-*"))) == 2


def test_songs_that_all_end_their_process_are_not_the_culprits(
    model: Path, songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_processes, "MAX_DEATHS_IN_A_ROW", 0)
    (tmp_path / "a.wav").write_bytes(songs[3].read_bytes())
    inputs = [{"id": "a", "audio": Trap(tmp_path / "a.wav", signal.SIGABRT, 99)}]
    with pytest.raises(RuntimeError, match=r"1 songs? in a row ended the process .* at last a: it died \(SIGABRT\)"):
        list(ScorerProcesses(model, num_processes=1, devices=["cpu"]).score(inputs, on_error="report"))


def test_a_process_that_dies_before_it_has_the_model_stops_the_run(
    model: Path, songs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_processes, "_serve", die_at_once)
    with pytest.raises(RuntimeError, match=r"died \(SIGKILL\) before it had loaded the model.*with fewer processes"):
        list(ScorerProcesses(model, num_processes=1).score(describe(songs), on_error="report"))


@pytest.mark.parametrize(
    ("serve", "kind", "message"),
    [
        (slip, WorkerFaultError, "TypeError: .*unexpected keyword"),
        (fail_oddly, RuntimeError, "PeculiarError: the card is gone"),
    ],
)
def test_what_is_no_song_s_fault_stops_the_run(
    serve: Any, kind: type, message: str, model: Path, songs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_processes, "_serve", serve)
    with pytest.raises(kind, match=message) as raised:
        list(ScorerProcesses(model, num_processes=1, devices=["cpu"]).score(describe(songs), on_error="report"))
    assert "in _serve" in raised.value.__notes__[0]  # which --traceback shows


def test_what_loading_says_is_said_here(songs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json in this folder"):
        list(ScorerProcesses(tmp_path, num_processes=1).score(describe(songs), on_error="report"))


def test_a_model_that_was_replaced_meanwhile_stops_the_run(model: Path, songs: list[Path]) -> None:
    scorer = ScorerProcesses(model, num_processes=1, devices=["cpu"], weights_sha256="0" * 64)
    with pytest.raises(ValueError, match="was replaced by another model since this run began"):
        list(scorer.score(describe(songs), on_error="report"))


def test_what_cannot_be_meant_is_refused(model: Path, songs: list[Path]) -> None:
    with pytest.raises(ValueError, match="`num_processes` must be at least 1, got 0"):
        ScorerProcesses(model, num_processes=0)
    with pytest.raises(ValueError, match=r"`on_error` is None, and songs that are scored in processes"):
        ScorerProcesses(model, num_processes=1).score(describe(songs))


def test_each_process_has_its_share_of_cores_and_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [count_threads(number) for number in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert count_threads(2) == 3  # whatever the user has set is not exceeded
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert list_devices(None) == [None]
    assert list_devices("cpu") == ["cpu"]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    assert list_devices(None) == list_devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert list_devices("cuda:1") == ["cuda:1"]
    assert list_devices("cpu") == ["cpu"]


def test_processes_run_on_the_devices_in_turns(songs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def note(target: Any, arguments: tuple) -> Any:
        started.append(arguments[1]["device"])
        raise KeyboardInterrupt

    monkeypatch.setattr(score_processes, "start_worker", note)
    run = score_processes._Run(ScorerProcesses(num_processes=3, devices=["cuda:0", "cuda:1"]), [], {})
    for number in range(3):
        with pytest.raises(KeyboardInterrupt):
            run._start(number)
    assert started == ["cuda:0", "cuda:1", "cuda:0"]


def test_a_song_of_an_object_store_is_sent_unopened() -> None:
    song = pickle.loads(pickle.dumps(open_song("s3://bucket/key.wav")))  # noqa: S301
    assert song.name == "s3://bucket/key.wav"


@pytest.fixture
def table(songs: list[Path], tmp_path: Path) -> Path:
    """A table of the songs, one row of which says nothing."""
    rows = [f"song-{number},{song}" for number, song in enumerate(songs)]
    (tmp_path / "songs.csv").write_text("\n".join(["id,path", *rows, "empty,"]) + "\n")
    return tmp_path / "songs.csv"


@pytest.mark.parametrize(("command", "option"), [("score", "--model"), ("label", "--teacher")])
def test_commands_write_the_bytes_of_one_process(
    command: str, option: str, model: Path, table: Path, capfd: pytest.CaptureFixture
) -> None:
    written = []
    for number in ("1", "2"):
        output = table.with_name(f"{number}.jsonl")
        words = [option, str(model), "--device", "cpu", "--output", str(output), "--num-processes", number]
        assert main([command, str(table), *words]) == 1
        said = capfd.readouterr().err
        assert "songs.csv:10: its path is" in said
        assert "Traceback" not in said
        written.append(output.read_bytes())
    assert written[0] == written[1]
    assert len(written[0].splitlines()) == 9


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_stopped_leaves_no_process_and_is_taken_up(
    number: signal.Signals, model: Path, songs: list[Path], tmp_path: Path
) -> None:
    """Also by another number of processes. Ctrl-C reaches all processes, SIGKILL the one that started the others."""
    mark, output = f"APEX_TEST={os.urandom(8).hex()}", tmp_path / "scores.jsonl"
    for copy in range(30):
        (tmp_path / "songs" / f"{copy}.wav").parent.mkdir(exist_ok=True)
        (tmp_path / "songs" / f"{copy}.wav").write_bytes(songs[3].read_bytes())
    words = ["score", str(tmp_path / "songs"), "--model", str(model), "--device", "cpu", "--output"]
    environment = {**os.environ, **dict([mark.split("=")])}
    process = subprocess.Popen(
        [sys.executable, stopped_command.PROGRAM, *words, str(output), "--num-processes", "2"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=stopped_command.take_interrupts,
    )
    stopped_command.wait_until_stopped(process)
    assert len(list_marked(mark)) >= 3
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    os.kill(process.pid, signal.SIGCONT)
    said = process.communicate(timeout=PATIENCE)[1]
    wait_for(lambda: not list_marked(mark))
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in said
    assert main([*words, str(output)]) == main([*words, str(tmp_path / "whole.jsonl")]) == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def list_marked(mark: str) -> list[str]:
    """List the processes whose environment has a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(folder.name)
    return found
