"""
The folder that one run of the page keeps its uploads in, and what becomes of those that earlier runs left.

Each run makes its own folder and holds a lock of the operating system on it. Whoever starts removes the folders whose
lock nobody holds: those of runs that were killed. A run that ends removes its own.
"""

import atexit
import contextlib
import functools
import os
import shutil
import stat
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

BASE_NAME = "apex-music-space"
LOCK_SUFFIX = ".lock"
RUN_PREFIX = "run-"


class RunFolder:
    """
    Make the folder of this run, and remove those of runs that are dead.

    Args:
        base (`Path`, *optional*):
            Folder of all runs of this user; by default one in the system's temporary folder, which `TMPDIR` names.

    Raises:
        `PermissionError`: If `base` is a link, no folder, or another user's.
    """

    def __init__(self, base: Path | None = None):
        base = base or Path(tempfile.gettempdir()) / f"{BASE_NAME}-{_get_user_number()}"
        _make_private(base)
        with _build_lock(base / f"runs{LOCK_SUFFIX}"):  # so that no folder is looked at between its birth and its lock
            _remove_dead(base)
            self.path = Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=base)).resolve()
            self._lock = _build_lock(self.path.with_suffix(LOCK_SUFFIX))
            self._lock.acquire()

    def close(self) -> None:
        """Remove the folder with all that is in it, and with what an upload that still runs would add."""
        gone = self.path.with_suffix(".gone")
        with contextlib.suppress(OSError):
            self.path.rename(gone)
        for path in (gone, self.path):
            shutil.rmtree(path, ignore_errors=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()


@functools.cache
def get_run_folder() -> Path:
    """Return the folder of this process, made at the first call and removed when the process ends."""
    folder = RunFolder()
    atexit.register(folder.close)
    return folder.path


def _build_lock(path: Path) -> FileLock:
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def _get_user_number() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _make_private(base: Path) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    try:
        base.mkdir(mode=0o700)
    except FileExistsError:
        status = base.lstat()
        is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if not stat.S_ISDIR(status.st_mode) or not is_own:
            raise PermissionError(
                f"{base} must be a folder of this user, to keep uploads in, but it is a link, a file or another "
                "user's. Remove it, or name another temporary folder with TMPDIR."
            ) from None


def _remove_dead(base: Path) -> None:
    """Remove the folders of runs that hold no lock any more."""
    for folder in base.glob(f"{RUN_PREFIX}*"):
        if folder.suffix == LOCK_SUFFIX:
            continue
        path = folder.with_suffix(LOCK_SUFFIX)
        lock = _build_lock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        path.unlink(missing_ok=True)
        lock.release()
