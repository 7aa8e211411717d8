"""
How a process is stopped: Ctrl-C, SIGTERM and SIGHUP end it in one way, cleanly, and within about a second.

A signal raises [`StopSignal`], a `KeyboardInterrupt`, in the main thread, so that whatever is open on the way out is
closed. Python raises it between two of its own instructions only; a library can swallow it, a long product of matrices
or a thread that waits for a slow server holds it up. So a thread is woken by the operating system at the same moment.
Where the process has not ended a little later, that thread removes temporary folders, ends child processes and then
ends the process as a kill would, which every output here survives.
"""

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Ctrl-C is to end a command within a second, whatever it is doing.
GRACE_SECONDS = 0.8

_folders: set[Path] = set()
_active: "StopSignals | None" = None


class StopSignal(KeyboardInterrupt):
    """The process was asked to end by a signal, whose number is `number`."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """
    Turn the signals that end a process into [`StopSignal`], in a process that is there for one command.

    A signal that is ignored beforehand, as `nohup` does with SIGHUP, stays ignored, and a handler that somebody else
    installed stays theirs.

    Args:
        describe (`Callable[[int], str]`):
            What to say when the process has to be ended without its main thread; called with the signal's number.
    """

    def __init__(self, describe: Callable[[int], str]):
        self._describe = describe
        self._raises = True
        self._may_speak = threading.Lock()
        defaults = (signal.SIG_DFL, signal.default_int_handler)
        self._previous = {number: signal.getsignal(number) for number in STOPPING}
        self._previous = {number: handler for number, handler in self._previous.items() if handler in defaults}
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)

    def install(self) -> None:
        """Begin; called in the main thread."""
        global _active
        _active = self
        threading.Thread(target=self._watch, name="apex-stop-signals", daemon=True).start()
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in self._previous:
            signal.signal(number, self._stop)

    def finish(self) -> None:
        """Say that the work is over: a signal interrupts nothing any more, and still ends a process that hangs."""
        self._raises = False
        self.claim_word()

    def claim_word(self) -> bool:
        """Tell whether the caller, main thread or watching thread, is the one that says what stopped the process."""
        return self._may_speak.acquire(blocking=False)

    def forget(self) -> None:
        """Give signals back to a process that was forked: they are then meant for that process alone."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._raises:  # a second one would break into the cleaning up after the first
            self._raises = False
            raise StopSignal(number)

    def _watch(self) -> None:
        number = 0
        while number not in self._previous:  # signals that others handle wake it too
            number = self._reading.recv(1)[0]
        threading.Event().wait(GRACE_SECONDS)
        if self.claim_word():
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, f"\n{self._describe(number)}\n".encode(errors="backslashreplace"))
        end_children()
        remove_temporary_folders()
        os._exit(128 + number)


def _forget_in_child() -> None:
    global _active
    _folders.clear()  # they are the parent's
    if _active is not None:
        _active.forget()
        _active = None


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_in_child)


@contextlib.contextmanager
def open_temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a folder for the length of a `with` block."""
    with remove_afterwards(Path(tempfile.mkdtemp(prefix=prefix))) as folder:
        yield folder


@contextlib.contextmanager
def remove_afterwards(folder: Path) -> Iterator[Path]:
    """Remove a folder after the `with` block, also where a signal leaves no time to end the block."""
    _folders.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _folders.discard(folder)


def remove_temporary_folders() -> None:
    """Remove what [`remove_afterwards`] was given and has not removed yet."""
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)


def end_children() -> None:
    """Kill the processes that this one started through `multiprocessing`."""
    if multiprocessing := sys.modules.get("multiprocessing"):
        for child in multiprocessing.active_children():
            with contextlib.suppress(Exception):  # it has ended by itself
                child.kill()
