"""Ctrl-C, SIGTERM and SIGHUP: one sentence, nothing temporary left, and the status that says which it was."""

import http.server
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from modeling_apex.storage.output_lock import OutputLock

from small_model import build_small_model

REPOSITORY = Path(__file__).parent.parent
STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SAID = {signal.SIGINT: "interrupted; ", signal.SIGTERM: "stopped by SIGTERM; ", signal.SIGHUP: "stopped by SIGHUP; "}
# What a command may be at that Python does not interrupt, or that does not let itself be interrupted.
OBSTACLES = {
    "native code": "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "a library that swallows it": """
        try:
            time.sleep(600)
        except BaseException:
            time.sleep(600)
    """,
    "a thread that is waited for": """
        thread = threading.Thread(target=time.sleep, args=(600,))
        thread.start()
        thread.join()
    """,
    "cleaning up that hangs": """
        try:
            time.sleep(600)
        finally:
            hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
    """,
    "nothing in particular": "time.sleep(600)",
}
PROGRAM = """
import hashlib, multiprocessing, sys, threading, time
from modeling_apex.process_exit import run_command
from modeling_apex.storage.stop_signals import open_temporary_folder

def sleep(has_begun):
    has_begun.set()
    time.sleep(600)

def run(arguments):
    fork = multiprocessing.get_context("fork")
    has_begun = fork.Event()
    child = fork.Process(target=sleep, args=(has_begun,), daemon=True)
    child.start()
    has_begun.wait()  # a signal within the first steps of a fork is Python's to report
    with open_temporary_folder("apex-test-") as folder:
        print(folder, child.pid, flush=True)
{body}
    return 0

sys.exit(run_command("program", run, words=None, when_interrupted="do it again"))
"""


class TricklingServer(http.server.ThreadingHTTPServer):
    """A server on the loopback that sends a song so slowly that it never ends."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.num_pieces = 0
        self.is_over = threading.Event()

    def handle_error(self, *arguments: object) -> None:
        pass  # the client hangs up on purpose


class _Handler(http.server.BaseHTTPRequestHandler):
    server: TricklingServer

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.is_over.wait(0.02):
            self.wfile.write(b"f")
            self.server.num_pieces += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def run_trickling_server() -> Iterator[TricklingServer]:
    """Serve for the length of a `with` block."""
    server = TricklingServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def start(*words: str, ignored: int | None = None, **environment: str) -> Iterator[subprocess.Popen]:
    """A Python process that takes signals as one from a terminal does, killed at the end if it still runs."""

    def take_signals() -> None:
        for number in STATUSES:
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,  # open until `communicate`, whatever the tests' own is
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **environment},
        preexec_fn=take_signals,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(is_so: Callable[[], object], process: subprocess.Popen) -> None:
    while not is_so():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def wait_for_end(*processes: str) -> None:
    """Wait until these are gone: killed ones take a moment, and others follow their parent by themselves."""
    for process in processes:
        with suppress(FileNotFoundError):  # Z: ended, and nobody has asked for its status
            while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)


