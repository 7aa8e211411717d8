"""Several segments at once: the same results, in order, and nothing left behind."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest
import torch
from patience import PATIENCE

from modeling_apex.inference.worker_threads_apex import MAX_WORKERS, count_workers, map_in_workers


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    own = torch.get_num_threads()
    yield
    torch.set_num_threads(own)


@pytest.mark.parametrize(
    ("num_threads", "num_workers"),
    [(1, 1), (2, 2), (4, 4), (8, 8), (10, 5), (12, 6), (13, 1), (16, 8), (24, 8), (64, 8)],
)
def test_workers_leave_no_thread_without_work(num_threads: int, num_workers: int) -> None:
    torch.set_num_threads(num_threads)
    assert count_workers() == num_workers <= MAX_WORKERS


def test_full_groups_run_side_by_side_with_their_share_of_threads() -> None:
    torch.set_num_threads(6)
    # A barrier that only as many as run at once can pass.
    meeting = threading.Barrier(6)

    def work(item: int, check: Callable[[], None]) -> tuple[int, int, bool, bool]:
        check()
        if item < 6:
            meeting.wait(timeout=PATIENCE)
        is_worker = threading.current_thread() is not threading.main_thread()
        return item * item, torch.get_num_threads(), is_worker, torch.is_grad_enabled()

    results = map_in_workers(work, range(8))
    assert results[:6] == [(item * item, 1, True, False) for item in range(6)]
    # The rest is no full group: one after the other, with all threads.
    assert results[6:] == [(36, 6, False, False), (49, 6, False, False)]
    assert torch.get_num_threads() == 6
    assert torch.is_grad_enabled()


def test_workers_share_what_threads_there_are() -> None:
    torch.set_num_threads(16)
    assert map_in_workers(lambda item, check: torch.get_num_threads(), range(8)) == [2] * 8


def test_a_new_thread_gets_the_number_of_its_creator() -> None:
    torch.set_num_threads(4)
    map_in_workers(lambda item, check: item, range(4))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 4


def test_one_thread_or_one_item_needs_no_worker() -> None:
    def name_thread(item: int, check: Callable[[], None]) -> str:
        check()
        return threading.current_thread().name

    here = threading.current_thread().name
    torch.set_num_threads(2)
    assert map_in_workers(name_thread, [1]) == [here]
    torch.set_num_threads(1)
    assert map_in_workers(name_thread, [1, 2, 3]) == [here] * 3
    assert map_in_workers(name_thread, []) == []


def test_an_error_reaches_the_caller_and_stops_the_others() -> None:
    torch.set_num_threads(2)
    has_begun, was_stopped = threading.Event(), threading.Event()

    def work(item: int, check: Callable[[], None]) -> int:
        if item == 0:
            assert has_begun.wait(timeout=PATIENCE)  # one that has not begun yet never begins
            raise FloatingPointError("segment 0 is damaged")
        has_begun.set()
        try:
            for _ in range(100 * PATIENCE):
                check()
                threading.Event().wait(0.01)
        except CancelledError:
            was_stopped.set()
            raise
        return item

    with pytest.raises(FloatingPointError, match="segment 0 is damaged"):
        map_in_workers(work, [0, 1])
    assert was_stopped.wait(timeout=PATIENCE)
    # The workers are there for the next.
    assert map_in_workers(lambda item, check: item + 1, [1, 2]) == [2, 3]


def test_many_callers_share_the_workers() -> None:
    torch.set_num_threads(2)
    names: set[str] = set()
    running, most, lock = 0, 0, threading.Lock()

    def work(item: int, check: Callable[[], None]) -> int:
        nonlocal running, most
        with lock:
            names.add(threading.current_thread().name)
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1
        return -item

    with ThreadPoolExecutor(16) as callers:
        results = list(callers.map(lambda start: map_in_workers(work, range(start, start + 4)), range(16)))
    assert results == [[-item for item in range(start, start + 4)] for start in range(16)]
    assert most <= 2
    # Sixteen callers found two workers, and started none of their own.
    assert len(names) <= 2
    assert all(name.startswith("apex-worker") for name in names)


def test_a_forked_process_has_workers_of_its_own() -> None:
    torch.set_num_threads(2)
    map_in_workers(lambda item, check: item, range(2))  # a pool whose threads the child does not have
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_map_in_child).get(timeout=PATIENCE) == [1, 2, 3, 4]


def _map_in_child() -> list[int]:
    torch.set_num_threads(2)
    return map_in_workers(lambda item, check: item + 1, range(4))
