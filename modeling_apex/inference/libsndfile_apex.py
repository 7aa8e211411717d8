"""
Room 1's decoder: from the bytes of a song to blocks of samples, by libsndfile.

What comes in is a seekable file; what leaves is a [`Decoded`] song, or nothing where libsndfile cannot read it, or not
to its end. It is imported when the first song needs it.
"""

import functools
import io
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from .audio_limits_apex import AudioError, AudioLimits, import_optional

BLOCK_NUM_SAMPLES = 65_536
"""Decoded samples per channel that are held at once: 1.5 s at 44.1 kHz."""

# How far headers are followed by hand: a file of nothing but empty tags or chunks would otherwise take minutes.
MAX_TAGS = 32
MAX_CHUNKS = 4096
# What libsndfile takes for sound, or for other sound than it is: headers of Creative's blocks; A-law and floats in
# Wave64, by their bits alone; IMA ADPCM in AIFF, of which it forgets a part from packet to packet.
MISREAD = (
    *(("VOC", subtype) for subtype in ("PCM_16", "PCM_U8", "ALAW", "ULAW")),
    *(("W64", "PCM_U8"), ("W64", "PCM_32"), ("AIFF", "IMA_ADPCM")),
)


@dataclass
class Decoded:
    """What a decoder found: blocks of shape `(num_samples, num_channels)` and the length that the header promises."""

    sampling_rate: int
    num_channels: int
    blocks: Iterator[np.ndarray]
    declared_seconds: float | None = None
    num_bytes: int | None = None  # of the encoded song
    shortfall: float = 1.0  # bytes of sound that the header declares, divided by those that are there
    warnings: list[str] = field(default_factory=list)  # of the decoder; complete once `blocks` is exhausted


def decode_with_soundfile(handle: BinaryIO, limits: AudioLimits, resources: ExitStack) -> Decoded | None:
    """Open a handle with libsndfile; None if it is not for libsndfile to read."""
    soundfile = import_optional("soundfile", "soundfile")
    try:
        # A descriptor instead of a name: given a name, libsndfile guesses headerless formats from its ending.
        source: Any = handle.fileno()
    except io.UnsupportedOperation:
        source = _QuietHandle(handle)
    try:
        file = _build_sequential_sound_file(soundfile)(source, closefd=False)
    except soundfile.LibsndfileError:
        return None
    resources.callback(file.close)
    # Opus decodes at 48 kHz, and libsndfile believes a header that says what was encoded.
    if (file.subtype == "OPUS" and file.samplerate != 48_000) or (file.format, file.subtype) in MISREAD:
        return None
    # libsndfile says "unknown" by the largest 64-bit number.
    declared = file.frames if 0 <= file.frames < 2**62 else None
    if file.format == "MP3" and declared is not None:
        num_samples, has_length = _count_mp3_samples(handle, limits.max_seconds)
        if num_samples - declared > max(0.5 * file.samplerate, 0.01 * declared):
            # libsndfile stops at the length that it estimated, and that is too early.
            return None
        # Without a length in its header, the estimate is no promise that the file could break.
        declared = declared if has_length else None
    seconds = None if declared is None else declared / file.samplerate
    return Decoded(file.samplerate, file.channels, _read_blocks(file), seconds)


class _QuietHandle:
    """A handle whose seeks do not raise: libsndfile tries places before its beginning, and a callback only prints."""

    def __init__(self, handle: BinaryIO):
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._handle.seek(offset, whence)
        except (OSError, ValueError):
            return 0


@functools.lru_cache(maxsize=1)
def _build_sequential_sound_file(soundfile: Any) -> type:
    class SequentialSoundFile(soundfile.SoundFile):
        """Read without seeking: a seek after each read, the default, corrupts the samples at MP3 block edges."""

        def seekable(self) -> bool:
            return False

    return SequentialSoundFile


def _read_blocks(file: Any) -> Iterator[np.ndarray]:
    while True:
        block = np.full((BLOCK_NUM_SAMPLES, file.channels), np.nan, np.float32)
        try:
            block = file.read(dtype="float32", out=block)
        except RuntimeError as error:
            # What was decoded before the damage has been written over the marks.
            block = block[: np.argmax(np.isnan(block).all(axis=1))]
            if len(block):
                yield block
            raise AudioError(str(error).strip(": ") or "damaged audio data") from error
        if not len(block):
            return
        yield block


def find_wav_chunk(handle: BinaryIO, kind: bytes) -> tuple[int, int] | None:
    """Find where a chunk of a WAV file begins (`b"data"` holds its sound), and how many bytes of it are declared."""
    return _find_chunk(handle, 12, "<4sI", kind, 2)


