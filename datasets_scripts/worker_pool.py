"""
Processes that share the work of a build, and end with it.

They end when the process that started them does, however that ends: a build that is killed leaves none behind, waiting
for ever. Ctrl-C is left to the process that started them, and one of them that dies stops the build with a message.
"""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process


class WorkerDiedError(RuntimeError):
    """A process of the pool ended in the middle of its work; the message says what to do."""


@contextmanager
def open_worker_pool(
    num_processes: int, *, start_method: str | None = None, work: str = "worked"
) -> Iterator[ProcessPoolExecutor]:
    """
    Start processes for the length of a `with` block.

    Args:
        num_processes (`int`):
            How many.
        start_method (`str`, *optional*):
            `"fork"` or `"spawn"`; defaults to that of the system. Forking a process with running threads can hang.
        work (`str`, defaults to `"worked"`):
            What they do, for the message when one dies: "a process that ... died".

    Returns:
        `Iterator[ProcessPoolExecutor]`: the pool.

    Raises:
        [`WorkerDiedError`]: If one of the processes dies.
    """
    pool = ProcessPoolExecutor(num_processes, mp_context=get_context(start_method), initializer=_follow_parent)
    try:
        yield pool
    except (BrokenProcessPool, OSError) as error:
        # A worker that dies while work is handed to it can close the pool's pipe first: "handle is closed".
        if isinstance(error, OSError) and str(error) != "handle is closed":
            raise
        raise WorkerDiedError(
            f"a process that {work} died: it was killed, ran out of memory, or a decoder crashed. What was finished "
            "is kept; give the same command again, with fewer processes if memory is short."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
