"""
What visitors send: received within limits, kept for as long as it is needed, and removed.

Each request has a folder of its own below that of the run, so that what one visitor sends is never another's, and a
request that breaks off takes with it whatever had arrived. Bytes are counted before they are written. Folders go when
the page that scored them is closed, after a time in any case, and with the run.
"""

import asyncio
import contextlib
import functools
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.route_utils import FileUploadProgress, GradioMultiPartParser
from gradio.routes import file_upload_statuses
from gradio_client.utils import strip_invalid_filename_characters
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from spaces_demo.run_folder import get_run_folder
from spaces_demo.settings import SpaceSettings

FORM_BYTES = 64 * 1024
"""What a request counts for at least, and what its form may add to its songs."""
MAX_PROGRESS = 64
"""Uploads whose progress is told at the same time; of more, the oldest is told no longer."""


class UploadRefusedError(Exception):
    """An upload that is not taken. The message is for the visitor, `status` for HTTP."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass
class _Upload:
    """The folder of one request: its bytes so far, when the last of them came, and the page that scored it."""

    num_bytes: int
    touched: float
    session: str | None = None


class Uploads:
    """
    Keep the uploads of a page.

    Args:
        settings ([`SpaceSettings`]): How many bytes a file, and all files together, may have, and for how long.
        clock (`Callable`, *optional*): Seconds that never go back.
    """

    def __init__(self, settings: SpaceSettings, clock: Callable[[], float] = time.monotonic):
        self.settings = settings
        self.folder = Path(tempfile.mkdtemp(prefix="page-", dir=get_run_folder()))
        self._clock = clock
        self._uploads: dict[Path, _Upload] = {}
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        """Bytes of everything that is kept."""
        return sum(upload.num_bytes for upload in list(self._uploads.values()))

    async def receive(self, request: Request) -> list[str]:
        """
        Take the files of a request.

        Returns:
            `list[str]`: the path of each file, in the order sent.

        Raises:
            [`UploadRefusedError`]: If the request is no form of files, is too large, or there is no room.
        """
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise UploadRefusedError("An upload must be a form (multipart/form-data) of files.", 400)
        self._refuse_announced(request.headers.get("content-length"))
        folder = self._open()
        progress, upload_id = _track(request.query_params.get("upload_id"))
        parser = GradioMultiPartParser(
            request.headers,
            self._count(request.stream(), folder),
            max_files=self.settings.max_songs,
            max_fields=0,
            max_file_size=self.settings.max_bytes,
            upload_dir=folder,
            upload_id=upload_id,
            upload_progress=progress,
        )
        try:
            form = await parser.parse()
            return [_place(file, folder / str(number)) for number, (_, file) in enumerate(form.multi_items())]
        except MultiPartException as error:
            self._remove(folder)
            status = 413 if "maximum allowed size" in error.message or "Too many files" in error.message else 400
            raise UploadRefusedError(error.message, status) from error
        except OSError as error:
            self._remove(folder)
            if isinstance(error, FileNotFoundError):  # removed by age: no byte had come for all that time
                raise UploadRefusedError("The upload took too long. Send it again.", 408) from error
            raise UploadRefusedError(
                f"The upload cannot be stored ({error.strerror}). Try again later.", 507
            ) from error
        except BaseException:
            self._remove(folder)
            raise

    def claim(self, session: str | None, *songs: str | None) -> None:
        """Note that the page of a session uses files, which go with it."""
        if not session:
            return
        for song in filter(None, songs):
            path = Path(song).resolve()
            # Files that are no uploads, such as the samples, are not ours to delete.
            if path.is_relative_to(self.folder):
                upload = self._uploads.get(self.folder / path.relative_to(self.folder).parts[0])
                if upload is not None:
                    upload.session = upload.session or session

    def release(self, request: gr.Request) -> None:
        """Delete the files of a page that was closed."""
        self._remove_where(lambda upload: bool(upload.session) and upload.session == request.session_hash)

    def remove_old(self) -> None:
        """Delete every upload, whole or not, of which nothing came for as long as the settings say."""
        limit = self._clock() - 60 * self.settings.keep_minutes
        self._remove_where(lambda upload: upload.touched <= limit)

    @contextlib.asynccontextmanager
    async def watch(self, app: Any) -> AsyncIterator[None]:
        """Delete by age while the server runs, and everything when it stops."""
        task = asyncio.create_task(self._remove_regularly())
        try:
            yield
        finally:
            task.cancel()
            self._remove_where(lambda upload: True)

    async def _remove_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.compute_pause())
            await asyncio.to_thread(self.remove_old)

    def compute_pause(self) -> float:
        """Compute the seconds until something may be old: a while, and less if an upload is sooner."""
        keep = 60 * self.settings.keep_minutes
        oldest = min((upload.touched for upload in list(self._uploads.values())), default=math.inf)
        return max(0.01, min(60.0, keep / 4, oldest + keep - self._clock()))

    def _refuse_announced(self, length: str | None) -> None:
        num_bytes = int(length) if length is not None and length.isdecimal() else 0
        limit = self.settings.max_songs * self.settings.max_bytes + FORM_BYTES
        if num_bytes > limit:
            raise UploadRefusedError(
                f"The upload has {num_bytes} bytes, but the limit is {self.settings.max_songs} songs of "
                f"{self.settings.max_megabytes:g} MB.",
                413,
            )
        self._refuse_full(num_bytes)

    def _refuse_full(self, num_bytes: int) -> None:
        if self.num_bytes + num_bytes > self.settings.max_total_bytes:
            raise UploadRefusedError(
                "This page holds as many uploads as it can. They are deleted after "
                f"{self.settings.keep_minutes:g} minutes; try again a little later.",
                503,
            )

    def _open(self) -> Path:
        with self._lock:
            self._refuse_full(FORM_BYTES)
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            self._uploads[folder] = _Upload(FORM_BYTES, self._clock())
        return folder

    async def _count(self, chunks: AsyncGenerator[bytes], folder: Path) -> AsyncGenerator[bytes]:
        """Pass on what arrives once there is room for it."""
        limit = self.settings.max_songs * self.settings.max_bytes + FORM_BYTES
        num_seen = 0
        async for chunk in chunks:
            num_seen += len(chunk)
            with self._lock:
                upload = self._uploads.get(folder)
                if upload is None:
                    raise FileNotFoundError(folder)
                more = max(0, num_seen - upload.num_bytes)
                self._refuse_full(more)
                upload.num_bytes += more
                upload.touched = self._clock()
            if num_seen > limit:
                raise UploadRefusedError(f"The upload has more than {limit} bytes, the limit of this page.", 413)
            yield chunk

    def _remove_where(self, is_meant: Callable[[_Upload], bool]) -> None:
        with self._lock:
            folders = [folder for folder, upload in self._uploads.items() if is_meant(upload)]
        for folder in folders:
            self._remove(folder)

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with self._lock:  # only now is there room for others
            self._uploads.pop(folder, None)


@functools.cache
def get_uploads(settings: SpaceSettings) -> Uploads:
    """Return the uploads of the page with these settings: one to those that build it and those that serve it."""
    return Uploads(settings)


def forget_progress() -> None:
    """Make room for one more upload whose progress is told; Gradio keeps each for ever that nobody asks after."""
    for known in (file_upload_statuses._statuses, file_upload_statuses._signals):
        while len(known) >= MAX_PROGRESS:
            known.pop(next(iter(known)))


def _track(upload_id: str | None) -> tuple[FileUploadProgress | None, str | None]:
    """Begin to tell the progress of an upload, if its page asks for that."""
    if not upload_id:
        return None, None
    forget_progress()
    file_upload_statuses.track(upload_id)
    return file_upload_statuses, upload_id


def _place(file: Any, folder: Path) -> str:
    """Give a received file its name, without anything that is no part of a name."""
    name = strip_invalid_filename_characters(Path(file.filename or "").name)
    folder.mkdir()
    path = folder / (name if name.strip(". ") else "song")
    file.file.close()
    os.replace(file.file.name, path)
    return str(path)
