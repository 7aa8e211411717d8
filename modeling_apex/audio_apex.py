"""
Rooms 1 to 3 of a song's way to its scores: decode, resample, cut into segments.

A song comes in as a path, an `http(s)` URL, bytes, a binary file object, an array or tensor with its sampling rate, a
dictionary around any of these, or a decoder object of `datasets`. It leaves as float32 mono segments at the model's
sampling rate. Everything streams: `open_audio` yields short blocks at the native rate, `StreamingResampler` carries
the filter's state across them, and `stream_segments` never holds more than two segments, however long the song.

Decoding libraries are imported when the first song needs them, so that reading this file needs only numpy and torch.
"""

import functools
import importlib
import io
import math
import os
import re
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import torch

BLOCK_NUM_SAMPLES = 65_536
"""Decoded samples per channel that are held at once: 1.5 s at 44.1 kHz."""

RESAMPLERS = ("sinc", "soxr")

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


class AudioError(ValueError):
    """A song that cannot be scored. The message names the song, what is wrong with it and what to do."""


@dataclass(frozen=True)
class AudioLimits:
    """
    Bound what one song may cost before it is refused.

    Args:
        max_seconds (`float`, defaults to six hours):
            Longest song, in seconds.
        max_bytes (`int`, defaults to 2 GiB):
            Largest file, download or buffer, in bytes.
        max_channels (`int`, defaults to 2):
            Most channels. Up to this many are mixed to mono by their mean.
        max_sampling_rate (`int`, defaults to 384000):
            Highest native sampling rate, in hertz.
        min_sampling_rate (`int`, defaults to 4000):
            Lowest native sampling rate, in hertz.

    Raises:
        `ValueError`: If a limit is not positive.
    """

    max_seconds: float = 6 * 3600
    max_bytes: int = 2 * 1024**3
    max_channels: int = 2
    max_sampling_rate: int = 384_000
    min_sampling_rate: int = 4_000

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not value > 0:
                raise ValueError(f"`AudioLimits.{limit.name}` must be positive, got {value!r}.")

    def refuse_size(self, name: str, num_bytes: int) -> None:
        """Raise `AudioError` if a song has more bytes than allowed."""
        if num_bytes > self.max_bytes:
            raise AudioError(
                f"{name}: {num_bytes} bytes or more, but the limit is {self.max_bytes}. "
                f"Raise it with AudioLimits(max_bytes=...)."
            )

    def refuse_duration(self, name: str, num_samples: int, sampling_rate: int) -> None:
        """Raise `AudioError` if a song lasts longer than allowed."""
        if num_samples > self.max_seconds * sampling_rate:
            raise AudioError(
                f"{name}: lasts {num_samples / sampling_rate:.1f} s or more, but the limit is {self.max_seconds} s. "
                f"Cut the song, or raise the limit with AudioLimits(max_seconds=...)."
            )

    def refuse_format(self, name: str, sampling_rate: int, num_channels: int) -> None:
        """Raise `AudioError` if a song's sampling rate or number of channels is out of bounds."""
        if not self.min_sampling_rate <= sampling_rate <= self.max_sampling_rate:
            raise AudioError(
                f"{name}: the sampling rate is {sampling_rate} Hz, but must lie between {self.min_sampling_rate} and "
                f"{self.max_sampling_rate} Hz. Check the value, or change the bounds with "
                f"AudioLimits(min_sampling_rate=..., max_sampling_rate=...)."
            )
        if not 1 <= num_channels <= self.max_channels:
            raise AudioError(
                f"{name}: has {num_channels} channels, but 1 to {self.max_channels} are accepted. Mix it down first "
                f"(`ffmpeg -i in.wav -ac 2 out.wav`, or `array.mean(axis=0)` for an array of shape (channels, "
                f"samples)), or let the plain mean over channels do it with AudioLimits(max_channels=...)."
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
    if isinstance(source, np.ndarray) or torch.is_tensor(source):
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


def _open_dict(source: dict, sampling_rate: int | None, limits: AudioLimits) -> AudioStream:
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
    if torch.is_tensor(source):
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
    sampling_rate = _check_rate(sampling_rate, f"{name}: `sampling_rate`")
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
        return _download(source, limits, resources)
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(os.fspath(source)), limits, resources)
    if hasattr(source, "read"):
        return _copy_file_object(source, limits, resources)
    raise TypeError(f"Cannot read audio from {type(source).__name__}. Pass {ACCEPTED_SOURCES}.")