def _find_chunk(handle: BinaryIO, offset: int, layout: str, kind: bytes, alignment: int) -> tuple[int, int] | None:
    position, header = handle.tell(), struct.calcsize(layout)
    num_bytes = handle.seek(0, os.SEEK_END)
    try:
        for _ in range(MAX_CHUNKS):
            if offset + header > num_bytes:
                break
            handle.seek(offset)
            content = handle.read(header)
            found, size = struct.unpack(layout, content)
            if layout == "<16sQ":  # Wave64 counts the header in
                size = max(0, size - header)
            if found[:4] == kind:
                return offset + header, size
            offset += header + max(0, size) + -size % alignment
    finally:
        handle.seek(position)
    return None


# The first bytes of containers that hold their sound in one chunk, and how `_find_chunk` finds it.
CHUNKED: dict[bytes, tuple[int, str, bytes, int]] = {
    b"RIFF": (12, "<4sI", b"data", 2),
    b"RIFX": (12, ">4sI", b"data", 2),
    b"RF64": (12, "<4sI", b"data", 2),
    b"FORM": (12, ">4sI", b"SSND", 2),
    b"caff": (8, ">4sq", b"data", 1),
    b"riff": (40, "<16sQ", b"data", 8),
}


def measure_shortfall(handle: BinaryIO) -> float:
    """
    Divide the bytes of sound that a header declares by those that are there; 1 for a complete file.

    Decoders quietly shorten what they read to what is there. A file that was written to a pipe declares the largest
    signed or unsigned size, or nearly so, or none.
    """
    position, found = handle.tell(), None
    num_bytes = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    head = handle.read(36)
    handle.seek(position)
    if head[:4] in CHUNKED:
        found = _find_chunk(handle, *CHUNKED[head[:4]])
    elif head[:4] in (b".snd", b"dns."):
        found = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12].ljust(8, b"\0"))
    if found is None:
        return 1.0
    offset, size = found
    if head[:4] == b"RF64" and size == 0xFFFFFFFF and head[12:16] == b"ds64":
        size = struct.unpack("<Q", head[28:36].ljust(8, b"\0"))[0]
        is_stated = size < 2**62
    else:
        is_stated = size < (2**62 if head[:4] in (b"caff", b"riff") else 0x7FFF0000)
    return max(1.0, size / (num_bytes - offset)) if is_stated and offset < num_bytes else 1.0


_MP3_KILOBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),  # MPEG 1
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),  # MPEG 2 and 2.5
}
_MP3_SAMPLING_RATES = {3: (44100, 48000, 32000, 0), 2: (22050, 24000, 16000, 0), 0: (11025, 12000, 8000, 0)}


@functools.lru_cache(maxsize=1024)
def _read_mp3_header(header: bytes) -> tuple[int, int, int] | None:
    """Read three bytes of a frame's header: its samples, their rate and its bytes; None if it is not a header."""
    first, second, third = header
    version, layer = second >> 3 & 3, second >> 1 & 3
    if first != 0xFF or second < 0xE0 or version == 1 or layer != 1:
        return None
    kilobits = _MP3_KILOBITS[3 if version == 3 else 2][third >> 4]
    rate = _MP3_SAMPLING_RATES[version][third >> 2 & 3]
    if not kilobits or not rate:
        return None
    num_samples = 1152 if version == 3 else 576
    return num_samples, rate, num_samples // 8 * 1000 * kilobits // rate + (third >> 1 & 1)


def _count_mp3_samples(handle: BinaryIO, max_seconds: float = math.inf) -> tuple[int, bool]:
    """
    Count samples by walking the frame headers, up to the first damage or the longest song that is accepted; also tell
    whether a header states them.
    """
    position, offset = handle.tell(), 0
    handle.seek(0)
    for _ in range(MAX_TAGS):
        tag = handle.read(10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            break
        size = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        offset = handle.seek(offset + 10 + size + (10 if tag[5] & 0x10 else 0))
    handle.seek(offset)
    first = handle.read(200)
    # A Xing header has a count only where it says so; VBRI always.
    found = re.search(rb"(?:Xing|Info)...(.)|VBRI", first, re.DOTALL)
    has_length = found is not None and (found[1] is None or found[1][0] & 1 == 1)
    num_samples, block_offset, block = 0, offset, b""
    while True:
        place = offset - block_offset
        if place + 4 > len(block):  # in blocks: two calls of the system for each header take most of the time
            handle.seek(offset)
            block_offset, block, place = offset, handle.read(1 << 16), 0
        frame = _read_mp3_header(block[place : place + 3]) if place + 4 <= len(block) else None
        if frame is None:
            break
        frame_num_samples, rate, num_bytes = frame
        num_samples += frame_num_samples
        if num_samples > max_seconds * rate:
            break
        offset += num_bytes
    handle.seek(position)
    return num_samples, has_length
