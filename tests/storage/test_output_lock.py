"""One run at a time per output, whatever happens to the first one."""

import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from modeling_apex.storage.links import LinkRefusedError
from modeling_apex.storage.output_lock import OutputInUseError, OutputLock

fork = multiprocessing.get_context("fork")


def test_a_second_run_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with OutputLock(tmp_path / "run"):
        message = rf"run: process {os.getpid()} on {socket.gethostname()} is writing this output\. Wait until it ends"
        with pytest.raises(OutputInUseError, match=message), OutputLock(tmp_path / "run"):
            pass
        with OutputLock(tmp_path / "other"):
            pass
    with OutputLock(tmp_path / "run"):
        pass


def test_nothing_stays_behind_but_what_was_written(tmp_path: Path) -> None:
    with OutputLock(tmp_path / "empty") as lock:
        assert [path.name for path in lock.folder.iterdir()] == [".lock"]
    with OutputLock(tmp_path / "used") as lock:
        (lock.folder / "rows").touch()
    with OutputLock(tmp_path / "scores.csv", is_file=True):
        assert (tmp_path / ".scores.csv.lock").is_file()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["used", "used/rows"]


def hold(output: Path, channel: Connection, *, has_child: bool) -> None:
    with OutputLock(output):
        if has_child:
            child = fork.Process(target=time.sleep, args=(PATIENCE,))
            child.start()
            channel.send(child.pid)
        else:
            channel.send(None)
        time.sleep(PATIENCE)


@pytest.mark.parametrize("has_child", [False, True])
def test_a_killed_holder_gives_the_output_back(tmp_path: Path, has_child: bool) -> None:
    ours, theirs = fork.Pipe()
    process = fork.Process(target=hold, args=(tmp_path / "run", theirs), kwargs={"has_child": has_child})
    process.start()
    child = ours.recv()
    try:
        with pytest.raises(OutputInUseError, match=f"process {process.pid} on"), OutputLock(tmp_path / "run"):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert (tmp_path / "run" / ".lock").exists()
        with OutputLock(tmp_path / "run"):
            pass
    finally:
        if child is not None:  # it outlives its parent, and does not hold what that held
            os.kill(child, signal.SIGKILL)


def test_the_holder_is_alone_among_many(tmp_path: Path) -> None:
    inside, most, turns = [0], [0], []

    def take_turns() -> None:
        for _ in range(40):
            try:
                with OutputLock(tmp_path / "run"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.0005)
                    inside[0] -= 1
                    turns.append(1)
            except OutputInUseError:
                time.sleep(0.0002)

    threads = [threading.Thread(target=take_turns) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(turns) > 5


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, folder = os.open, tmp_path / "a" / "run"
    calls = []

    def remove_first(path: Path, *arguments: Any) -> int:
        calls.append(path)
        if len(calls) < 3:
            folder.rmdir()  # as a holder does that leaves nothing behind
        return make(path, *arguments)

    monkeypatch.setattr(os, "open", remove_first)
    with OutputLock(folder):
        assert (folder / ".lock").exists()
    assert len(calls) == 3


def test_a_place_that_never_comes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"), OutputLock(tmp_path / "file" / "run"):
        pass
    with pytest.raises(FileExistsError, match="file"), OutputLock(tmp_path / "file"):
        pass


def test_no_lock_is_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("dear diary")
    for target, link in (("diary", Path.symlink_to), ("absent/.lock", Path.symlink_to), ("diary", Path.hardlink_to)):
        run = tmp_path / f"run-{target[:6]}-{link.__name__}"
        run.mkdir()
        link(run / ".lock", tmp_path / target)
        with (
            pytest.raises(LinkRefusedError, match=r"\.lock: is a link, and nothing is written through"),
            OutputLock(run),
        ):
            pass
        assert os.path.lexists(run / ".lock")
    pipe = tmp_path / "pipe"
    pipe.mkdir()
    os.mkfifo(pipe / ".lock")
    with pytest.raises(LinkRefusedError, match=r"\.lock: is not a regular file"), OutputLock(pipe):
        pass
    assert (tmp_path / "diary").read_text() == "dear diary"


def test_a_run_that_waits_gets_its_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = OutputLock(tmp_path / "columns", is_file=True)
    first.__enter__()
    timer = threading.Timer(0.3, first.__exit__, (None, None, None))
    timer.start()
    with caplog.at_level(logging.WARNING), OutputLock(tmp_path / "columns", is_file=True, waits=True):
        assert not timer.is_alive() or not first._lock.is_locked
    timer.join()
    assert caplog.text.count(f"waiting for process {os.getpid()}") == 1


def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> None:
        def flock(*arguments: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    with caplog.at_level(logging.WARNING), OutputLock(tmp_path / "run"):
        pass
    assert "no locks on this file system: a second run here would not be noticed" in caplog.text
    refuse(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), OutputLock(tmp_path / "run"):
        pass


def test_a_full_disk_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="No space left"), OutputLock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_folder_from_which_a_link_leads_out_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "latest").symlink_to("../data")  # as trackers of experiments make them
    with OutputLock(tmp_path / "out"):
        pass
    (tmp_path / "out" / "data" / "shards").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(LinkRefusedError, match=r"out/data/shards: is a link that leads out of"),
        OutputLock(tmp_path / "out"),
    ):
        pass
    assert not (tmp_path / "out" / ".lock").exists()
    # The folder itself is the user's choice, and what lies beside an output file is not looked at.
    (tmp_path / "chosen").symlink_to(tmp_path / "victim")
    with OutputLock(tmp_path / "chosen"), OutputLock(tmp_path / "out" / "scores.csv", is_file=True):
        pass
