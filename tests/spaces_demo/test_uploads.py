"""Uploads go when the last page that uses them is closed; files that are not uploads stay."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spaces_demo import uploads
from spaces_demo.uploads import UploadLog


def leave(session: str) -> Any:
    return SimpleNamespace(session_hash=session)


def test_uploads_are_deleted_with_the_last_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "get_upload_folder", lambda: str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    own, shared, sample = (
        tmp_path / "uploads" / "own.wav",
        tmp_path / "uploads" / "shared.wav",
        tmp_path / "sample.ogg",
    )
    for path in (own, shared, sample):
        path.touch()
    log = UploadLog()
    log.add("one", str(own), str(shared), str(sample), None)
    log.add("two", str(shared))
    log.add(None, str(sample))
    log.delete_session(leave("one"))
    assert not own.exists()
    assert shared.exists()
    log.delete_session(leave("two"))
    assert not shared.exists()
    assert sample.exists()
    log.delete_session(leave("never seen"))
