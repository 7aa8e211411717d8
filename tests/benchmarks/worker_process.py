"""A process that does one task after another, so that a task that ends it costs no more than that task."""

import multiprocessing
from collections.abc import Callable
from typing import Any, Self


class WorkerProcess:
    """
    A worker process, and the connection to it. Use it as a context manager; `restart` it when it died or hangs.

    Args:
        work (`Callable[[Connection], None]`): What it does with its end of the connection.
    """

    def __init__(self, work: Callable[[Any], None]):
        self._work = work

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def start(self) -> None:
        """Start the process."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # No daemon: decoders may have child processes of their own.
        self._process = context.Process(target=self._work, args=(theirs,))
        self._process.start()
        theirs.close()

    def end(self) -> int | None:
        """Kill the process; return its exit status."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode
