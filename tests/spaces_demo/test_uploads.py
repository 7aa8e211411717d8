"""Uploads: bounded before they are written, gone when they break off, are old or their page closes."""

import asyncio
import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from spaces_demo.run_folder import RunFolder
from spaces_demo.settings import SpaceSettings
from spaces_demo.uploads import UploadRefusedError, Uploads

SETTINGS = SpaceSettings(max_megabytes=0.5, max_songs=2, total_megabytes=1.75, keep_minutes=1.0)
HALF = 512 * 1024


def build_form(*files: tuple[str, bytes]) -> bytes:
    parts = (
        f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files
    )
    return b"".join(parts) + b"--b--\r\n"


def send(uploads: Uploads, body: bytes, *, announces: bool = True, breaks_off: bool = False) -> list[str]:
    """Send a form as a browser does, in pieces; return the paths that the page answers with."""
    pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.disconnect"} if breaks_off else {"type": "http.request", "body": b""})

    async def receive() -> Any:
        return messages.pop(0)

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    if announces:
        headers.append((b"content-length", str(len(body)).encode()))
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    return asyncio.run(uploads.receive(Request(scope, receive)))


def list_files(uploads: Uploads) -> list[Path]:
    return [path for path in uploads.folder.rglob("*") if path.is_file()]


def leave(session: str) -> Any:
    return SimpleNamespace(session_hash=session)


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=0.0)


@pytest.fixture
def uploads(clock: SimpleNamespace) -> Uploads:
    return Uploads(SETTINGS, clock=lambda: clock.now)


def test_uploads_are_kept_under_their_names_and_go_with_their_page(uploads: Uploads, tmp_path: Path) -> None:
    own = send(uploads, build_form(("a.wav", b"one"), ("../../a.wav", b"two")))
    other = send(uploads, build_form(("..", b"three")))
    assert [Path(path).name for path in own + other] == ["a.wav", "a.wav", "song"]
    assert all(Path(path).is_relative_to(uploads.folder) for path in own + other)
    sample = tmp_path / "sample.ogg"
    sample.touch()
    uploads.claim("one", *own, str(sample), None)
    uploads.claim("two", *other)
    uploads.release(leave("one"))
    assert [str(path) for path in list_files(uploads)] == other
    assert sample.exists()
    uploads.release(leave("never seen"))
    uploads.release(leave("two"))
    assert list_files(uploads) == []
    assert uploads.num_bytes == 0


def test_every_upload_goes_after_the_time_that_is_promised(uploads: Uploads, clock: SimpleNamespace) -> None:
    send(uploads, build_form(("a.wav", b"never scored")))
    assert uploads.compute_pause() == 15.0
    clock.now = 59.0
    uploads.remove_old()
    assert len(list_files(uploads)) == 1
    assert uploads.compute_pause() == 1.0  # and not the whole pause, which would break the promise
    clock.now = 60.0
    uploads.remove_old()
    assert list_files(uploads) == []


def test_the_running_page_deletes_by_itself(clock: SimpleNamespace) -> None:
    uploads = Uploads(SpaceSettings(keep_minutes=0.001), clock=lambda: clock.now)

    async def run() -> None:
        async with uploads.watch(None):
            clock.now = 1.0
            while list_files(uploads):
                await asyncio.sleep(0.01)

    send(uploads, build_form(("a.wav", b"never scored")))
    asyncio.run(asyncio.wait_for(run(), 60))
    assert uploads.num_bytes == 0


def test_an_upload_that_breaks_off_is_gone(uploads: Uploads) -> None:
    with pytest.raises(ClientDisconnect):
        send(uploads, build_form(("a.wav", bytes(HALF)))[:-100_000], breaks_off=True)
    assert list(uploads.folder.iterdir()) == []
    assert uploads.num_bytes == 0


@pytest.mark.parametrize("announces", [True, False])
@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ([("a.wav", bytes(HALF + 1))], 413, "maximum allowed size"),
        ([("a.wav", b"")] * 3, 413, "Too many files. Maximum number of files is 2"),
        ([("a.wav", bytes(3 * HALF))], 413, "2 songs of 0.5 MB|maximum allowed size"),
    ],
)
def test_too_large_and_too_many_are_refused(
    uploads: Uploads, files: list[tuple[str, bytes]], status: int, message: str, announces: bool
) -> None:
    with pytest.raises(UploadRefusedError, match=message) as caught:
        send(uploads, build_form(*files), announces=announces)
    assert caught.value.status == status
    assert list(uploads.folder.iterdir()) == []


@pytest.mark.parametrize("announces", [True, False])
def test_all_uploads_together_have_a_limit(uploads: Uploads, announces: bool) -> None:
    full = build_form(("a.wav", bytes(HALF)), ("b.wav", bytes(HALF - 1000)))
    send(uploads, full)
    with pytest.raises(UploadRefusedError, match="holds as many uploads as it can") as caught:
        send(uploads, full, announces=announces)
    assert caught.value.status == 503
    assert len(list_files(uploads)) == 2
    assert uploads.num_bytes <= SETTINGS.max_total_bytes


def test_what_is_no_form_of_files_is_refused(uploads: Uploads) -> None:
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    with pytest.raises(UploadRefusedError, match="must be a form"):
        asyncio.run(uploads.receive(Request(scope)))
    with pytest.raises(UploadRefusedError, match="Too many fields"):
        send(uploads, b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nmuch text\r\n--b--\r\n')


def test_everything_goes_when_the_server_stops(uploads: Uploads) -> None:
    async def run() -> None:
        async with uploads.watch(None):
            assert list_files(uploads)

    send(uploads, build_form(("a.wav", b"one")))
    asyncio.run(run())
    assert list_files(uploads) == []


def test_a_start_removes_what_dead_runs_left_and_nothing_of_living_ones(tmp_path: Path) -> None:
    living = RunFolder(tmp_path / "runs")
    (living.path / "song.wav").touch()
    dead = RunFolder(tmp_path / "runs")
    (dead.path / "song.wav").touch()
    dead._lock.release()  # as the operating system does when a process is killed
    new = RunFolder(tmp_path / "runs")
    assert not dead.path.exists()
    assert (living.path / "song.wav").exists()
    for folder in (living, new):
        folder.close()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["runs.lock"]


def test_an_upload_that_still_runs_leaves_nothing_in_a_run_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "runs")
    (folder.path / "upload").mkdir()
    remove = os.rmdir

    def write_and_remove(path: Any, **options: Any) -> None:
        with contextlib.suppress(FileNotFoundError):  # the thread of an upload writes when all seemed to be removed
            (folder.path / "upload" / "song.wav").touch()
        remove(path, **options)

    monkeypatch.setattr(os, "rmdir", write_and_remove)
    folder.close()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["runs.lock"]


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(PermissionError, match="must be a folder of this user"):
        RunFolder(tmp_path / "link")
    assert list((tmp_path / "victim").iterdir()) == []
