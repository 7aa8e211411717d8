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
from multiprocessing.connection import Connection


class WorkerDiedError(RuntimeError):
    """A process of the pool ended in the middle of its work; the message says what to do."""

    exit_status = 1  # neither the user's fault nor this program's


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
    context = get_context(start_method)
    end, end_sender = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_follow, initargs=(end, end_sender))
    try:
        yield pool
    except (BrokenProcessPool, OSError) as error:
        # A worker that dies while work is handed to it can close the pool's pipe first: "handle is closed".
        if isinstance(error, OSError) and str(error) != "handle is closed":
            raise
        # The pool ends the other processes, but can miss one that it is just starting, and then waits for it for ever.
        end_sender.close()
        raise WorkerDiedError(
            f"a process that {work} died: it was killed, ran out of memory, or a decoder crashed. What was finished "
            "is kept; give the same command again, with fewer processes if memory is short."
        ) from error
    except KeyboardInterrupt:
        end_sender.close()  # what they are at would be lost with this process, so nobody waits for it
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        end_sender.close()
        end.close()


def _follow(end: Connection, end_sender: Connection) -> None:
    """Leave Ctrl-C to the parent, and end when it ends or says so by closing its sender; the body of a process."""
    end_sender.close()  # this process's copy, which would keep the pipe open
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_end, args=(end,), daemon=True).start()


def _wait_for_end(end: Connection) -> None:
    parent = parent_process()
    connection.wait([end] if parent is None else [end, parent.sentinel])
    os._exit(1)
