"""
Room 1's decoder: from the bytes of a song to blocks of samples, by libsndfile.

What comes in is a seekable file; what leaves is a [`Decoded`] song, or nothing where libsndfile cannot read it, or not
to its end. It is imported when the first song needs it.
"""

import functools
import io
import math
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .audio_limits_apex import AudioError, AudioLimits, import_optional

BLOCK_NUM_SAMPLES = 65_536
"""Decoded samples per channel that are held at once: 1.5 s at 44.1 kHz."""

# How far headers are followed by hand: a file of nothing but empty tags or chunks would otherwise take minutes.
MAX_TAGS = 32
MAX_RIFF_CHUNKS = 4096


@dataclass
class Decoded:
    """What a decoder found: blocks of shape `(num_samples, num_channels)` and the length that the header promises."""

    sampling_rate: int
    num_channels: int
    blocks: Iterator[np.ndarray]
    declared_seconds: float | None = None
    num_bytes: int | None = None  # of the encoded song


def decode_with_soundfile(handle: BinaryIO, limits: AudioLimits, resources: ExitStack) -> Decoded | None:
    """Open a handle with libsndfile; None if it is not for libsndfile to read."""
    soundfile = import_optional("soundfile", "soundfile")
    is_in_memory = isinstance(handle, io.BytesIO)
    try:
        # A descriptor instead of a name: given a name, libsndfile guesses headerless formats from its ending.
        file = _build_sequential_sound_file(soundfile)(handle if is_in_memory else handle.fileno(), closefd=False)
    except soundfile.LibsndfileError:
        return None
    resources.callback(file.close)
    # libsndfile says "unknown" by the largest 64-bit number.
    declared = file.frames if 0 <= file.frames < 2**62 else None
    if file.format == "MP3" and declared is not None:
        num_samples, has_length = _count_mp3_samples(handle, limits.max_seconds)
        if num_samples - declared > max(0.5 * file.samplerate, 0.01 * declared):
            # libsndfile stops at the length that it estimated, and that is too early.
            return None
        # Without a length in its header, the estimate is no promise that the file could break.
        declared = declared if has_length else None
    if file.format in ("WAV", "WAVEX") and declared is not None:
        # libsndfile quietly shortens a WAV file's length to what is there.
        declared = round(declared * _measure_riff_shortfall(handle))
    seconds = None if declared is None else declared / file.samplerate
    return Decoded(file.samplerate, file.channels, _read_blocks(file), seconds)


@functools.lru_cache(maxsize=1)
def _build_sequential_sound_file(soundfile: Any) -> type:
    class SequentialSoundFile(soundfile.SoundFile):
        """Read without seeking: a seek after each read, the default, corrupts the samples at MP3 block edges."""

        def seekable(self) -> bool:
            return False

    return SequentialSoundFile


def _read_blocks(file: Any) -> Iterator[np.ndarray]:
    while True:
        try:
            block = file.read(BLOCK_NUM_SAMPLES, dtype="float32", always_2d=True)
        except RuntimeError as error:
            raise AudioError(str(error).strip(": ") or "damaged audio data") from error
        if not len(block):
            return
        yield block


def _measure_riff_shortfall(handle: BinaryIO) -> float:
    """Divide the bytes of sound that a WAV header declares by those that are there; 1 for a complete file."""
    position = handle.tell()
    num_bytes, offset, shortfall = handle.seek(0, os.SEEK_END), 12, 1.0
    for _ in range(MAX_RIFF_CHUNKS):
        if offset + 8 > num_bytes:
            break
        handle.seek(offset)
        kind, size = struct.unpack("<4sI", handle.read(8))
        offset += 8
        if kind == b"data":
            # A file that was written to a pipe declares the largest signed or unsigned size, or nearly so.
            if offset < num_bytes and size < 0x7FFF0000:
                shortfall = max(1.0, size / (num_bytes - offset))
            break
        offset += size + size % 2
    handle.seek(position)
    return shortfall


_MP3_KILOBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),  # MPEG 1
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),  # MPEG 2 and 2.5
}
_MP3_SAMPLING_RATES = {3: (44100, 48000, 32000, 0), 2: (22050, 24000, 16000, 0), 0: (11025, 12000, 8000, 0)}


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
    has_length = b"Xing" in first or b"Info" in first or b"VBRI" in first
    num_samples, header = 0, first[:4]
    while len(header) == 4:
        _, second, third, _ = header
        version, layer = second >> 3 & 3, second >> 1 & 3
        if header[0] != 0xFF or second < 0xE0 or version == 1 or layer != 1:
            break
        kilobits = _MP3_KILOBITS[3 if version == 3 else 2][third >> 4]
        rate = _MP3_SAMPLING_RATES[version][third >> 2 & 3]
        if not kilobits or not rate:
            break
        frame_num_samples = 1152 if version == 3 else 576
        num_samples += frame_num_samples
        if num_samples > max_seconds * rate:
            break
        offset += frame_num_samples // 8 * 1000 * kilobits // rate + (third >> 1 & 1)
        handle.seek(offset)
        header = handle.read(4)
    handle.seek(position)
    return num_samples, has_length
