"""
Room 1's door to what libsndfile does not read, or not to its end.

What comes in is a seekable file; what leaves is a [`Decoded`] song. `registration` hangs [`decode_container`] and
[`complete_song`] into `decoding_apex`.

FFmpeg decodes in this process what nearly every song is in: the containers of `CONTAINERS`, codecs of
`COMMON_CODECS`, in mono or stereo. Everything else is decoded in a child process.
"""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np

from modeling_apex.containers.byte_views import build_view, count_wav_samples, mend_header
from modeling_apex.containers.child import decode_in_child
from modeling_apex.containers.ffmpeg import decode_stream, import_av, open_container
from modeling_apex.containers.links import find_links
from modeling_apex.containers.recognition import find_start, recognize, refuse_unknown
from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits
from modeling_apex.inference.libsndfile_apex import Decoded, decode_with_soundfile

COMMON_CODECS = re.compile(
    r"(aac|alac|opus|vorbis|mp1|mp2|mp3|flac|ac3|eac3|wmav[12])(float)?|pcm_[suf](8|16|24|32|64)(le|be)?|pcm_[am]?law"
)
COMMON_LAYOUTS = ("mono", "stereo")
# Decoders of these read packet after packet to the end of the file; in others, much may follow that is no sound.
STREAMS = re.compile(rb"OggS|fLaC|ID3|\xff[\xe0-\xff]")
TAIL_NUM_BYTES = 2048
ID3V1_NUM_BYTES = 128
MIN_LINK_NUM_BYTES = 32
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
        refuse_unknown(name, inner)
    view = build_view(handle, start) if start else handle
    if start:
        decoded = decode_with_soundfile(view, limits, resources)
        if decoded is not None:
            complete_song(name, view, inner, decoded, limits, resources)
            return decoded
        view.seek(0)
    num_samples = count_wav_samples(view) if known[0] == "wav" else None
    decoded = _decode_known(name, view, known, limits, resources)
    if num_samples is not None:
        decoded.declared_seconds = num_samples / decoded.sampling_rate
    if inner[:4] != b"OggS":  # FFmpeg reads on by itself
        links = find_links(view, inner)
        decoded.blocks = itertools.chain(decoded.blocks, _read_links(name, view, decoded, links, limits))
    return decoded


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
            if COMMON_CODECS.fullmatch(codec.name) and codec.layout.name in COMMON_LAYOUTS:
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
    num_left = _count_bytes_left(handle)
    if failure is None and num_samples and num_left < MIN_LINK_NUM_BYTES:
        return
    if num_samples and (links := find_links(handle, head)):
        seconds = num_samples / decoded.sampling_rate
        if failure is not None and (decoded.declared_seconds is None or seconds < decoded.declared_seconds):
            decoded.warnings.append(f"the first song of this file is damaged ({failure}); scored what decodes")
        yield from _read_links(name, handle, decoded, links, limits)
        return
    num_bytes = handle.seek(0, os.SEEK_END)
    is_read = num_samples > 0 and num_left <= max(TAIL_NUM_BYTES, 0.01 * num_bytes)
    if failure is None and (is_read or not STREAMS.match(head)):
        return
    num_more, reason, known = 0, "", recognize(head)
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
            reason = f" ({error})"
    if num_more:
        rate, declared = decoded.sampling_rate, decoded.declared_seconds
        missing = 0.0 if declared is None else max(0.0, declared - (num_samples + num_more) / rate)
        # What is missing at the end of a file is told for every decoder alike.
        is_damaged = declared is None or 0.01 < missing <= max(0.5, 0.01 * declared)
        if failure is not None and is_damaged and not decoded.warnings:
            decoded.warnings.append(
                f"damaged near {num_samples / rate:.1f} s ({failure}), {missing:.1f} s missing; scored what decodes"
            )
        return
    if failure is not None:
        raise failure
    decoded.warnings.append(
        f"{100 * num_left / num_bytes:.0f} % of the file's bytes are after the end of its audio and do not "
        f"decode{reason}; scored what decodes"
    )


def _read_links(
    name: str, handle: BinaryIO, decoded: Decoded, links: list[int], limits: AudioLimits
) -> Iterator[np.ndarray]:
    """Yield the blocks of the songs that follow the first in one file, each decoded as if it stood alone."""
    if links:
        decoded.declared_seconds = None  # of the first
    for number, (start, stop) in enumerate(itertools.zip_longest(links, links[1:]), 2):
        try:
            with ExitStack() as own:
                link = _open_link(name, build_view(handle, start, stop), limits, own)
                if link.sampling_rate != decoded.sampling_rate:
                    raise AudioError(f"its sampling rate is {link.sampling_rate} Hz, not {decoded.sampling_rate} Hz")
                yield from link.blocks
                decoded.warnings += link.warnings
        except AudioError as error:
            decoded.warnings.append(f"song {number} of the {len(links) + 1} in this file is left out: {error}")


def _open_link(name: str, handle: BinaryIO, limits: AudioLimits, resources: ExitStack) -> Decoded:
    handle.seek(0)
    head = handle.read(512)
    handle.seek(0)
    view, _ = mend_header(handle, head)
    link = decode_with_soundfile(view, limits, resources)
    if link is None:
        known = recognize(head)
        assert known is not None, "a link is found by its first bytes"
        view.seek(0)
        link = _decode_known(name, view, known, limits, resources)
    return link


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
        tail = handle.read(max(0, min(end, ID3V1_NUM_BYTES)))
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
