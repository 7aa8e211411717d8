"""
Give back memory once weights are packed: that of the originals, which lie in a mapped file, and that of the work.

A checkpoint in safetensors is mapped, not read: a page of it takes memory from its first use on. Once an encoder's
weights are packed, the mapped originals are not used again unless somebody saves or trains the model, and then the
kernel reads them from the file anew.
"""

import bisect
import contextlib
import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

MADV_PAGEOUT = 21  # <linux/mman.h>, since Linux 5.4; unlike MADV_DONTNEED it keeps what was written to a page


def trim_heap() -> None:
    """Ask the C library to return what was freed to the system; a library that cannot is left alone."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc
            ctypes.CDLL(None).malloc_trim(0)


def page_out(tensors: Iterable[torch.Tensor]) -> int:
    """
    Ask the kernel to drop the pages of tensors that lie in a mapped file, whose values do not change.

    Returns:
        `int`: bytes asked for; 0 for tensors that lie elsewhere, and on systems other than Linux.
    """
    places = find_mapped_files(tensors)
    if not places:
        return 0
    advise, total = ctypes.CDLL(None).madvise, 0
    for tensor, _ in places:
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages only: the others are a neighbour's too
        length = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0 and advise(ctypes.c_void_p(first), ctypes.c_size_t(length), MADV_PAGEOUT) == 0:
            total += length
    return total


def find_mapped_files(tensors: Iterable[torch.Tensor]) -> list[tuple[torch.Tensor, str]]:
    """Return the tensors that lie in a mapped file, each with its path; none on systems other than Linux."""
    if sys.platform != "linux":
        return []
    try:
        lines = os.fsdecode(Path("/proc/self/maps").read_bytes()).split("\n")
        _ = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # no /proc, or a C library without the call
        return []
    fields = [field for line in lines if len(field := line.split(maxsplit=5)) == 6]
    ranges = [[int(bound, 16) for bound in field[0].split("-")] for field in fields]
    starts = [start for start, _ in ranges]
    found = []
    for tensor in tensors:
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        index = bisect.bisect_right(starts, start) - 1
        if index >= 0 and fields[index][5].startswith("/") and start + size <= ranges[index][1]:
            found.append((tensor, fields[index][5]))
    return found


def keep_weights(model: Any) -> None:
    """
    See to it that a model which was just loaded stays what it is, whatever becomes of its file.

    Weights that lie in a mapped file are copied. Only a frozen encoder on a CPU stays where it is, since it is packed
    before it is used, and its memory is given back; whoever asks for its own weights is told if the file has changed.
    """
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    can_find = sys.platform == "linux" and os.path.exists("/proc/self/maps")
    is_packed = can_find and getattr(model.config, "freeze_encoder", False)
    on_cpu = {name: tensor for name, tensor in named.items() if tensor.device.type == "cpu"}
    kept = [tensor for name, tensor in on_cpu.items() if is_packed and name.startswith("encoder.")]
    copied = [tensor for tensor in on_cpu.values() if not any(tensor is other for other in kept)]
    if can_find:
        copied = [tensor for tensor, _ in find_mapped_files(copied)]
    copy_weights(copied)
    if mapped := {path for _, path in find_mapped_files(kept)}:
        files = WatchedFiles(path for path in mapped if os.path.exists(path))
        model.__dict__["_weight_files"] = files
        model.register_state_dict_pre_hook(check_weights)


def copy_weights(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors memory of their own in place."""
    with torch.no_grad():
        for tensor in tensors:
            tensor.data = tensor.data.clone()


def check_weights(model: Any, *_: Any) -> None:
    """
    Refuse to read weights of a model whose file was changed since it was loaded.

    Raises:
        `ValueError`: If it was.
    """
    if (files := model.__dict__.get("_weight_files")) is not None:
        files.check()


def copy_mapped(model: Any) -> None:
    """
    Give what a model still has in a mapped file memory of its own.

    Raises:
        `ValueError`: If the file was changed since it was loaded.
    """
    files = model.__dict__.pop("_weight_files", None)
    if files is not None:
        files.check()
        copy_weights(tensor for tensor, _ in find_mapped_files(model.encoder.parameters()))


class WatchedFiles:
    """
    Notice that files which lie mapped in memory are changed in place: what was loaded is then no longer what it was.

    A file that is replaced by another of its name is no change, as the mapping keeps the old one.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]):
        self._files = {os.fspath(path): os.open(path, os.O_RDONLY) for path in paths}
        self._states = {path: self._describe(number) for path, number in self._files.items()}
        weakref.finalize(self, _close, tuple(self._files.values()))

    def __deepcopy__(self, memo: dict[int, Any]) -> "WatchedFiles":
        return self  # what is copied is mapped from the same files

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), ((),)  # what is unpickled elsewhere has memory of its own

    def check(self) -> None:
        """
        Compare the files with what they were.

        Raises:
            `ValueError`: If one was changed.
        """
        for path, number in self._files.items():
            if self._describe(number) != self._states[path]:
                raise ValueError(
                    f"{path}: was changed while it was in use, so the model that was loaded from it is gone. Load it "
                    "again, and write weights beside the old ones and rename them, so that a run keeps its own."
                )

    @staticmethod
    def _describe(number: int) -> tuple[int, int]:
        state = os.fstat(number)
        return state.st_size, state.st_mtime_ns


def _close(numbers: tuple[int, ...]) -> None:
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)
