"""
An object store on the loopback that speaks as much of S3 as reading takes: HEAD, GET and ranges; and that can fail.

Faults are set by the key of an object: what is answered to a GET of it (`fail`, a function that is given the handler
and the bytes and answers, or returns `None` to let the store answer).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from patience import PATIENCE

from loopback_hub import serving

Fault = Callable[["_Handler", bytes], bool]


class LoopbackStore:
    """The server and its objects, by `bucket/key`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, str]] = []
        self.stopped = threading.Event()
        handler = type("Handler", (_Handler,), {"store": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False  # type: ignore[attr-defined]
        self.server.handle_error = lambda *arguments: None  # type: ignore[method-assign]
        self.host = f"127.0.0.1:{self.server.server_port}"

    def count(self, method: str, key: str) -> int:
        return self.requests.count((method, key))


@contextmanager
def run_loopback_store() -> Iterator[LoopbackStore]:
    """Run a store until the block ends."""
    store = LoopbackStore()
    with serving(store.server):
        try:
            yield store
        finally:
            store.stopped.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: LoopbackStore

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer_request()

    def do_GET(self) -> None:
        self.answer_request()

    def answer_request(self) -> None:
        key = unquote(urlsplit(self.path).path).lstrip("/")
        self.store.requests.append((self.command, key))
        if key not in self.store.objects:
            self.answer(404, b"")
            return
        data, status = self.store.objects[key], 200
        size = len(data)
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            data, status = data[int(first) : int(last) + 1], 206
        fault = self.store.faults.get(key)
        if self.command == "GET" and fault is not None and fault(self, data):
            return
        self.answer(status, data, size)

    def answer(self, status: int, data: bytes, size: int | None = None, num_sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if self.command == "GET" or size is None else size))
        self.send_header("ETag", f'"{hash(data) if size is None else size}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data if num_sent is None else data[:num_sent])
            if num_sent is not None:
                self.close_connection = True


def send_half(handler: _Handler, data: bytes) -> bool:
    """Break the body off in the middle."""
    handler.answer(206, data, num_sent=len(data) // 2)
    return True


def hang_up(handler: _Handler, data: bytes) -> bool:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()
    return True


def say_nothing(handler: _Handler, data: bytes) -> bool:
    """Take the request, and answer nothing until the store is closed."""
    handler.store.stopped.wait(PATIENCE)
    handler.close_connection = True
    return True


def be_busy(handler: _Handler, data: bytes) -> bool:
    handler.answer(503, b"")
    return True


def fail_first(num_times: int, fault: Fault) -> Fault:
    """Let a fault happen so many times, and then no more."""
    left = [num_times]

    def fail(handler: _Handler, data: bytes) -> bool:
        left[0] -= 1
        return left[0] >= 0 and fault(handler, data)

    return fail
