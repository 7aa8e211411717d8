"""
A pool of processes that share the work of a build, and end with it; one that dies stops the build with a message.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from modeling_apex.storage.worker_processes import follow_parent


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
            "is kept; run the same command again, with fewer processes if memory is short."
        ) from error
    except KeyboardInterrupt:
        end_sender.close()  # what they are at would be lost with this process, so nobody waits for it
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        end_sender.close()
        end.close()


def _follow(end: Connection, end_sender: Connection) -> None:
    """Follow the parent, which can also say that it is over by closing its sender; the first thing in a process."""
    end_sender.close()  # this process's copy, which would keep the pipe open
    follow_parent(end)
