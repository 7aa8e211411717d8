"""
Room 1: open a song, whatever holds it, and decode it to blocks.

A song comes in as a path, an `http(s)` URL, bytes, a binary file object, an array or tensor with its sampling rate, a
dictionary around any of these, or a decoder object of `datasets`. It leaves as short float32 mono blocks at its native
rate, checked: what is empty, not finite or beyond a limit is refused by name. Decoding libraries are imported when the
first song needs them, and torch not at all: workers that look at audio and run no model stay light.
"""

import functools
import io
import math
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from .audio_limits_apex import AudioError, AudioLimits, check_rate, import_optional
from .download_apex import create_temporary_file, download

BLOCK_NUM_SAMPLES = 65_536
"""Decoded samples per channel that are held at once: 1.5 s at 44.1 kHz."""

MAX_AMPLITUDE = 1e12
"""Far beyond any scale that samples are stored in; larger ones overflow in the sums of filters."""

# How far headers are followed by hand: a file of nothing but empty tags or chunks would otherwise take minutes.
MAX_TAGS = 32
MAX_RIFF_CHUNKS = 4096

ACCEPTED_SOURCES = (
    "a path, an http(s) URL, bytes, a binary file object, a 1-D or 2-D float array or tensor with `sampling_rate`, "
    'a dict such as {"array": ..., "sampling_rate": ...} or {"path": ..., "bytes": ...}, or an audio decoder object '
    "with `get_all_samples()`"
)

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


@dataclass
class AudioStream:
    """
    Hold an opened song: what it is, and its sound as an iterator of blocks.

    Usable as a context manager. Closes what was opened for it on `close`, and by itself once `blocks` is exhausted
    or fails.

    Args:
        name (`str`):
            How messages call the song: a path, a URL, `"<bytes>"`, `"<array>"`, ...
        sampling_rate (`int`):
            Native sampling rate, in hertz.
        num_channels (`int`):
            Channels before the mix to mono.
        blocks (`Iterator[np.ndarray]`):
            Mono float32 blocks of shape `(num_samples,)` at the native rate, never empty, of bounded size.
        warnings (`list[str]`):
            What was odd about the song. Complete once `blocks` is exhausted.
    """

    name: str
    sampling_rate: int
    num_channels: int
    blocks: Iterator[np.ndarray]
    warnings: list[str] = field(default_factory=list)
    resources: ExitStack = field(default_factory=ExitStack, repr=False)

    def close(self) -> None:
        """Close the files that were opened for this song and delete what was downloaded."""
        self.resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Decoded:
    """What a decoder found: blocks of shape `(num_samples, num_channels)` and the length that the header promises."""

    sampling_rate: int
    num_channels: int
    blocks: Iterator[np.ndarray]
    declared_seconds: float | None = None
    num_bytes: int | None = None  # of the encoded song


def open_audio(source: Any, *, sampling_rate: int | None = None, limits: AudioLimits | None = None) -> AudioStream:
    """
    Open a song for reading in blocks.

    Args:
        source (`str`, `Path`, `bytes`, file object, `np.ndarray`, `torch.Tensor`, `dict` or decoder object):
            The song. Arrays are floats, of shape `(num_samples,)`, `(num_channels, num_samples)` or
            `(num_samples, num_channels)`. Dictionaries hold `array` or `raw` with `sampling_rate`, or `bytes` and
            `path`. File objects are read from their beginning.
        sampling_rate (`int`, *optional*):
            Rate of an array, in hertz. Encoded audio knows its own rate, which this must then equal.
        limits (`AudioLimits`, *optional*):
            What to refuse.

    Returns:
        `AudioStream`: The song, at its native rate. Close it, or read it to its end.

    Raises:
        `AudioError`: If the song cannot be decoded, is empty, or breaks a limit; while reading, if it holds NaN.
        `FileNotFoundError`: If the path does not exist.
        `IsADirectoryError`: If the path is a folder.
        `TypeError`: If `source` is of a kind that is not accepted.
        `ImportError`: If a package is needed that is not installed; the message names the extra.
    """
    limits = limits or AudioLimits()
    if isinstance(source, dict):
        return _open_dict(source, sampling_rate, limits)
    if isinstance(source, np.ndarray) or _is_tensor(source):
        return _open_array(source, sampling_rate, limits)
    if hasattr(source, "get_all_samples"):
        samples = source.get_all_samples()
        _check_same_rate("<audio decoder>", sampling_rate, samples.sample_rate)
        return _open_array(samples.data, samples.sample_rate, limits, name="<audio decoder>")
    resources = ExitStack()
    try:
        name, handle = _open_handle(source, limits, resources)
        return _open_encoded(name, handle, sampling_rate, limits, resources)
    except BaseException:
        resources.close()
        raise