def _open_path(path: Path, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    name = str(path)
    path = path.expanduser()
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"No such audio file: {name}") from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(
            f"{name} is a folder, not a song. Pass the files in it, or use `apex-music score {name}`."
        )
    if not stat.S_ISREG(mode):
        raise AudioError(f"{name}: not a regular file. Pass it as an open file: open({name!r}, 'rb').")
    limits.refuse_size(name, path.stat().st_size)
    return name, resources.enter_context(path.open("rb", buffering=0))


def _create_temporary_file(resources: ExitStack) -> BinaryIO:
    return resources.enter_context(tempfile.TemporaryFile(buffering=0, prefix="apex-song-"))


def _copy_file_object(source: Any, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    """Copy a file object to disk, so that a read error stays an error: decoders take a failed callback for the end."""
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) else "<file object>"
    handle, num_bytes = _create_temporary_file(resources), 0
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


def _download(url: str, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    """Stream a URL into a temporary file."""
    # A password in a URL must not reach reports and logs.
    name = re.sub(r"^(\w+://)[^/@?#]*@", r"\1", url)
    if not url.lower().startswith(("http://", "https://")):
        raise AudioError(
            f"{name}: only http and https URLs are read. Download the song first, or pass it as an open binary file."
        )
    httpx = _import_optional("httpx", "httpx")
    handle, num_bytes = _create_temporary_file(resources), 0
    timeout = httpx.Timeout(30.0, connect=10.0)
    try:
        with (
            httpx.Client(follow_redirects=True, max_redirects=5, timeout=timeout) as client,
            client.stream("GET", url) as response,
        ):
            if not response.is_success:
                raise AudioError(
                    f"{name}: the server answered {response.status_code} {response.reason_phrase}. Check the URL."
                )
            content_length = response.headers.get("content-length", "")
            if content_length.isdigit():
                limits.refuse_size(name, int(content_length))
            for piece in response.iter_bytes(1 << 16):
                num_bytes += len(piece)
                limits.refuse_size(name, num_bytes)
                handle.write(piece)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AudioError(
            f"{name}: the download failed ({type(error).__name__}: {error}). Check the URL and the connection, or "
            "download the song and pass its path."
        ) from error
    handle.seek(0)
    return name, handle


def _open_encoded(
    name: str, handle: BinaryIO, sampling_rate: int | None, limits: AudioLimits, resources: ExitStack
) -> AudioStream:
    """Decode with libsndfile, and what it cannot read with FFmpeg."""
    head = handle.read(512)
    handle.seek(0)
    if not head:
        raise AudioError(f"{name}: the file is empty (0 bytes).")
    decoded = _decode_with_soundfile(handle, resources)
    if decoded is None:
        handle.seek(0)
        decoded = _decode_with_av(name, handle, head, resources)
    _check_same_rate(name, sampling_rate, decoded.sampling_rate)
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
            num_samples += len(mono)
            limits.refuse_duration(stream.name, num_samples, stream.sampling_rate)
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


def _decode_with_soundfile(handle: BinaryIO, resources: ExitStack) -> _Decoded | None:
    """Open a handle with libsndfile; None if it is not for libsndfile to read."""
    soundfile = _import_optional("soundfile", "soundfile")
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
        num_samples, has_length = _count_mp3_samples(handle)
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
    while offset + 8 <= num_bytes:
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


def _count_mp3_samples(handle: BinaryIO) -> tuple[int, bool]:
    """Count samples by walking the frame headers up to the first damage; also tell whether a header states them."""
    position, offset = handle.tell(), 0
    handle.seek(0)
    while (tag := handle.read(10))[:3] == b"ID3" and len(tag) == 10:
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
    av = _import_optional("av", "apex-music[audio]", reason=f"{name}: to decode this {label} file")
    try:
        container = resources.enter_context(av.open(handle, format=demuxer))
        if not container.streams.audio:
            raise AudioError(f"{name}: this {label} file has no sound in it.")
        frames = _decode_frames(av, container)
        # The header of an HE-AAC stream states half its rate and channels; the first frame tells what they are.
        first = next(frames, None)
    except av.FFmpegError as error:
        raise AudioError(f"{name}: this {label} file cannot be decoded ({error}). Is it complete?") from error
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


def _join_frames(av: ModuleType, first: Any, frames: Iterator[Any]) -> Iterator[np.ndarray]:
    """Join short frames into blocks of shape `(num_samples, num_channels)`."""
    pieces, num_samples, failure = [first.to_ndarray().T], first.samples, None
    while failure is None:
        try:
            frame = next(frames, None)
        except (av.FFmpegError, ValueError) as error:
            # ValueError: the converter refuses a change of rate or layout in mid-song.
            failure, frame = error, None
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
        return container.duration / 1e6
    return None


def _import_optional(module: str, package: str, *, reason: str = "To read songs") -> ModuleType:
    """Import what decoding needs, or say how to install it."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        # OSError: the Python package is there and the shared library behind it is not.
        raise ImportError(f'{reason}, {module} is needed: pip install "{package}" ({error})') from error


def _check_rate(rate: Any, label: str) -> int:
    """Return a sampling rate as a positive integer."""
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        raise TypeError(f"{label} must be a number of hertz, got {type(rate).__name__}.")
    if not math.isfinite(rate) or rate <= 0 or rate != int(rate):
        raise AudioError(f"{label} must be a positive whole number of hertz, got {rate}.")
    return int(rate)


def _check_same_rate(name: str, sampling_rate: Any, own_rate: Any) -> None:
    if sampling_rate is not None and sampling_rate != own_rate:
        raise AudioError(
            f"{name}: `sampling_rate` is {sampling_rate}, but this audio states its own rate, {own_rate} Hz. Leave "
            "`sampling_rate` out; resampling is done for you."
        )


@dataclass(frozen=True)
class _SincKernel:
    """
    Hold the filter for one pair of rates.

    A period is the shortest stretch over which the two sampling grids meet again: `num_in` samples come in and
    `num_out` go out. The input must be preceded by `margin` zeros.
    """

    num_in: int
    num_out: int
    margin: int
    dense: np.ndarray | None  # (num_in + 2 * margin, num_out): a period is one row of a matrix product
    bands: np.ndarray  # (num_out, num_taps): the taps that are not zero
    band_indices: np.ndarray  # (num_out, num_taps): where in a period's input they apply

    def apply(self, padded: np.ndarray, num_periods: int) -> np.ndarray:
        """Filter `num_periods` periods that start at the beginning of `padded`."""
        if self.dense is not None:
            length = self.num_in + 2 * self.margin
            windows = np.lib.stride_tricks.sliding_window_view(padded, length)
            return (windows[: num_periods * self.num_in : self.num_in] @ self.dense).reshape(-1)
        outputs = np.empty((num_periods, self.num_out), np.float32)
        for period in range(num_periods):
            taken = padded[period * self.num_in :][self.band_indices]
            np.einsum("pt,pt->p", taken, self.bands, out=outputs[period])
        return outputs.reshape(-1)


@functools.lru_cache(maxsize=16)
def _build_sinc_kernel(original_rate: int, target_rate: int) -> _SincKernel:
    """
    Build the windowed-sinc filter that torchaudio uses by default.

    The published weights were trained behind `torchaudio` with `lowpass_filter_width=6`, `rolloff=0.99` and a Hann
    window. Times are computed from integers in float64, so that long periods lose no precision.
    """
    lowpass_filter_width, rolloff = 6, 0.99
    divisor = math.gcd(original_rate, target_rate)
    original, target = original_rate // divisor, target_rate // divisor
    cutoff = min(original, target) * rolloff
    margin = math.ceil(lowpass_filter_width * original / cutoff)

    phases = np.arange(target)[:, None]  # (target, 1)
    indices = phases * original // target + np.arange(-margin, margin + 1)  # (target, num_taps)
    times = (indices * target - phases * original) / (original * target) * cutoff
    times = times.clip(-lowpass_filter_width, lowpass_filter_width)
    window = np.cos(times * math.pi / lowpass_filter_width / 2) ** 2
    bands = (np.sinc(times) * window * cutoff / original).astype(np.float32)
    indices = indices + margin

    # Several periods to a row keep the rows from overlapping more than they hold.
    repeats = max(1, 256 // max(original, target))
    shape = (repeats * original + 2 * margin, repeats * target)
    dense = None
    if shape[0] * shape[1] <= 2**20:
        dense = np.zeros(shape, np.float32)
        for repeat in range(repeats):
            np.put_along_axis(
                dense[repeat * original :, repeat * target : (repeat + 1) * target], indices.T, bands.T, axis=0
            )
        original, target = repeats * original, repeats * target
    return _SincKernel(original, target, margin, dense, bands, indices)


class StreamingResampler:
    """
    Resample a song block by block.

    What `push` returns over all blocks, with `finish` at the end, is what `resample` returns for the whole song, up
    to float32 rounding.

    Args:
        original_rate (`int`):
            Rate of what comes in, in hertz.
        target_rate (`int`):
            Rate of what leaves, in hertz.
        method (`str`, defaults to `"sinc"`):
            `"sinc"` is torchaudio's default filter, which the published weights were trained behind; `"soxr"` is
            SoX's high-quality resampler.

    Raises:
        `ValueError`: If a rate is not a positive whole number or the method is unknown.
    """

    def __init__(self, original_rate: int, target_rate: int, *, method: str = "sinc") -> None:
        if method not in RESAMPLERS:
            raise ValueError(f"Unknown resampler {method!r}. Choose one of {', '.join(RESAMPLERS)}.")
        self.original_rate = _check_rate(original_rate, "`original_rate`")
        self.target_rate = _check_rate(target_rate, "`target_rate`")
        self.method = method
        self._soxr: Any = None
        self._kernel: _SincKernel | None = None
        self._pending: list[np.ndarray] = []
        self._num_pending = 0
        self._num_received = 0
        self._num_returned = 0
        self._is_finished = False
        if self.original_rate == self.target_rate:
            return
        if method == "soxr":
            soxr = _import_optional("soxr", "soxr", reason='To resample with method "soxr"')
            self._soxr = soxr.ResampleStream(self.original_rate, self.target_rate, 1, dtype="float32", quality="HQ")
        else:
            self._kernel = _build_sinc_kernel(self.original_rate, self.target_rate)
            self._append(np.zeros(self._kernel.margin, np.float32))

    def push(self, block: np.ndarray) -> np.ndarray:
        """
        Take the next block of a song.

        Args:
            block (`np.ndarray` of shape `(num_samples,)`):
                Mono audio at the original rate, float32.

        Returns:
            `np.ndarray` of shape `(num_resampled,)`: The samples at the target rate that are complete by now; it may
            be empty.

        Raises:
            `ValueError`: If the block is not one-dimensional or the resampler was finished.
        """
        if self._is_finished:
            raise ValueError("This resampler is finished. Build a new one for the next song.")
        block = np.asarray(block, np.float32)
        if block.ndim != 1:
            raise ValueError(f"A block must be one-dimensional mono audio, got the shape {block.shape}.")
        if self._soxr is not None:
            return self._soxr.resample_chunk(block) if len(block) else block
        if self._kernel is None:
            return block
        self._num_received += len(block)
        pieces = [self._filter(block[i : i + BLOCK_NUM_SAMPLES]) for i in range(0, len(block), BLOCK_NUM_SAMPLES)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def finish(self) -> np.ndarray:
        """
        Return what is left once the last block was pushed.

        Raises:
            `ValueError`: If the resampler was finished before.
        """
        if self._is_finished:
            raise ValueError("This resampler is finished. Build a new one for the next song.")
        if self._soxr is not None:
            rest = self._soxr.resample_chunk(np.zeros(0, np.float32), last=True)
        elif self._kernel is None:
            rest = np.zeros(0, np.float32)
        else:
            num_total = -(-self._num_received * self.target_rate // self.original_rate)
            num_missing = num_total - self._num_returned
            # Zeros after the end: the filter's right margin, and what completes the last period.
            rest = self._filter(np.zeros(2 * self._kernel.margin + self._kernel.num_in, np.float32))[:num_missing]
        self._is_finished = True
        self._pending = []
        return rest

    def _append(self, block: np.ndarray) -> None:
        self._pending.append(block)
        self._num_pending += len(block)

    def _filter(self, block: np.ndarray) -> np.ndarray:
        """Return the output of all periods whose input, margins included, has arrived."""
        assert self._kernel is not None
        kernel = self._kernel
        self._append(block)
        num_periods = (self._num_pending - 2 * kernel.margin) // kernel.num_in
        if num_periods < 1:
            return np.zeros(0, np.float32)
        padded = np.concatenate(self._pending)
        resampled = kernel.apply(padded, num_periods)
        self._pending = [padded[num_periods * kernel.num_in :].copy()]
        self._num_pending = len(self._pending[0])
        self._num_returned += len(resampled)
        return resampled


def resample(waveform: np.ndarray, original_rate: int, target_rate: int, *, method: str = "sinc") -> np.ndarray:
    """
    Resample a whole waveform.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`):
            Mono audio at the original rate, float32.
        original_rate (`int`):
            Its rate, in hertz.
        target_rate (`int`):
            The wanted rate, in hertz.
        method (`str`, defaults to `"sinc"`):
            `"sinc"` or `"soxr"`; see `StreamingResampler`.

    Returns:
        `np.ndarray` of shape `(num_resampled,)`: Mono audio at the target rate, float32. With `"sinc"`,
        `num_resampled` is `num_samples * target_rate / original_rate`, rounded up.

    Raises:
        `ValueError`: If the waveform is not one-dimensional, a rate is not a positive whole number, or the method is
            unknown.
    """
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim != 1:
        raise ValueError(f"`waveform` must be one-dimensional mono audio, got the shape {waveform.shape}.")
    resampler = StreamingResampler(original_rate, target_rate, method=method)
    if method == "soxr" and resampler.original_rate != resampler.target_rate:
        return _import_optional("soxr", "soxr").resample(
            waveform, resampler.original_rate, resampler.target_rate, quality="HQ"
        )
    return np.concatenate([resampler.push(waveform), resampler.finish()])


def split_segments(
    waveform: np.ndarray, segment_num_samples: int, *, pad_value: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """
    Cut a mono waveform into equal segments and pad the last one.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`):
            Mono audio at the model's sampling rate, float32.
        segment_num_samples (`int`):
            Length of a segment, in samples.
        pad_value (`float`, defaults to 0):
            What fills the rest of the last segment.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Segments of shape `(num_segments, segment_num_samples)` and the number of
        real samples in each, int64, of shape `(num_segments,)`.

    Raises:
        `ValueError`: If `waveform` is empty or not one-dimensional, or `segment_num_samples` is not positive.
    """
    waveform = np.asarray(waveform, np.float32)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"`waveform` must be one-dimensional and not empty, got the shape {waveform.shape}.")
    if segment_num_samples < 1:
        raise ValueError(f"`segment_num_samples` must be positive, got {segment_num_samples}.")
    num_segments = -(-len(waveform) // segment_num_samples)
    segments = np.full((num_segments, segment_num_samples), pad_value, np.float32)
    segments.reshape(-1)[: len(waveform)] = waveform
    num_real_samples = np.full(num_segments, segment_num_samples, np.int64)
    num_real_samples[-1] = len(waveform) - (num_segments - 1) * segment_num_samples
    return segments, num_real_samples


@dataclass
class Segment:
    """
    Hold one segment of a song.

    Args:
        samples (`np.ndarray` of shape `(segment_num_samples,)`):
            Mono float32 audio at the target rate; zeros after the end of the song.
        num_real_samples (`int`):
            Samples before the padding.
        start_sample (`int`):
            Where the segment starts in the song, in samples at the target rate.
        is_last (`bool`):
            Whether the song ends here.
    """

    samples: np.ndarray
    num_real_samples: int
    start_sample: int
    is_last: bool


class SegmentStream:
    """
    Iterate over the segments of a song in bounded memory.

    One segment is read ahead, to know which is the last. The source is closed when the iterator is exhausted or
    fails, by `close`, and on leaving a `with` block.

    Args:
        stream (`AudioStream`):
            The opened song.
        blocks (`Iterator[np.ndarray]`):
            Its sound at the target rate.
        target_rate (`int`):
            Rate of the segments, in hertz.
        segment_num_samples (`int`):
            Length of a segment, in samples.
        minimum_num_samples (`int`):
            Fewest samples at the target rate that can be scored.

    Attributes:
        name (`str`): How messages call the song.
        sampling_rate (`int`): Native rate, in hertz.
        num_channels (`int`): Native channels.
        warnings (`list[str]`): What was odd about the song; complete after the iteration.
        num_real_samples (`int`): Samples at the target rate that were read so far; the song's length at the end.
    """

    def __init__(
        self,
        stream: AudioStream,
        blocks: Iterator[np.ndarray],
        *,
        target_rate: int,
        segment_num_samples: int,
        minimum_num_samples: int,
    ) -> None:
        self.name = stream.name
        self.sampling_rate = stream.sampling_rate
        self.num_channels = stream.num_channels
        self.warnings = stream.warnings
        self.num_real_samples = 0
        self._stream = stream
        self._target_rate = target_rate
        self._segment_num_samples = segment_num_samples
        self._minimum_num_samples = minimum_num_samples
        self._segments = self._cut(blocks)

    def __iter__(self) -> Iterator[Segment]:
        return self

    def __next__(self) -> Segment:
        return next(self._segments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and close the source."""
        self._segments.close()
        self._stream.close()

    def _cut(self, blocks: Iterator[np.ndarray]) -> Any:
        length = self._segment_num_samples
        ahead: Segment | None = None
        samples, num_filled, start = np.zeros(length, np.float32), 0, 0
        for block in blocks:
            self.num_real_samples += len(block)
            while len(block):
                taken = block[: length - num_filled]
                samples[num_filled : num_filled + len(taken)] = taken
                num_filled, block = num_filled + len(taken), block[len(taken) :]
                if num_filled == length:
                    if ahead is not None:
                        yield ahead
                    ahead = Segment(samples, length, start, is_last=False)
                    samples, num_filled, start = np.zeros(length, np.float32), 0, start + length
        if self.num_real_samples < self._minimum_num_samples:
            raise AudioError(
                f"{self.name}: lasts {self.num_real_samples / self._target_rate:.4f} s ({self.num_real_samples} "
                f"samples at {self._target_rate} Hz), but at least "
                f"{self._minimum_num_samples / self._target_rate:.4f} s ({self._minimum_num_samples} samples) are "
                f"needed. Pass a longer song."
            )
        if num_filled:
            if ahead is not None:
                yield ahead
            ahead = Segment(samples, num_filled, start, is_last=False)
        if ahead is not None:
            ahead.is_last = True
            yield ahead


