"""
Room 1's door to other containers: those that libsndfile does not read, by FFmpeg, and those that nobody should open.

What comes in is a seekable file and its first bytes; what leaves is a [`Decoded`] song, or a refusal that says what it
is. The demuxer is named by those bytes. `registration` hangs [`refuse_format`] and [`decode_container`] into
`decoding_apex`; PyAV is imported when the first such song comes.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from modeling_apex.inference.audio_limits_apex import AudioError, import_optional
from modeling_apex.inference.libsndfile_apex import BLOCK_NUM_SAMPLES, Decoded

# Containers that libsndfile does not read, or reads only in part, told by their first bytes. The demuxer is named
# rather than guessed: left to guess, FFmpeg also opens playlists, which may point at other files and hosts.
CONTAINERS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)", re.DOTALL), "mov", "MP4/M4A/QuickTime"),
    (re.compile(rb"\x1aE\xdf\xa3"), "matroska", "WebM/Matroska"),
    (re.compile(rb"0&\xb2u\x8ef\xcf\x11"), "asf", "WMA/ASF"),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), "avi", "AVI"),
    (re.compile(rb"(RIFF|RF64).{4}WAVE", re.DOTALL), "wav", "WAV"),
    (re.compile(rb"FORM.{4}AIF[FC]", re.DOTALL), "aiff", "AIFF"),
    (re.compile(rb"OggS"), "ogg", "Ogg"),
    (re.compile(rb"fLaC"), "flac", "FLAC"),
    (re.compile(rb"FLV\x01"), "flv", "FLV"),
    (re.compile(rb"caff"), "caf", "CAF"),
    (re.compile(rb"\x0bw"), "ac3", "AC-3"),
    (re.compile(rb"G.{187}G", re.DOTALL), "mpegts", "MPEG transport stream"),
    (re.compile(rb"\x00\x00\x01\xba"), "mpeg", "MPEG program stream"),
    (re.compile(rb"ADIF|\xff[\xf0\xf1\xf8\xf9]"), "aac", "AAC"),
    (re.compile(rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]"), "mp3", "MP3"),
)

# What people pass by mistake or on purpose, told by its first bytes. No library is asked to open it: archives unpack
# to more than they seem, and playlists point at other files and hosts.
_TEXT_START = rb"(?:\xef\xbb\xbf)?\s*"
_ARCHIVE_ADVICE = "Unpack it and pass the songs in it."
_PLAYLIST_ADVICE = "Playlists are not followed; pass the songs that it names."
REFUSED_FORMATS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)"), "a ZIP archive", _ARCHIVE_ADVICE),
    (re.compile(rb"\x1f\x8b"), "a gzip archive", _ARCHIVE_ADVICE),
    (re.compile(rb"BZh[1-9]"), "a bzip2 archive", _ARCHIVE_ADVICE),
    (re.compile(rb"\xfd7zXZ\x00"), "an xz archive", _ARCHIVE_ADVICE),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "a Zstandard archive", _ARCHIVE_ADVICE),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive", _ARCHIVE_ADVICE),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive", _ARCHIVE_ADVICE),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive", _ARCHIVE_ADVICE),
    (re.compile(_TEXT_START + rb"#EXT(M3U|INF|-X-)", re.IGNORECASE), "an M3U playlist", _PLAYLIST_ADVICE),
    (re.compile(_TEXT_START + rb"\[playlist\]", re.IGNORECASE), "a PLS playlist", _PLAYLIST_ADVICE),
    (re.compile(_TEXT_START + rb"ffconcat version", re.IGNORECASE), "an ffconcat playlist", _PLAYLIST_ADVICE),
    (
        re.compile(_TEXT_START + rb"(<\?xml.{0,400}?)?<(mpd|asx|smil|playlist)[\s>]", re.IGNORECASE | re.DOTALL),
        "an XML playlist",
        _PLAYLIST_ADVICE,
    ),
    (re.compile(_TEXT_START + rb"v=0\r?\no="), "a session description (SDP)", _PLAYLIST_ADVICE),
)


def refuse_format(name: str, head: bytes) -> None:
    """Raise `AudioError` if the first bytes of a file are those of an archive or a playlist."""
    for pattern, label, advice in REFUSED_FORMATS:
        if pattern.match(head):
            raise AudioError(f"{name}: is {label}, not a song. {advice}")


def decode_container(name: str, handle: BinaryIO, head: bytes, resources: ExitStack) -> Decoded:
    """Open a handle with FFmpeg, as the container that its first bytes say it is."""
    known = next((entry for entry in CONTAINERS if entry[0].match(head)), None)
    if known is None:
        raise AudioError(
            f"{name}: is not audio that libsndfile or FFmpeg can decode; its first bytes are {head[:8]!r}. Check that "
            "it is a song and not, say, a web page saved under that name."
        )
    _, demuxer, label = known
    av = import_optional("av", "apex-music[audio]", reason=f"{name}: to decode this {label} file")
    try:
        # Tags may hold anything, which PyAV must be told before 19; from then on it knows.
        lenient = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        # What a container refers to outside itself, no protocol may fetch.
        options = {"protocol_whitelist": "none"}
        container = resources.enter_context(av.open(handle, format=demuxer, container_options=options, **lenient))
        frames = _decode_frames(av, container)
        # The header of an HE-AAC stream states half its rate and channels; the first frame tells what they are.
        first = next(frames, None) if container.streams.audio else None
    except (av.FFmpegError, OSError, ValueError) as error:
        # OSError: a seek to where its header points, before the beginning or beyond what a file can be.
        raise AudioError(f"{name}: this {label} file cannot be decoded ({error}). Is it complete?") from error
    if not container.streams.audio:
        raise AudioError(f"{name}: this {label} file has no sound in it.")
    if first is None:
        raise AudioError(f"{name}: holds no samples.")
    return Decoded(
        first.sample_rate,
        len(first.layout.channels),
        _join_frames(av, first, frames),
        _read_av_seconds(container),
    )


def _decode_frames(av: ModuleType, container: Any) -> Iterator[Any]:
    """Yield float32 planar frames at the stream's own rate and layout."""
    converter = av.AudioResampler(format="fltp")
    for frame in container.decode(container.streams.audio[0]):
        yield from converter.resample(frame)
    yield from converter.resample(None)


