"""
Decode by FFmpeg in a process of its own, so that a decoder that dies costs one song.

What comes in is a seekable file; what leaves is a [`Decoded`] song whose blocks come from a child process, which is a
fresh interpreter, not a fork of this one. It asks for the bytes that it wants and sends blocks when it is asked to:
so it needs no file of its own, and the limits of a song are watched here. It is kept for the next song, is ended when
it says nothing for long, and ends with this process. Nothing that it sends is unpickled.
"""

import atexit
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO

import numpy as np

from modeling_apex.inference.audio_limits_apex import AudioError
from modeling_apex.inference.libsndfile_apex import Decoded

MAX_IDLE = 2
MAX_SILENT_SECONDS = 300
"""How long a child may work on one answer, which takes milliseconds: a block of sound, or the opening of a song."""
READ_NUM_BYTES = 1 << 18
_COMMAND = "from modeling_apex.containers.child import serve; serve()"


def decode_in_child(name: str, handle: BinaryIO, demuxer: str, label: str, resources: ExitStack) -> Decoded:
    """
    Decode a container in a child process.

    Raises:
        `AudioError`: If it cannot be decoded, or the decoder died; then also while reading.
    """
    try:
        worker = POOL.take()
    except OSError as error:
        raise AudioError(f"{name}: no process can be started to decode this {label} file ({error}).") from error
    resources.callback(POOL.give_back, worker)
    try:
        num_bytes = handle.seek(0, os.SEEK_END)
        command = {"open": demuxer, "name": name, "label": label, "num_song_bytes": num_bytes}
        opened = worker.ask(handle, command)
    except OSError as error:
        raise _build_death(name, label, worker, error) from error
    decoded = Decoded(opened["sampling_rate"], opened["num_channels"], iter(()), opened["declared_seconds"])
    decoded.blocks = _read_blocks(name, label, worker, handle, decoded)
    return decoded


def _read_blocks(name: str, label: str, worker: "Worker", handle: BinaryIO, decoded: Decoded) -> Iterator[np.ndarray]:
    while True:
        try:
            answer = worker.ask(handle, {"next": True})
        except OSError as error:
            raise _build_death(name, label, worker, error) from error
        if "block" not in answer:
            decoded.warnings += answer["warnings"]
            if answer["failure"] is not None:
                raise AudioError(answer["failure"])
            return
        yield np.frombuffer(answer["content"], np.float32).reshape(answer["block"])


def _build_death(name: str, label: str, worker: "Worker", error: OSError) -> AudioError:
    worker.kill()
    status = worker.process.returncode
    how = f"died ({signal.Signals(-status).name if status < 0 else f'exit status {status}'})"
    if worker.is_hung:
        how = f"returned nothing for {MAX_SILENT_SECONDS} s and was stopped"
    death = AudioError(
        f"{name}: the decoder of this {label} file {how}. The file is damaged, or was made to break it; other songs "
        "are not affected. Convert the song to WAV or FLAC to try it again."
    )
    death.is_fatal = True
    death.add_note(str(error))
    return death


class Worker:
    """The parent's end of a child process."""

    def __init__(self) -> None:
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        self.process = subprocess.Popen(  # noqa: S603 (this interpreter, and words of this file)
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
        )
        self.is_waiting = True  # whether the child waits for a command, and so can be given another
        self.is_hung = False

    def ask(self, handle: BinaryIO, command: dict[str, Any]) -> dict[str, Any]:
        """
        Send a command, serve the child the bytes that it wants, and return its answer.

        Raises:
            `AudioError`: If the child says that the song cannot be decoded.
            `OSError`: If the child died, or gave no answer and was ended.
        """
        self.is_waiting = False
        has_answered = threading.Event()
        threading.Thread(target=self._end_if_silent, args=(has_answered,), daemon=True).start()
        try:
            _send(self.process.stdin, command)
            while "read" in (answer := _receive(self.process.stdout)):
                offset, size = answer["read"]
                handle.seek(offset)
                _send(self.process.stdin, {}, handle.read(size))
        finally:
            has_answered.set()
        self.is_waiting = True
        if "error" in answer:
            raise AudioError(answer["error"])
        return answer

    def _end_if_silent(self, has_answered: threading.Event) -> None:
        # Second by second: none passes while this program is stopped or the machine sleeps.
        for _ in range(MAX_SILENT_SECONDS):
            if has_answered.wait(1):
                return
        self.is_hung = True
        self.process.kill()

    def kill(self) -> None:
        """End the child and wait until it is gone."""
        self.is_waiting = False
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # what was on its way to a child that is gone