def _resample_blocks(stream: AudioStream, target_rate: int, resampler: str) -> Iterator[np.ndarray]:
    # Built here rather than on the first block, so that a wrong rate or method is refused before anything is read.
    state = StreamingResampler(stream.sampling_rate, target_rate, method=resampler)

    def generate() -> Iterator[np.ndarray]:
        for block in stream.blocks:
            yield state.push(block)
        yield state.finish()

    return generate()


def stream_segments(
    source: Any,
    *,
    target_rate: int = 24_000,
    segment_seconds: float = 30.0,
    sampling_rate: int | None = None,
    resampler: str = "sinc",
    limits: AudioLimits | None = None,
    minimum_num_samples: int = 1,
) -> SegmentStream:
    """
    Decode, resample and cut a song, segment by segment.

    Args:
        source:
            The song, as `open_audio` takes it.
        target_rate (`int`, defaults to 24000):
            The model's sampling rate, in hertz.
        segment_seconds (`float`, defaults to 30):
            Length of a segment, in seconds.
        sampling_rate (`int`, *optional*):
            Rate of an array, in hertz.
        resampler (`str`, defaults to `"sinc"`):
            `"sinc"` or `"soxr"`; see `StreamingResampler`.
        limits (`AudioLimits`, *optional*):
            What to refuse.
        minimum_num_samples (`int`, defaults to 1):
            Fewest samples at the target rate that can be scored.

    Returns:
        `SegmentStream`: An iterator of `Segment`.

    Raises:
        `AudioError`, `FileNotFoundError`, `IsADirectoryError`, `TypeError`, `ImportError`: As `open_audio`; while
            iterating, if the song breaks off before its first sample, holds NaN, or is too short.
        `ValueError`: If a segment would hold no sample, or the resampler is unknown.
    """
    segment_num_samples = round(segment_seconds * _check_rate(target_rate, "`target_rate`"))
    if segment_num_samples < 1:
        raise ValueError(f"`segment_seconds` must be at least one sample long, got {segment_seconds}.")
    stream = open_audio(source, sampling_rate=sampling_rate, limits=limits)
    try:
        blocks = _resample_blocks(stream, target_rate, resampler)
    except BaseException:
        stream.close()
        raise
    return SegmentStream(
        stream,
        blocks,
        target_rate=target_rate,
        segment_num_samples=segment_num_samples,
        minimum_num_samples=minimum_num_samples,
    )


def load_audio(
    source: Any,
    *,
    target_rate: int = 24_000,
    sampling_rate: int | None = None,
    resampler: str = "sinc",
    limits: AudioLimits | None = None,
) -> np.ndarray:
    """
    Decode and resample a whole song.

    Args:
        source:
            The song, as `open_audio` takes it.
        target_rate (`int`, defaults to 24000):
            The wanted sampling rate, in hertz.
        sampling_rate (`int`, *optional*):
            Rate of an array, in hertz.
        resampler (`str`, defaults to `"sinc"`):
            `"sinc"` or `"soxr"`; see `StreamingResampler`.
        limits (`AudioLimits`, *optional*):
            What to refuse.

    Returns:
        `np.ndarray` of shape `(num_samples,)`: Mono float32 audio at `target_rate`.

    Raises:
        `AudioError`, `FileNotFoundError`, `IsADirectoryError`, `TypeError`, `ImportError`: As `open_audio`.
        `ValueError`: If the resampler is unknown.
    """
    with open_audio(source, sampling_rate=sampling_rate, limits=limits) as stream:
        return np.concatenate(list(_resample_blocks(stream, target_rate, resampler)))
