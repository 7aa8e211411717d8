"""
Work on several segments at once, one in each of a few threads, where a CPU has cores for them.

Two cores that share every matrix product wait for each other at the end of each; two cores with a segment of their own
do not. So as many segments as there are workers are computed side by side, each with its worker's share of torch's
threads, and fewer than that one after the other, each with all of them.

The workers are threads that live as long as the process. Torch keeps its number of threads per thread, but a thread
that is new takes over what was set last anywhere; a worker sets its share, and its creator then sets its own number
again.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

import torch

MAX_WORKERS = 8  # each holds the intermediate results of a segment of its own

_starting = threading.Lock()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_starting.acquire, after_in_child=_starting.release, after_in_parent=_starting.release)

Item = TypeVar("Item")
Result = TypeVar("Result")


def count_workers() -> int:
    """
    Count the segments that are best given to the encoder at once on a CPU.

    Returns:
        `int`: at most 8; as many as leave none of the calling thread's torch threads without work.
    """
    num_threads = torch.get_num_threads()
    return max(range(1, MAX_WORKERS + 1), key=lambda number: (num_threads // number * number, number))


def map_in_workers(function: Callable[[Item, Callable[[], None]], Result], items: Sequence[Item]) -> list[Result]:
    """
    Apply a function to items, to full groups side by side.

    Args:
        function (`Callable`):
            What to apply, called with an item and with a function that it calls now and then: that raises
            `concurrent.futures.CancelledError` once nobody waits for the result any more. It runs without gradients.
        items (`Sequence`):
            What to apply it to.

    Returns:
        `list`: the results, in the order of the items.

    Raises:
        What the function raises.
    """
    num_workers = count_workers()
    num_side_by_side = len(items) // num_workers * num_workers if num_workers > 1 else 0
    results = _map_side_by_side(function, items[:num_side_by_side], num_workers) if num_side_by_side else []
    with torch.no_grad():
        return results + [function(item, _go_on) for item in items[num_side_by_side:]]


def _map_side_by_side(
    function: Callable[[Item, Callable[[], None]], Result], items: Sequence[Item], num_workers: int
) -> list[Result]:
    is_abandoned = threading.Event()

    def check() -> None:
        if is_abandoned.is_set():
            raise CancelledError

    def work(item: Item) -> Result:
        check()
        with torch.no_grad():
            return function(item, check)

    with _starting:
        pool = _start_workers(os.getpid(), num_workers, torch.get_num_threads() // num_workers)
    try:
        return [future.result() for future in [pool.submit(work, item) for item in items]]
    finally:  # after an error or an interrupt, the others stop at their next check
        is_abandoned.set()


def _go_on() -> None:
    """Check nothing: an interrupt reaches the calling thread by itself."""


@functools.cache
def _start_workers(process: int, num_workers: int, num_threads: int) -> ThreadPoolExecutor:
    """Start workers with so many torch threads each; a forked process, which inherits none, starts its own."""
    own = torch.get_num_threads()
    have_begun = threading.Barrier(num_workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes over the general number when it first asks for one, not later
        torch.set_num_threads(num_threads)
        have_begun.wait()

    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="apex-worker", initializer=begin)
    for _ in range(num_workers):
        pool.submit(_go_on)
    have_begun.wait()
    torch.set_num_threads(own)
    return pool
