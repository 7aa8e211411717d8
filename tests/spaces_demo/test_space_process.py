"""A Space as a process: what is left on the disk however it ends, and what it says about a wrong setting."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import PATIENCE
from stopped_command import take_interrupts

from spaces_demo import app as app_module

ROOT = Path(__file__).parents[2]


class SpaceProcess:
    """A Space that runs in a process of its own, and keeps its uploads below `folder`."""

    def __init__(self, model: Path, folder: Path):
        environment = {
            **os.environ,
            "TMPDIR": str(folder),
            "APEX_MODEL": str(model),
            "GRADIO_SERVER_NAME": "127.0.0.1",
        }
        environment.pop("GRADIO_TEMP_DIR", None)  # which the Spaces inside this process have set
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "spaces_demo.app"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=take_interrupts,
        )
        assert self.process.stdout is not None
        line = next(line for line in self.process.stdout if "http://" in line)
        self.url = line[line.index("http://") :].split()[0].rstrip("/")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def start(model_folder: Path, tmp_path: Path) -> Iterator[Any]:
    running: list[SpaceProcess] = []

    def build() -> SpaceProcess:
        running.append(SpaceProcess(model_folder, tmp_path))
        return running[-1]

    yield build
    for space in running:
        space.process.kill()
        space.process.wait()
        space.process.stdout.close()  # type: ignore[union-attr]


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def begin_upload(url: str) -> socket.socket:
    """Send the first half of a file, and leave the connection open."""
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="half.wav"\r\n\r\n' + bytes(100_000)
    connection.sendall(
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + head
    )
    return connection


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130), ("SIGKILL", -9)])
def test_nothing_stays_however_a_space_ends(
    start: Any, songs_folder: Path, tmp_path: Path, name: str, status: int
) -> None:
    space = start()
    content = (songs_folder / "first.wav").read_bytes()
    api = f"{space.url}/gradio_api"
    path = httpx.post(f"{api}/upload", files={"files": ("first.wav", content)}, timeout=PATIENCE).json()[0]
    song = {"path": path, "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(f"{api}/call/score", json={"data": [song, None]}, timeout=PATIENCE).json()["event_id"]
    assert "event: complete" in httpx.get(f"{api}/call/score/{event}", timeout=PATIENCE).text
    assert [file.name for file in list_files(tmp_path)] == ["first.wav"]  # the report is in no file
    with begin_upload(space.url):
        while sum(file.stat().st_size for file in list_files(tmp_path)) <= len(content):
            time.sleep(0.01)
        assert space.end(getattr(signal, name)) == status
    if name == "SIGKILL":  # which nobody can answer, so the next start removes what is left
        assert len(list_files(tmp_path)) == 2
        assert start().end(signal.SIGTERM) == 143
    assert list_files(tmp_path) == []
    assert [file.name for file in tmp_path.rglob("*.lock")] == ["runs.lock"]


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("APEX_QUEUE", "many", "APEX_QUEUE must be a whole number, got 'many'"),
        ("APEX_MAX_MB", "inf", "APEX_MAX_MB must be positive and finite, got inf"),
        ("APEX_TOTAL_MB", "50", "APEX_TOTAL_MB is 50, but one upload may have 50"),
        ("APEX_MODEL", "/nowhere/model", "/nowhere/model"),
        ("APEX_DEVICE", "abacus", "APEX_DEVICE is 'abacus', which this machine cannot use"),
        ("APEX_DEVICE", "meta", "APEX_DEVICE is 'meta', which this machine cannot use"),
        ("APEX_DEVICE", "hpu", "APEX_DEVICE is 'hpu', which this machine cannot use"),
        ("APEX_DEVICE", "xla", "APEX_DEVICE is 'xla', which this machine cannot use"),
        ("APEX_DEVICE", "cuda:99", "APEX_DEVICE is 'cuda:99', which this machine cannot use"),
    ],
)
def test_a_wrong_setting_ends_with_two(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, text: str, message: str
) -> None:
    monkeypatch.setattr(app_module.signal, "signal", lambda number, handler: None)  # this process keeps its own
    monkeypatch.setattr(app_module.gr.Blocks, "launch", lambda self, **options: pytest.fail("it was served"))
    monkeypatch.setenv(variable, text)
    assert app_module.main() == 2
    assert message in caplog.text
