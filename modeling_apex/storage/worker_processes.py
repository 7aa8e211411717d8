"""
Processes that share the work of one, and end with it.

They end when the process that started them does, however that ends: one that is killed leaves none behind, waiting for
ever. Ctrl-C is left to the process that started them, from their first moment on.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any


def start_worker(target: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
    """
    Start a fresh interpreter that runs a function.

    Args:
        target (`Callable`):
            A function of a module, which begins with [`follow_parent`].
        arguments (`tuple`):
            What it is called with; connections may be among it.

    Returns:
        `multiprocessing.process.BaseProcess`: running.
    """
    from multiprocessing import get_context

    # Spawned, not forked: forking a process with running threads can hang.
    process = get_context("spawn").Process(target=target, args=arguments, daemon=True)
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        process.start()
        return process
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # as `start` does, which would unblock Ctrl-C
    # What is blocked here is blocked there, while it imports and cannot yet say what it leaves to others.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def follow_parent(*ends: Any) -> None:
    """
    Leave Ctrl-C to the parent, and end this process when the parent ends.

    Args:
        ends (`multiprocessing.connection.Connection`):
            By closing the other side of one of these, the parent ends this process too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_end, args=(ends,), daemon=True).start()


def _wait_for_end(ends: tuple[Any, ...]) -> None:
    from multiprocessing import connection, parent_process

    parent = parent_process()
    connection.wait(list(ends) if parent is None else [*ends, parent.sentinel])
    os._exit(1)
