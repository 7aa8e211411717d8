"""
One run at a time per output: a lock that lives exactly as long as the process that holds it.

What comes in is the file or folder that a command is about to write; while the lock is held, a second run on it is
refused, with the id of the first. The operating system drops the lock when its process ends, however it ends, so a
killed run leaves nothing to clean up but an empty claim, which the next run takes over.
"""

import contextlib
import errno
import logging
import os
import socket
import time
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
# A file system without locks, such as some network mounts.
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
WAIT_SECONDS = 0.2
OPEN_ATTEMPTS = 20


class OutputInUseError(OSError):
    """Another run is writing this output. The message names its process."""


class OutputLock:
    """
    Hold an output for this process. Use it as a context manager.

    The lock is the file `.lock` in an output folder, or `.NAME.lock` beside an output file. It is removed when the
    lock is given back. Taking it also proves that the output can be written, before any work is done.

    Args:
        output (`str` or `os.PathLike`):
            What will be written.
        is_file (`bool`, defaults to `False`):
            Whether that is a file rather than a folder. A folder is made if it is missing.
        waits (`bool`, defaults to `False`):
            Whether to wait for the other run instead of refusing: for caches, where both want the same content.

    Raises:
        [`OutputInUseError`]: If another run holds the output and `waits` is false.
        `OSError`: If the place cannot be written.
    """

    def __init__(self, output: str | os.PathLike, *, is_file: bool = False, waits: bool = False):
        self.output = Path(output).expanduser()
        self.folder = self.output.parent if is_file else self.output
        self.path = self.folder / (f".{self.output.name}{LOCK_NAME}" if is_file else LOCK_NAME)
        self._waits = waits
        self._made_folder = False
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self._made_folder = not self.folder.exists()
        try:
            self._take()
        except BaseException:
            self._remove_empty_folder()
            raise
        # The open file is shared with forked children: one that outlives this process must not keep the output.
        _held.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.discard(self)
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)  # while it is still ours: nobody else's claim can lie here
            os.close(self._descriptor)
            self._descriptor = None
        self._remove_empty_folder()

    def forget(self) -> None:
        """Close the lock in a forked child, without giving it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> None:
        if fcntl is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            logger.warning("%s: this system has no file locks: a second run here would not be noticed", self.output)
            return
        is_announced = False
        while True:
            holder = self._try()
            if self._descriptor is not None:
                return
            if not self._waits:
                raise OutputInUseError(
                    f"{self.output}: {holder} is writing this output. Wait until it ends, or name another output."
                )
            if not is_announced:
                logger.warning("waiting for %s, which is writing %s", holder, self.output)
                is_announced = True
            time.sleep(WAIT_SECONDS)

    def _try(self) -> str:
        """Take the lock if it is free; return who holds it."""
        descriptor = self._open()
        try:
            if not _lock(descriptor, self.path):
                return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            # The holder before us may have removed the file between our opening and our locking it.
            if not _is_same_file(descriptor, self.path):
                return self._try()
            holder = f"process {os.getpid()} on {socket.gethostname()}"
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{holder}\n".encode(), 0)
            except OSError:
                self.path.unlink(missing_ok=True)
                raise
            self._descriptor, descriptor = descriptor, -1
            return holder
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _open(self) -> int:
        for _ in range(OPEN_ATTEMPTS):
            # A holder that leaves nothing behind removes the folder, maybe between our making and our using it.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                return self._make_file()
            time.sleep(0.001)
        return self._make_file()  # or say what is wrong

    def _make_file(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _remove_empty_folder(self) -> None:
        if self._made_folder:
            try:
                self.folder.rmdir()
            except OSError:  # it holds what the run wrote
                return


def _lock(descriptor: int, path: Path) -> bool:
    locks: Any = fcntl
    try:
        locks.flock(descriptor, locks.LOCK_EX | locks.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        logger.warning("%s: no locks on this file system: a second run here would not be noticed (%s)", path, error)
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


_held: set[OutputLock] = set()


def _forget_all() -> None:
    for lock in _held:
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