def _describe_frame(frame: Any) -> tuple[int, int]:
    return frame.sample_rate, len(frame.layout.channels)


def _join_frames(av: ModuleType, first: Any, frames: Iterator[Any]) -> Iterator[np.ndarray]:
    """Join short frames into blocks of shape `(num_samples, num_channels)`."""
    pieces, num_samples, failure = [first.to_ndarray().T], first.samples, None
    while failure is None:
        try:
            frame = next(frames, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            # ValueError: the converter refuses what changes in mid-song, though not always. OSError: as in opening.
            failure, frame = error, None
        if frame is not None and _describe_frame(frame) != _describe_frame(first):
            failure, frame = ValueError("the sampling rate or the channels change in mid-song"), None
        if frame is not None:
            pieces.append(frame.to_ndarray().T)
            num_samples += frame.samples
        if num_samples and (frame is None or num_samples >= BLOCK_NUM_SAMPLES):
            yield np.concatenate(pieces)
            pieces, num_samples = [], 0
        if frame is None:
            break
    if failure is not None:
        raise AudioError(str(failure)) from failure


def _read_av_seconds(container: Any) -> float | None:
    """Read the length of the sound where the container states it and does not estimate it."""
    stream = container.streams.audio[0]
    if container.format.name.startswith("mov") and stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.format.name.startswith(("matroska", "asf")) and not container.streams.video and container.duration:
        return float(container.duration / 1e6)
    return None
