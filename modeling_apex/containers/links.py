"""
Find the further songs of a file that several were joined to, as by `cat`: a decoder ends with the first.

What comes in is a seekable file; what leaves are the places where the others begin, found by walking pages, chunks or
boxes. Streams of frames alone (MP3, ADTS) are read on by FFmpeg instead.
"""

import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from modeling_apex.inference.libsndfile_apex import MAX_CHUNKS

MAX_LINKS = 1000
SCAN_NUM_BYTES = 1 << 20
FLAC_START = b"fLaC\0\0\0\x22"


def find_links(handle: BinaryIO, head: bytes) -> list[int]:
    """Return where the second and further songs of a file begin; the position of the file stays."""
    position = handle.tell()
    try:
        if head[:4] == b"OggS":
            links = _find_ogg_links(handle)
        elif head[:4] in (b"RIFF", b"FORM"):
            links = _find_form_links(handle, head[:4], head[8:12])
        elif head[:4] == b"fLaC":
            links = _find_flac_links(handle)
        elif head[4:8] == b"ftyp":
            links = _find_box_links(handle)
        else:
            return []
        return [link for link, _ in zip(links, range(MAX_LINKS), strict=False)]
    finally:
        handle.seek(position)


def _find_ogg_links(handle: BinaryIO) -> Iterator[int]:
    """A page that begins a stream, behind one that does not."""
    offset, was_first = 0, True
    handle.seek(0)
    while len(header := handle.read(27)) == 27 and header[:4] == b"OggS":
        is_first = bool(header[5] & 2)
        if is_first and not was_first:
            yield offset
        was_first = is_first
        handle.seek(offset + 27)
        offset += 27 + header[26] + sum(handle.read(header[26]))
        handle.seek(offset)


def _find_form_links(handle: BinaryIO, magic: bytes, kind: bytes) -> Iterator[int]:
    """The same first bytes again, right behind the size that the first states."""
    offset = 0
    while True:
        handle.seek(offset)
        header = handle.read(12)
        if len(header) < 12 or header[:4] != magic or header[8:] != kind:
            return
        if offset:
            yield offset
        (size,) = struct.unpack("<I" if magic == b"RIFF" else ">I", header[4:8])
        offset += 8 + size + size % 2


def _find_flac_links(handle: BinaryIO) -> Iterator[int]:
    """The beginning of a FLAC file again: frames have no size by which to walk, so every byte is looked at."""
    offset, before = 0, b""
    handle.seek(0)
    while piece := handle.read(SCAN_NUM_BYTES):
        content = before + piece
        start = offset - len(before)
        for found in re.finditer(re.escape(FLAC_START), content):
            if start + found.start():
                yield start + found.start()
        offset += len(piece)
        before = content[1 - len(FLAC_START) :]
        handle.seek(offset)


def _find_box_links(handle: BinaryIO) -> Iterator[int]:
    """A second `ftyp` among the boxes of an MP4 file, behind the sound of the first."""
    offset, has_sound = 0, False
    num_bytes = handle.seek(0, os.SEEK_END)
    for _ in range(MAX_CHUNKS):
        if offset > num_bytes:
            return
        handle.seek(offset)
        header = handle.read(16)
        if len(header) < 8 or not re.fullmatch(rb"[ -~]{4}", header[4:8]):
            return
        if header[4:8] == b"ftyp" and has_sound:
            yield offset
            has_sound = False
        has_sound = has_sound or header[4:8] in (b"mdat", b"moov")
        size = int.from_bytes(header[:4], "big")
        if size == 1 and len(header) == 16:
            size = int.from_bytes(header[8:], "big")
        if size < 8:
            return
        offset += size
