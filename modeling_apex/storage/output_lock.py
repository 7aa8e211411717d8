"""
One run at a time per output: a lock that lives exactly as long as the process that holds it.

What comes in is the file or folder that a command is about to write; while the lock is held, a second run on it is
refused, with the id of the first. The operating system drops the lock when its process ends, however it ends, so a
killed run leaves nothing to clean up but an empty claim, which the next run takes over. `filelock` does the locking;
here is who holds it, what is said, and that no lock is taken through a link.
"""

import contextlib
import errno
import logging
import os
import socket
import time
from pathlib import Path
from typing import Self

from modeling_apex.storage.links import refuse_link, refuse_links_out_of

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
        [`LinkRefusedError`]: If a link lies where the lock is to be, or leads out of the folder that is held.
        `OSError`: If the place cannot be written.
    """

    def __init__(self, output: str | os.PathLike, *, is_file: bool = False, waits: bool = False):
        self.output = Path(os.path.expanduser(output))
        self._is_file = is_file
        self.folder = self.output.parent if is_file else self.output
        self.path = self.folder / (f".{self.output.name}{LOCK_NAME}" if is_file else LOCK_NAME)
        from filelock import FileLock  # where nothing is locked, its import is saved

        self._lock = FileLock(self.path, thread_local=False, fallback_to_soft=False, on_acquired=self._write_holder)
        self._waits = waits
        self._made_folder = False

    def __enter__(self) -> Self:
        self._made_folder = not self.folder.exists()
        try:
            if not self._try():
                self._wait_or_refuse()
            if not self._is_file:
                refuse_links_out_of(self.folder)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # Windows removes it on release
                self.path.unlink()  # while it is still ours: nobody else's claim can lie here
            self._lock.release()
        self._remove_empty_folder()

    def _wait_or_refuse(self) -> None:
        holder = self._read_holder()
        if not self._waits:
            raise OutputInUseError(
                f"{self.output}: {holder} is writing this output. Wait until it ends, or choose another output."
            )
        logger.warning("waiting for %s, which is writing %s", holder, self.output)
        while not self._try():
            time.sleep(WAIT_SECONDS)

    def _try(self) -> bool:
        """Take the lock if it is free; tell whether this process may go on."""
        from filelock import Timeout

        for attempt in range(OPEN_ATTEMPTS):
            is_last = attempt == OPEN_ATTEMPTS - 1
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                refuse_link(self.path)
                self._lock.acquire(blocking=False)
                return True
            except Timeout:
                if self.path.exists():
                    return False
            except (FileNotFoundError, FileExistsError):
                # A holder that leaves nothing behind removes the folder, maybe between our making and our using it.
                if is_last or self.folder.is_file():
                    raise
            except OSError as error:
                if error.errno == errno.ELOOP:  # a link that came between the look and the lock
                    refuse_link(self.path)
                if error.errno not in UNSUPPORTED:
                    raise
                logger.warning(
                    "%s: no locks on this file system: a second run here would not be noticed (%s)", self.path, error
                )
                self.path.unlink(missing_ok=True)
                return True
            time.sleep(0.001)
        return False

    def _write_holder(self, descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError:
            self.path.unlink(missing_ok=True)  # a claim that nobody can read; it is still ours
            raise

    def _read_holder(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")[:200].strip() or "another process"
        except OSError:
            return "another process"

    def _remove_empty_folder(self) -> None:
        if self._made_folder:
            with contextlib.suppress(OSError):  # it holds what the run wrote
                self.folder.rmdir()
