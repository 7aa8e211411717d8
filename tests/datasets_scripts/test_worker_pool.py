"""Processes that share work end with the one that started them; one that dies is named."""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
from patience import PATIENCE

from datasets_scripts.build import main
from datasets_scripts.worker_pool import WorkerDiedError, open_worker_pool


def end_here(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_dies_is_named() -> None:
    message = r"a process that added numbers died: .*What was finished is kept; run the same command again"
    with (
        pytest.raises(WorkerDiedError, match=message),
        open_worker_pool(2, start_method="fork", work="added numbers") as pool,
    ):
        list(pool.map(end_here, range(5)))


def test_a_worker_that_is_just_starting_does_not_outlive_one_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    # While the second process is being started, the first one dies and all that are known are ended: under
    # Python 3.11 the second was not among them, and was waited for, for ever.
    start = SpawnProcess.start
    started = []

    def start_and_kill_another(process: SpawnProcess) -> None:
        start(process)
        started.append(process)
        if len(started) == 2:
            started[0].kill()
            deadline = time.monotonic() + 2  # later versions of Python end nothing before this returns
            while not pool._broken and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)

    monkeypatch.setattr(SpawnProcess, "start", start_and_kill_another)
    with pytest.raises(WorkerDiedError), open_worker_pool(2, start_method="spawn") as pool:
        list(pool.map(time.sleep, [0.01] * 4))
    assert len(started) == 2
    assert not multiprocessing.active_children()


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_pool_and_wait(channel: Connection) -> None:
    with open_worker_pool(2, start_method="fork") as pool:
        for number in range(2):
            pool.submit(time.sleep, 0.01 * number)
        channel.send([process.pid for process in multiprocessing.active_children()])
        time.sleep(PATIENCE)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_workers_do_not_outlive_a_killed_parent() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    parent = context.Process(target=start_pool_and_wait, args=(theirs,))
    parent.start()
    workers = ours.recv()
    assert workers
    assert all(map(is_running, workers))
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    deadline = time.monotonic() + PATIENCE
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, workers))


def test_a_build_whose_worker_is_killed_says_so_and_goes_on(suno_tree, tmp_path, capsys) -> None:
    words = ["training", "--source", str(suno_tree / "songs.jsonl"), str(suno_tree / "audio"), "suno"]
    words += ["--splits", "50:25:25", "--output"]
    assert main([*words, str(tmp_path / "whole")]) == 0

    def kill_a_worker() -> None:
        while len(workers := multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        workers[0].kill()

    thread = threading.Thread(target=kill_a_worker, daemon=True)
    thread.start()
    assert main([*words, str(tmp_path / "out"), "--num-workers", "2"]) == 1
    thread.join()
    assert "a process that examined audio files died" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "out")]) == 0
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes()
