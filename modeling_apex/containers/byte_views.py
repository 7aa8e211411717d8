"""
Room 1's spectacles: a song's file as a decoder should see it.

What comes in is a seekable file; what leaves is a file object that begins later than it does, or has other bytes at a
few places, where a header says what is not so. Nothing is copied or written.
"""

import io
import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

from modeling_apex.inference.libsndfile_apex import find_wav_chunk

OPUS_RATE = 48_000
UNKNOWN_SIZE = 0xFFFFFFFF
LENGTH_WARNING = "the header states no length, as when a recorder is stopped; read to the end of the file"


class ByteView(io.RawIOBase):
    """
    A file from a place on, with some bytes replaced.

    Args:
        handle (`BinaryIO`): The file, which stays the caller's to close.
        start (`int`, defaults to 0), stop (`int`, *optional*): Where the view begins, and where it ends.
        patches (`Mapping[int, bytes]`, *optional*): What stands at offsets of the view instead.
    """

    def __init__(
        self, handle: BinaryIO, start: int = 0, stop: int | None = None, patches: Mapping[int, bytes] | None = None
    ):
        self._handle, self._start, self._patches = handle, start, dict(patches or {})
        self._stop = handle.seek(0, os.SEEK_END) if stop is None else stop
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: self._start, os.SEEK_CUR: self._handle.tell()}.get(whence, self._stop)
        if place < self._start:
            raise OSError(f"a place in a file is not negative, got {place - self._start}.")
        return self._handle.seek(place) - self._start

    def tell(self) -> int:
        return self._handle.tell() - self._start

    def readinto(self, buffer: Any) -> int:
        first = self.tell()
        size = min(len(memoryview(buffer).cast("B")), self._stop - self._start - first)
        data = bytearray(self._handle.read(max(0, size)))
        for offset, patch in self._patches.items():
            for place, byte in enumerate(patch, offset - first):
                if 0 <= place < len(data):
                    data[place] = byte
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)


def build_view(handle: BinaryIO, start: int = 0, stop: int | None = None, **patches: Mapping[int, bytes]) -> BinaryIO:
    """Return a [`ByteView`]; arguments as for it."""
    return cast(BinaryIO, ByteView(handle, start, stop, **patches))


def mend_header(handle: BinaryIO, head: bytes) -> tuple[BinaryIO, list[str]]:
    """
    Show libsndfile a header that it takes rightly, where it would take the file's own wrongly.

    Opus decodes at 48 kHz, whatever its header says of what it was made from; libsndfile believes the header. A WAV
    file whose length was never written holds what follows.

    Returns:
        `tuple[BinaryIO, list[str]]`: the file, or a view of it, and warnings.
    """
    if head[:4] == b"OggS" and (start := head.find(b"OpusHead", 28, 300)) > 0:
        rate = struct.pack("<I", OPUS_RATE)
        if len(head) >= start + 16 and head[start + 12 : start + 16] != rate:
            return build_view(handle, patches=_patch_ogg_page(head, start + 12, rate)), []
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        patches = _state_wav_length(handle, head)
        if patches:
            return build_view(handle, patches=patches), [LENGTH_WARNING]
    return handle, []


def _patch_ogg_page(head: bytes, offset: int, content: bytes) -> dict[int, bytes]:
    """Replace bytes of the first Ogg page, and its checksum."""
    num_lacings = head[26]
    size = 27 + num_lacings + sum(head[27 : 27 + num_lacings])
    page = bytearray(head[:size])
    page[offset : offset + len(content)] = content
    page[22:26] = bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ 0x04C11DB7 if checksum >> 31 else checksum << 1) & 0xFFFFFFFF
    return {offset: content, 22: struct.pack("<I", checksum)}


def _state_wav_length(handle: BinaryIO, head: bytes) -> dict[int, bytes]:
    """Fill in the length of a WAV file's sound where the header states none and bytes follow all the same."""
    found = find_wav_chunk(handle, b"data")
    if found is None:
        return {}
    offset, size = found
    position = handle.tell()
    num_bytes = handle.seek(0, os.SEEK_END)
    handle.seek(offset)
    behind = handle.read(4)
    handle.seek(position)
    is_wide = head[:4] == b"RF64"
    if is_wide and head[12:16] == b"ds64" and size == UNKNOWN_SIZE and len(head) >= 36:
        size = struct.unpack("<Q", head[28:36])[0]
        if size in (0, 2**64 - 1) and offset < num_bytes:
            return {28: struct.pack("<Q", num_bytes - offset)}
        return {}
    # Nothing in the data, and then other chunks: that is a file without sound.
    covers_more = struct.unpack("<I", head[4:8])[0] + 8 > offset and behind.isalnum()
    if size == 0 and offset < num_bytes and not covers_more:
        return {offset - 4: struct.pack("<I", min(num_bytes - offset, UNKNOWN_SIZE))}
    return {}


def count_wav_samples(handle: BinaryIO) -> int | None:
    """Return how many samples a compressed WAV file states in its `fact` chunk; None where it states none."""
    found = find_wav_chunk(handle, b"fact")
    if found is None:
        return None
    position = handle.tell()
    handle.seek(found[0])
    num_samples = int.from_bytes(handle.read(4), "little")
    handle.seek(position)
    return num_samples if 0 < num_samples < UNKNOWN_SIZE else None