def check_stopped(process: subprocess.Popen, number: int) -> str:
    """Send the signal; the process must end with its status and one sentence. Return what it said."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)  # a thing that is not interrupted would take ten minutes
    assert process.returncode == STATUSES[number], errors
    assert errors.count(SAID[number]) == 1, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    return errors


@pytest.mark.parametrize("number", STATUSES)
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_signal_ends_a_command_whatever_it_is_at(obstacle: str, number: int) -> None:
    body = textwrap.indent(textwrap.dedent(OBSTACLES[obstacle]), " " * 8)
    with start("-c", PROGRAM.format(body=body)) as process:
        folder, child = process.stdout.readline().split()
        assert Path(folder).is_dir()
        assert check_stopped(process, number) == f"\n{SAID[number]}do it again\n"
    assert not Path(folder).exists()
    wait_for_end(child)


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    body = '        sys.stdin.readline()\n        print("went on")'
    with start("-c", PROGRAM.format(body=body), ignored=signal.SIGHUP) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (0, "went on\n", "")


def test_a_signal_to_a_forked_child_does_not_stop_its_parent() -> None:
    body = """
        import os, signal
        os.kill(child.pid, signal.SIGTERM)
        child.join()
        time.sleep(1.5)
        print(child.exitcode)
    """
    with start("-c", PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))) as process:
        process.stdout.readline()
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (0, f"{-signal.SIGTERM}\n", "")


def test_a_program_that_calls_a_command_keeps_its_signals(tiny_folder: Path) -> None:
    from modeling_apex.cli import main

    before = [signal.getsignal(number) for number in STATUSES]
    assert main(["verify", "--model", str(tiny_folder / "absent")]) == 2
    assert [signal.getsignal(number) for number in STATUSES] == before


@pytest.fixture
def model(tmp_path: Path) -> Path:
    build_small_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("number", STATUSES)
def test_a_download_that_trickles_is_stopped(number: int, model: Path, tmp_path: Path) -> None:
    with run_trickling_server() as server:
        words = ["score", f"{server.url}/song.flac", "--model", str(model), "--allow-private-addresses"]
        with start("-m", "modeling_apex.cli", *words, "--output", str(tmp_path / "scores.csv")) as process:
            wait_until(lambda: server.num_pieces > 3, process)
            assert "run the same command again to resume" in check_stopped(process, number)


def test_waiting_for_a_lock_is_stopped(tmp_path: Path) -> None:
    body = f"        OutputLock({str(tmp_path / 'cache')!r}, waits=True).__enter__()"
    program = PROGRAM.replace(
        "import hashlib", "from modeling_apex.storage.output_lock import OutputLock\nimport hashlib"
    )
    with OutputLock(tmp_path / "cache"), start("-c", program.format(body=body)) as process:
        process.stdout.readline()
        assert "waiting for process" in process.stderr.readline()
        check_stopped(process, signal.SIGTERM)


def test_a_build_with_workers_is_stopped(tmp_path: Path) -> None:
    words = ["synthetic", "--layout", "training", "--num-songs", "40", "--num-processes", "2", "--seconds", "60"]
    with start("-m", "datasets_scripts.build", *words, "--output", str(tmp_path / "world")) as process:
        wait_until(lambda: list(tmp_path.glob("world/audio/*.flac")), process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        assert "run the same command again to resume" in check_stopped(process, signal.SIGTERM)
    wait_for_end(*children)


def test_publishing_leaves_no_copy(tmp_path: Path) -> None:
    """The copy of a model is being made when the signal comes: the copy holds, as a slow disk does."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = """
        import sys, time
        from hub_card import publish
        publish.publish = lambda arguments: publish.publish_staged(hold, publish.UploadTarget("me/m"), message="m",
                                                                   is_dry_run=True)
        def hold(folder):
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(bytes(1000))
            print("ready", flush=True)
            time.sleep(600)
        sys.argv[1:] = ["--model", "m", "--repo", "me/m", "--dry-run"]
        sys.exit(publish.main())
    """
    with start("-c", textwrap.dedent(program), TMPDIR=str(temporary)) as process:
        wait_until(lambda: "ready" in process.stdout.readline(), process)
        assert list(temporary.glob("apex-publish-*/folder/model.safetensors"))
        assert "a commit is all or nothing" in check_stopped(process, signal.SIGTERM)
    assert not list(temporary.iterdir())


def test_an_export_leaves_no_half_graph(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    output = tmp_path / "graph"
    words = ["export", "--model", str(model), "--format", "onnx", "--output", str(output)]
    with start("-m", "modeling_apex.cli", *words) as process:
        wait_until(lambda: list(tmp_path.glob(".graph.writing/*")), process)
        check_stopped(process, signal.SIGTERM)
    assert not list(tmp_path.glob(".graph*"))
    assert not output.exists()