def _open_dict(source: dict[str, Any], sampling_rate: int | None, limits: AudioLimits) -> AudioStream:
    """Open what `datasets` and `transformers` put around a song."""
    path = source.get("path")
    for key in ("array", "raw"):
        if source.get(key) is not None:
            name = str(path) if path is not None else "<array>"
            own_rate = source.get("sampling_rate")
            if own_rate is not None:
                _check_same_rate(name, sampling_rate, own_rate)
            array = source[key]
            if isinstance(array, list | tuple):
                array = np.asarray(array)
            return _open_array(array, sampling_rate if own_rate is None else own_rate, limits, name=name)
    if source.get("bytes") is not None:
        stream = open_audio(source["bytes"], sampling_rate=sampling_rate, limits=limits)
        if path is not None:
            stream.name = str(path)
        return stream
    if path is not None:
        return open_audio(path, sampling_rate=sampling_rate, limits=limits)
    raise TypeError(f"The dict holds {sorted(map(str, source))} and no audio. Pass {ACCEPTED_SOURCES}.")


def _open_array(source: Any, sampling_rate: Any, limits: AudioLimits, *, name: str = "<array>") -> AudioStream:
    if sampling_rate is None:
        raise AudioError(
            f"{name}: an array has no sampling rate of its own. Pass `sampling_rate=` in hertz, or "
            '{"array": array, "sampling_rate": 44100}.'
        )
    if _is_tensor(source):
        source = source.detach().to("cpu")
        # NumPy has no bfloat16.
        source = (source.float() if source.is_floating_point() else source).numpy()
    if not isinstance(source, np.ndarray):
        raise TypeError(f"{name}: expected a numpy array or a torch tensor, got {type(source).__name__}.")
    if source.dtype.kind != "f":
        raise AudioError(
            f"{name}: samples are {source.dtype}, but must be floats. Convert to float in [-1, 1], e.g. "
            "array / 32768 for 16-bit samples."
        )
    if source.ndim not in (1, 2):
        raise AudioError(
            f"{name}: the shape is {source.shape}, but must be (samples,), (channels, samples) or (samples, channels)."
        )
    sampling_rate = check_rate(sampling_rate, f"{name}: `sampling_rate`")
    if source.ndim == 1:
        channels_last = source[:, None]
    else:
        # The short axis holds the channels; (2, 2) and (1, 1) read as channels first.
        first, last = source.shape
        is_channels_first = first <= limits.max_channels or (last > limits.max_channels and first <= last)
        channels_last = source.T if is_channels_first else source
    if not channels_last.size:
        raise AudioError(f"{name}: holds no samples (shape {source.shape}).")
    limits.refuse_size(name, source.nbytes)
    starts = range(0, len(channels_last), BLOCK_NUM_SAMPLES)
    blocks = (channels_last[start : start + BLOCK_NUM_SAMPLES] for start in starts)
    decoded = _Decoded(sampling_rate, channels_last.shape[1], blocks, len(channels_last) / sampling_rate)
    return _build_stream(name, decoded, limits, ExitStack())