class Pool:
    """Children that wait for a song; several threads may decode at once."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self.lent: list[Worker] = []
        self._lock = threading.Lock()

    def take(self) -> Worker:
        """Return a child that waits for a song, a new one if there is none."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    break
                worker.kill()
            else:
                worker = Worker()
            self.lent.append(worker)
            return worker

    def give_back(self, worker: Worker) -> None:
        """Keep a child for the next song, or end one that is in the middle of something."""
        with self._lock:
            if worker not in self.lent:  # of the process that this one was forked from
                return
            self.lent.remove(worker)
            if worker.is_waiting and len(self._idle) < MAX_IDLE:
                self._idle.append(worker)
                return
        worker.kill()

    def close(self) -> None:
        """End all children."""
        with self._lock:
            workers, self._idle, self.lent = [*self._idle, *self.lent], [], []
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        """Leave the children to the process that this one was forked from."""
        self._idle, self.lent, self._lock = [], [], threading.Lock()


POOL = Pool()
atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.forget)


def _send(pipe: Any, message: dict[str, Any], content: bytes = b"") -> None:
    pipe.write(json.dumps({**message, "num_bytes": len(content)}).encode() + b"\n")
    pipe.write(content)
    pipe.flush()


def _receive(pipe: Any) -> dict[str, Any]:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the other process is gone")
    message: dict[str, Any] = json.loads(line)
    message["content"] = pipe.read(message["num_bytes"])
    if len(message["content"]) < message["num_bytes"]:
        raise ConnectionResetError("the other process is gone")
    return message


class _RemoteFile(io.RawIOBase):
    """The song, whose bytes the parent reads."""

    def __init__(self, source: Any, target: Any, num_bytes: int):
        self._source, self._target, self._num_bytes, self._position = source, target, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + (0, self._position, self._num_bytes)[whence]
        if position < 0:
            raise OSError(f"a place in a file is not negative, got {position}")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        size = max(0, min(len(view), self._num_bytes - self._position))
        if not size:
            return 0
        _send(self._target, {"read": [self._position, size]})
        content: bytes = _receive(self._source)["content"]
        view[: len(content)] = content
        self._position += len(content)
        return len(content)


def serve() -> None:
    """Decode songs for the parent until it is gone; the body of the child."""
    source = sys.stdin.buffer
    # Whatever native code prints goes elsewhere.
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    blocks: Iterator[np.ndarray] = iter(())
    decoded = None
    with ExitStack() as resources:
        try:
            while True:
                command = _receive(source)
                try:
                    if "open" in command:
                        resources.close()
                        decoded = _open(command, source, target, resources)
                        blocks = decoded.blocks
                        names = ("sampling_rate", "num_channels", "declared_seconds")
                        _send(target, {name: getattr(decoded, name) for name in names})
                        continue
                    block = next(blocks, None)
                except AudioError as error:
                    if "open" in command:
                        _send(target, {"error": str(error)})
                    else:
                        _send(target, {"failure": str(error), "warnings": decoded.warnings if decoded else []})
                    continue
                if block is None:
                    _send(target, {"failure": None, "warnings": decoded.warnings if decoded else []})
                else:
                    _send(target, {"block": list(block.shape)}, block.astype(np.float32, copy=False).tobytes())
        except OSError:  # the parent is gone
            return


def _open(command: dict[str, Any], source: Any, target: Any, resources: ExitStack) -> Decoded:
    from modeling_apex.containers.ffmpeg import decode_stream, open_container

    raw = _RemoteFile(source, target, command["num_song_bytes"])
    handle: Any = io.BufferedReader(raw, READ_NUM_BYTES)
    container = open_container(command["name"], handle, command["open"], command["label"], resources)
    return decode_stream(command["name"], container, command["label"])


def _end_with_parent(parent: int) -> None:
    """End a decoder that computes on although nobody waits for it any more."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)
