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
import sys
from collections.abc import Iterable
from pathlib import Path

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
    if sys.platform != "linux":
        return 0
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # no /proc, or a C library without the call
        return 0
    fields = [field for line in lines if len(field := line.split(maxsplit=5)) == 6]
    ranges = [[int(bound, 16) for bound in field[0].split("-")] for field in fields]
    is_file = [field[5].startswith("/") for field in fields]
    starts = [start for start, _ in ranges]
    total = 0
    for tensor in tensors:
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        index = bisect.bisect_right(starts, start) - 1
        if index < 0 or not is_file[index] or start + size > ranges[index][1]:
            continue
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages only: the others are a neighbour's too
        length = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0 and advise(ctypes.c_void_p(first), ctypes.c_size_t(length), MADV_PAGEOUT) == 0:
            total += length
    return total
