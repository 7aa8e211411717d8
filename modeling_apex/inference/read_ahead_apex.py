"""
Read the next segments while the model works on the present one.

What comes in is an iterable whose items take time to make; what leaves are the same items in the same order, made in
one background thread. The thread is never more than a few items ahead, its errors are raised where the item would have
come, and it is gone when the iteration ends, in whatever way that happens. Standard library only.
"""

import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import GeneratorType
from typing import Any

SEGMENTS_AHEAD = 4  # at most; a 30 s segment at 24 kHz takes 2.9 MB


class ReadAhead:
    """
    Iterate over items that a background thread makes in advance.

    Each iteration has its own thread, which starts with the first item that is asked for. It ends with the items, and
    by `close`, by a new iteration, or when the iterator is dropped.

    Args:
        items (`Iterable`):
            What to iterate over. From the first item on, the iterator is used in the thread only.
        num_ahead (`int`, defaults to 4):
            How many items may be waiting or in the making.

    Raises:
        `ValueError`: If `num_ahead` is not positive.
    """

    def __init__(self, items: Iterable[Any], num_ahead: int = SEGMENTS_AHEAD):
        if num_ahead < 1:
            raise ValueError(f"`num_ahead` must be at least 1, got {num_ahead}.")
        self._items: Any = items
        self._num_ahead = num_ahead
        self._reader: _Reader | None = None

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        self.close()
        self._reader = _Reader(iter(self._items), self._num_ahead)
        return self._reader

    def close(self) -> None:
        """End the iteration and wait until its thread is gone."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def read_ahead(batches: Iterable[Any], batch_size: int) -> ReadAhead:
    """Make batches of segments in advance, a few segments at most; `registration` hangs this into the scorer."""
    return ReadAhead(batches, max(1, SEGMENTS_AHEAD // batch_size))


class _Reader:
    """One iteration. The thread knows the buffer and not the reader, so a reader that nobody holds can be dropped."""

    def __init__(self, iterator: Iterator[Any], num_ahead: int):
        self._buffer = _Buffer(num_ahead)
        self._thread = threading.Thread(
            target=_fill, args=(iterator, self._buffer), name="apex-read-ahead", daemon=True
        )
        self.close = weakref.finalize(self, _end, self._buffer, self._thread)

    def __iter__(self) -> "_Reader":
        return self

    def __next__(self) -> Any:
        if self._thread.ident is None and self.close.alive:
            self._thread.start()
        return self._buffer.take()


class _Buffer:
    """What waits between the thread and the consumer, and who has ended."""

    def __init__(self, num_ahead: int):
        # Reentrant: a collection of garbage can close a reader in the middle of any of these methods.
        self._changed = threading.Condition(threading.RLock())
        self._num_ahead = num_ahead
        self._items: deque[Any] = deque()
        self._error: BaseException | None = None
        self._has_ended = False
        self._is_closed = False

    def wait_for_room(self) -> bool:
        """Wait until another item may be made; False once the consumer wants no more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._num_ahead or self._is_closed)
            return not self._is_closed

    def put(self, item: Any) -> None:
        """Hand over an item; one that was in the making when the consumer closed is let go."""
        with self._changed:
            if not self._is_closed:
                self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Say that no item follows, and why."""
        with self._changed:
            self._has_ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> Any:
        """Wait for the next item and return it, or raise what ended the items."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._has_ended or self._is_closed)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        try:
            raise StopIteration if error is None else error
        finally:
            del error  # its traceback holds this frame, and would hold itself through it

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()


def _fill(iterator: Iterator[Any], buffer: _Buffer) -> None:
    """Make items until there are no more, one fails, or nobody wants them; the body of the thread."""
    try:
        with ExitStack() as stack:
            if isinstance(iterator, GeneratorType):  # what it holds open is closed in the thread that opened it
                stack.callback(iterator.close)
            while buffer.wait_for_room():
                buffer.put(next(iterator))
    except StopIteration:
        buffer.end()
    except BaseException as error:  # raised again where the item is asked for
        buffer.end(error)
    else:
        buffer.end()


def _end(buffer: _Buffer, thread: threading.Thread) -> None:
    buffer.close()
    # Garbage can be collected in the thread itself, and a thread cannot wait for itself.
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join()