def _is_tensor(source: Any) -> bool:
    """Tell a torch tensor without importing torch: who holds one has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.is_tensor(source)


def _open_handle(source: Any, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    """Turn a path, URL, bytes or file object into a name and a seekable binary handle at its beginning."""
    if isinstance(source, bytes | bytearray | memoryview):
        limits.refuse_size("<bytes>", memoryview(source).nbytes)
        return "<bytes>", resources.enter_context(io.BytesIO(source))
    if isinstance(source, io.BytesIO):
        # A copy-on-write snapshot: the caller's position and lifetime stay theirs.
        limits.refuse_size("<file object>", source.getbuffer().nbytes)
        return "<file object>", resources.enter_context(io.BytesIO(source.getvalue()))
    if isinstance(source, str) and "://" in source:
        return download(source, limits, resources)
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(os.fspath(source)), limits, resources)
    if hasattr(source, "read"):
        return _copy_file_object(source, limits, resources)
    raise TypeError(f"Cannot read audio from {type(source).__name__}. Pass {ACCEPTED_SOURCES}.")


def _open_path(path: Path, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    name = str(path)
    try:
        path = path.expanduser()
        _refuse_irregular(name, path.stat().st_mode)
        handle = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115 (closed by `resources`)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"No such audio file: {name}") from error
    except (AudioError, IsADirectoryError, PermissionError):
        raise
    except (OSError, ValueError, RuntimeError) as error:
        # A loop of links, a name that is too long, a null character in it, a home that is not there, a broken disk.
        raise AudioError(f"{name}: cannot be opened ({error}). Check the name and what it leads to.") from error
    resources.enter_context(handle)
    # Once more on what was opened: between the two looks, the name may have changed its meaning.
    status = os.fstat(handle.fileno())
    _refuse_irregular(name, status.st_mode)
    limits.refuse_size(name, status.st_size)
    return name, handle


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that took its place would otherwise make this wait for a writer, perhaps forever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_irregular(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(
            f"{name} is a folder, not a song. Pass the files in it, or use `apex-music score {name}`."
        )
    if not stat.S_ISREG(mode):
        raise AudioError(f"{name}: not a regular file. Pass it as an open file: open({name!r}, 'rb').")


def _copy_file_object(source: Any, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    """Copy a file object to disk, so that a read error stays an error: decoders take a failed callback for the end."""
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) else "<file object>"
    handle, num_bytes = create_temporary_file(resources), 0
    if hasattr(source, "seekable") and source.seekable():
        source.seek(0)
    while piece := source.read(1 << 20):
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise TypeError(f"{name}: reading gives {type(piece).__name__}, not bytes. Open the file in 'rb' mode.")
        num_bytes += len(piece)
        limits.refuse_size(name, num_bytes)
        handle.write(piece)
    handle.seek(0)
    return name, handle


def _open_encoded(
    name: str, handle: BinaryIO, sampling_rate: int | None, limits: AudioLimits, resources: ExitStack
) -> AudioStream:
    """Decode with libsndfile, and what it cannot read with FFmpeg."""
    try:
        num_bytes = handle.seek(0, os.SEEK_END)
        handle.seek(0)
        head = handle.read(512)
        handle.seek(0)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error}). Check the disk, or copy the file first.") from error
    if not head:
        raise AudioError(f"{name}: the file is empty (0 bytes).")
    for pattern, label, advice in REFUSED_FORMATS:
        if pattern.match(head):
            raise AudioError(f"{name}: is {label}, not a song. {advice}")
    decoded = _decode_with_soundfile(handle, limits, resources)
    if decoded is None:
        handle.seek(0)
        decoded = _decode_with_av(name, handle, head, resources)
    _check_same_rate(name, sampling_rate, decoded.sampling_rate)
    decoded.num_bytes = num_bytes
    return _build_stream(name, decoded, limits, resources)


def _build_stream(name: str, decoded: _Decoded, limits: AudioLimits, resources: ExitStack) -> AudioStream:
    rate = decoded.sampling_rate
    limits.refuse_format(name, rate, decoded.num_channels)
    if decoded.declared_seconds is not None:
        limits.refuse_duration(name, round(decoded.declared_seconds * rate), rate)
    stream = AudioStream(name, rate, decoded.num_channels, iter(()), resources=resources)
    stream.blocks = _check_blocks(stream, decoded, limits)
    return stream


def _check_blocks(stream: AudioStream, decoded: _Decoded, limits: AudioLimits) -> Iterator[np.ndarray]:
    """Mix blocks to mono, refuse what cannot be scored and note what is odd."""
    num_samples, is_silent, failure = 0, True, None
    with stream.resources:
        blocks = decoded.blocks
        while True:
            try:
                block = next(blocks)
            except StopIteration:
                break
            except AudioError as error:
                if not num_samples:
                    raise AudioError(f"{stream.name}: cannot be decoded ({error}). Is the file complete?") from error
                failure = error
                break
            # The mean may overflow where the samples do not; both count as not finite.
            with np.errstate(over="ignore", invalid="ignore"):
                mono = np.ascontiguousarray(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0], np.float32)
            if not np.isfinite(mono).all():
                raise AudioError(
                    f"{stream.name}: samples are NaN or infinite near {num_samples / stream.sampling_rate:.1f} s. "
                    "Render the song again, or clean it with np.nan_to_num if that is what you mean."
                )
            if np.abs(mono).max() > MAX_AMPLITUDE:
                raise AudioError(
                    f"{stream.name}: samples reach {np.abs(mono).max():.3g} near "
                    f"{num_samples / stream.sampling_rate:.1f} s, but belong between -1 and 1. Render the song again."
                )
            num_samples += len(mono)
            limits.refuse_duration(stream.name, num_samples, stream.sampling_rate)
            if decoded.num_bytes is not None:
                limits.refuse_expansion(stream.name, num_samples, decoded.num_bytes)
            is_silent = is_silent and not mono.any()
            yield mono
        if not num_samples:
            raise AudioError(f"{stream.name}: holds no samples.")
        seconds, declared = num_samples / stream.sampling_rate, decoded.declared_seconds
        if declared is not None and declared - seconds > max(0.5, 0.01 * declared):
            stream.warnings.append(
                f"the file declares {declared:.1f} s but only {seconds:.1f} s decode; scored what decodes"
            )
        elif failure is not None:
            stream.warnings.append(f"decoding failed after {seconds:.1f} s ({failure}); scored what decodes")
        if is_silent:
            stream.warnings.append("the song is silent")


def _decode_with_soundfile(handle: BinaryIO, limits: AudioLimits, resources: ExitStack) -> _Decoded | None:
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
    return _Decoded(file.samplerate, file.channels, _read_blocks(file), seconds)


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


def _decode_with_av(name: str, handle: BinaryIO, head: bytes, resources: ExitStack) -> _Decoded:
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
        # Tags may hold anything; and what a container refers to outside itself, no protocol may fetch.
        options = {"protocol_whitelist": "none"}
        container = av.open(handle, format=demuxer, metadata_errors="replace", container_options=options)
        resources.enter_context(container)
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
    return _Decoded(
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


def _check_same_rate(name: str, sampling_rate: Any, own_rate: Any) -> None:
    if sampling_rate is not None and sampling_rate != own_rate:
        raise AudioError(
            f"{name}: `sampling_rate` is {sampling_rate}, but this audio states its own rate, {own_rate} Hz. Leave "
            "`sampling_rate` out; resampling is done for you."
        )
