"""
Room 1's door to what libsndfile does not read, or not to its end.

What comes in is a seekable file; what leaves is a [`Decoded`] song. `registration` hangs [`decode_container`] and
[`complete_song`] into `decoding_apex`.

FFmpeg decodes in this process what nearly every song is in: the containers of `CONTAINERS`, codecs of
`COMMON_CODECS`, one channel or two. Everything else is decoded in a child process.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np

from modeling_apex.containers.byte_views import build_view, mend_header
from modeling_apex.containers.child import decode_in_child
from modeling_apex.containers.ffmpeg import decode_stream, import_av, open_container
from modeling_apex.containers.recognition import find_start, recognize
from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits
from modeling_apex.inference.libsndfile_apex import Decoded, decode_with_soundfile

COMMON_CODECS = re.compile(
    r"(aac|alac|opus|vorbis|mp1|mp2|mp3|flac|ac3|eac3|wmav[12])(float)?|pcm_[suf](8|16|24|32|64)(le|be)?|pcm_[am]?law"
)
COMMON_NUM_CHANNELS = 2
# Decoders of these read packet after packet to the end of the file; in others, much may follow that is no sound.
STREAMS = re.compile(rb"OggS|fLaC|ID3|\xff[\xe0-\xff]")
TAIL_NUM_BYTES = 2048
ID3V1_NUM_BYTES = 128
MAX_OGG_PAGE_NUM_BYTES = 65_307


def decode_container(name: str, handle: BinaryIO, head: bytes, limits: AudioLimits, resources: ExitStack) -> Decoded:
    """
    Decode what libsndfile does not read as it stands.

    Raises:
        `AudioError`: If the file is in no format that is read here, or FFmpeg does not decode it.
    """
    start = find_start(handle)
    handle.seek(start)
    inner = handle.read(512) if start else head
    handle.seek(0)
    known = recognize(inner)
    if known is None:
        raise AudioError(
            f"{name}: is not in a format that this program reads; its first bytes are {inner[:8]!r}. Check that it is "
            "a song and not, say, a web page saved under that name, or convert it to WAV or FLAC."
        )
    view = build_view(handle, start) if start else handle
    if start:
        decoded = decode_with_soundfile(view, limits, resources)
        if decoded is not None:
            return decoded
        view.seek(0)
    return _decode_known(name, view, known, limits, resources)


def _decode_known(
    name: str, handle: BinaryIO, known: tuple[str, str, bool], limits: AudioLimits, resources: ExitStack
) -> Decoded:
    demuxer, label, is_rare = known
    import_av(name, label)
    if not is_rare:
        with ExitStack() as own:
            container = open_container(name, handle, demuxer, label, own)
            codec = container.streams.audio[0].codec_context
            if codec.sample_rate and codec.layout.nb_channels:
                limits.refuse_format(name, codec.sample_rate, codec.layout.nb_channels)
            if COMMON_CODECS.fullmatch(codec.name) and codec.layout.nb_channels <= COMMON_NUM_CHANNELS:
                decoded = decode_stream(name, container, label)
                resources.push(own.pop_all())
                return decoded
    handle.seek(0)
    return decode_in_child(name, handle, demuxer, label, resources)


def complete_song(
    name: str, handle: BinaryIO, head: bytes, decoded: Decoded, limits: AudioLimits, resources: ExitStack
) -> None:
    """
    Let a song's blocks go on, where libsndfile stops before the end of the file, with what FFmpeg decodes of the rest.

    libsndfile ends at the length that a header states, at the first of several joined songs and at the first damage.
    """
    decoded.blocks = _read_on(name, handle, head, decoded, decoded.blocks, limits, resources)


def _read_on(
    name: str,
    handle: BinaryIO,
    head: bytes,
    decoded: Decoded,
    blocks: Iterator[np.ndarray],
    limits: AudioLimits,
    resources: ExitStack,
) -> Iterator[np.ndarray]:
    num_samples, failure = 0, None
    try:
        for block in blocks:
            num_samples += len(block)
            yield block
    except AudioError as error:
        failure = error
    if head[:4] == b"OggS" and failure is None and not _ends_ogg(handle):
        decoded.warnings.append("the file breaks off: its last page does not end the song; scored what decodes")
    if head[:4] == b"OggS" and (links := list(_find_ogg_links(handle))):
        yield from _read_links(handle, decoded, links, limits, resources)
        return
    num_left = _count_bytes_left(handle)
    num_bytes = handle.seek(0, os.SEEK_END)
    if failure is None and (num_left <= max(TAIL_NUM_BYTES, 0.01 * num_bytes) or not STREAMS.match(head)):
        return
    num_more, known = 0, recognize(head)
    if known is not None:
        try:
            handle.seek(0)
            others = _decode_known(name, handle, known, limits, resources)
            if others.sampling_rate == decoded.sampling_rate:
                for block in _skip(others.blocks, num_samples):
                    num_more += len(block)
                    yield block
                decoded.warnings += others.warnings
        except AudioError as error:
            failure = failure or error
    if num_more:
        rate, declared = decoded.sampling_rate, decoded.declared_seconds
        missing = 0.0 if declared is None else max(0.0, declared - (num_samples + num_more) / rate)
        # What is missing at the end of a file is told for every decoder alike.
        if failure is not None and not decoded.warnings and missing <= max(0.5, 0.01 * (declared or 0)):
            decoded.warnings.append(
                f"damaged near {num_samples / rate:.1f} s ({failure}), {missing:.1f} s missing; scored what decodes"
            )
        return
    if failure is not None:
        raise failure
    decoded.warnings.append(
        f"{100 * num_left / num_bytes:.0f} % of the file's bytes lie behind the end of its sound and do not decode; "
        "scored what decodes"
    )


def _read_links(
    handle: BinaryIO, decoded: Decoded, links: list[int], limits: AudioLimits, resources: ExitStack
) -> Iterator[np.ndarray]:
    """Yield the blocks of the Ogg files that follow the first in one file, each decoded as if it stood alone."""
    decoded.declared_seconds = None  # of the first
    for number, start in enumerate(links, 2):
        view = build_view(handle, start)
        head = view.read(512)
        view.seek(0)
        view, _ = mend_header(view, head)
        link = decode_with_soundfile(view, limits, resources)
        if link is None or link.sampling_rate != decoded.sampling_rate:
            why = "do not decode" if link is None else f"have another sampling rate, {link.sampling_rate} Hz"
            decoded.warnings.append(f"songs {number} to {len(links) + 1} of this file {why}; scored what comes before")
            return
        try:
            yield from link.blocks
        except AudioError as error:
            decoded.warnings.append(f"song {number} of this file is damaged ({error}); scored what decodes")


def _find_ogg_links(handle: BinaryIO) -> Iterator[int]:
    """Find where further songs begin in an Ogg file: at a page that begins a stream, behind one that does not."""
    position, offset, was_first = handle.tell(), 0, True
    handle.seek(0)
    while len(header := handle.read(27)) == 27 and header[:4] == b"OggS":
        is_first = bool(header[5] & 2)
        if is_first and not was_first:
            handle.seek(position)
            yield offset
        was_first = is_first
        handle.seek(offset + 27)
        offset += 27 + header[26] + sum(handle.read(header[26]))
        handle.seek(offset)
    handle.seek(position)


def _skip(blocks: Iterator[np.ndarray], num_samples: int) -> Iterator[np.ndarray]:
    for block in blocks:
        if len(block) > num_samples:
            yield block[num_samples:]
        num_samples = max(0, num_samples - len(block))


def _count_bytes_left(handle: BinaryIO) -> int:
    """Count the bytes behind a decoder's position, but for tags and zeros at the end of the file."""
    position = handle.tell()
    end = handle.seek(0, os.SEEK_END)
    for _ in range(3):
        handle.seek(max(0, end - ID3V1_NUM_BYTES))
        tail = handle.read(min(end, ID3V1_NUM_BYTES))
        if tail[:3] == b"TAG":
            end -= ID3V1_NUM_BYTES
        elif tail[-32:-24] == b"APETAGEX":
            end -= int.from_bytes(tail[-20:-16], "little") + 32
    while end > position:
        size = min(1 << 16, end - position)
        handle.seek(end - size)
        kept = len(handle.read(size).rstrip(b"\0"))
        end -= size - kept
        if kept:
            break
    return max(0, end - position)


def _ends_ogg(handle: BinaryIO) -> bool:
    """Tell whether the last page of an Ogg file is whole and says that it is the last."""
    position = handle.tell()
    num_bytes = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, num_bytes - MAX_OGG_PAGE_NUM_BYTES - TAIL_NUM_BYTES))
    tail = handle.read()
    handle.seek(position)
    start = tail.rfind(b"OggS")
    return start >= 0 and len(tail) > start + 5 and bool(tail[start + 5] & 4)
