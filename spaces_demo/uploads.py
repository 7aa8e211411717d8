"""
Delete uploads when the page that sent them is closed.

Gradio stores an upload under a hash of its content, so two visitors with the same file share it: it goes when the
last of them leaves. Uploads that were never scored, and those of programs, which close no page, are left to the
deletion by age.
"""

import threading
from collections import defaultdict
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder


class UploadLog:
    """Remember which session uses which uploaded file."""

    def __init__(self) -> None:
        self._paths: dict[str, set[Path]] = defaultdict(set)
        self._lock = threading.Lock()

    def add(self, session: str | None, *songs: str | None) -> None:
        """Note that the session of a page, if there is one, uses files."""
        folder = Path(get_upload_folder()).resolve()
        paths = {Path(song).resolve() for song in songs if song}
        if session:
            with self._lock:
                # Files outside the upload folder, such as the samples, are not ours to delete.
                self._paths[session] |= {path for path in paths if path.is_relative_to(folder)}

    def delete_session(self, request: gr.Request) -> None:
        """Delete the files of a session that has ended, except those that another session uses."""
        with self._lock:
            paths = self._paths.pop(request.session_hash or "", set())
            for path in paths - set().union(*self._paths.values()):
                path.unlink(missing_ok=True)
