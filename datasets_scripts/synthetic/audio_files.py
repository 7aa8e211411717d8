"""
Waveforms to audio files, whole or not at all: written beside their place, then moved into it.

FLAC, Ogg Vorbis and MP3 go through libsndfile. The same waveform gives the same bytes each time; for Ogg, whose
streams carry a random serial number, that number is set afterwards.
"""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import soundfile

AUDIO_FORMATS = {"flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}
PART_SUFFIX = ".part"
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, and make its folder, so that it is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART_SUFFIX}")
    part.write_bytes(content)
    os.replace(part, path)


def save_audio(path: Path, waveform: np.ndarray, sampling_rate: int) -> None:
    """
    Write a waveform as FLAC, Ogg Vorbis or MP3, by the path's suffix.

    Args:
        path (`Path`):
            Where; it appears only once it is whole.
        waveform (`np.ndarray` of shape `(num_samples,)` or `(num_samples, num_channels)`):
            Float32 within -1 and 1.
        sampling_rate (`int`):
            In hertz.

    Raises:
        `ValueError`: If the suffix names no known format.
    """
    suffix = path.suffix.lstrip(".").lower()
    if suffix not in AUDIO_FORMATS:
        raise ValueError(f"{path} has no known audio format. Choose a suffix of: {', '.join(AUDIO_FORMATS)}.")
    container, subtype = AUDIO_FORMATS[suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART_SUFFIX}")
    # libsndfile overflows its stack on Ogg when a long song is written in one call.
    with soundfile.SoundFile(
        part, "w", sampling_rate, 1 if waveform.ndim == 1 else waveform.shape[1], subtype=subtype, format=container
    ) as file:
        for start in range(0, len(waveform), sampling_rate):
            file.write(waveform[start : start + sampling_rate])
    if container == "OGG":
        part.write_bytes(set_ogg_serial_number(part.read_bytes(), 1))
    os.replace(part, path)


def set_ogg_serial_number(content: bytes, serial_number: int) -> bytes:
    """
    Set the serial number of a single-stream Ogg file and renew the checksum of every page.

    Raises:
        `ValueError`: If `content` is not a sequence of Ogg pages.
    """
    pages, position = [], 0
    while position < len(content):
        if content[position : position + 4] != b"OggS":
            raise ValueError(f"There is no Ogg page at byte {position}; expected an Ogg file of whole pages.")
        num_lacing = content[position + 26]
        size = 27 + num_lacing + sum(content[position + 27 : position + 27 + num_lacing])
        page = bytearray(content[position : position + size])
        page[14:18] = struct.pack("<I", serial_number)
        page[22:26] = b"\0\0\0\0"
        page[22:26] = struct.pack("<I", _compute_ogg_checksum(page))
        pages.append(bytes(page))
        position += size
    return b"".join(pages)


def _compute_ogg_checksum(page: bytes | bytearray) -> int:
    """Return the checksum of RFC 3533: zlib's polynomial, but bits in the other order, and not inverted."""
    checksum = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{checksum:032b}"[::-1], 2)
