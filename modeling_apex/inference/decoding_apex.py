"""
Room 1: open a song, whatever holds it, and decode it to blocks.

A song comes in as a path, an `http(s)` URL, bytes, a binary file object, an array or tensor with its sampling rate, a
dictionary around any of these, or a decoder object of `datasets`. It leaves as short float32 mono blocks at its native
rate, checked: what is empty, not finite or beyond a limit is refused by name. Decoding libraries are imported when the
first song needs them, and torch not at all: workers that look at audio and run no model stay light.
"""

import io
import math
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from .audio_limits_apex import INSTALL_PACKAGE, AudioError, AudioLimits, check_rate
from .libsndfile_apex import BLOCK_NUM_SAMPLES, Decoded, decode_with_soundfile, measure_shortfall

# In the installed package: what opens a URL, what names it without its secrets, what refuses archives and playlists by
# their first bytes, and what decodes the containers that libsndfile does not read.
open_url: Callable[[str, AudioLimits, ExitStack], tuple[str, BinaryIO]] | None = None
name_source: Callable[[str], str] | None = None
refuse_format: Callable[[str, bytes], None] | None = None
decode_container: Callable[[str, BinaryIO, bytes, AudioLimits, ExitStack], Decoded] | None = None
# What mends a header that libsndfile takes wrongly, and what reads on where libsndfile stops before the file's end.
mend_header: Callable[[BinaryIO, bytes], tuple[BinaryIO, list[str]]] | None = None
complete_song: Callable[[str, BinaryIO, bytes, Decoded, AudioLimits, ExitStack], None] | None = None

MAX_AMPLITUDE = 1e12
"""Far beyond any scale that samples are stored in; larger ones overflow in the sums of filters."""
NEAR_SILENCE = 10**-3.5
"""A song that nowhere gets this loud (70 dB below full scale: ten steps of 16 bits) is dither or noise of a line."""
CANCELLATION = 1e-4
"""Where the mean of channels has less than this part of their energy (40 dB), one is the other turned over."""

ACCEPTED_SOURCES = (
    "a path, an http(s) URL, bytes, a binary file object, a 1-D or 2-D float array or tensor with `sampling_rate`, "
    'a dict such as {"array": ..., "sampling_rate": ...} or {"path": ..., "bytes": ...}, or an audio decoder object '
    "with `get_all_samples()`"
)


@dataclass
class AudioStream:
    """
    An opened song: what it is, and its sound as an iterator of blocks.

    Usable as a context manager. Closes what was opened for it on `close`, and by itself once `blocks` is exhausted
    or fails.
    """

    name: str  # how messages call the song: a path, a URL, "<bytes>", "<array>", ...
    sampling_rate: int  # native, in hertz
    num_channels: int  # before the mix to mono
    blocks: Iterator[np.ndarray]  # mono float32 of shape (num_samples,) at the native rate, never empty, bounded
    warnings: list[str] = field(default_factory=list)  # what was odd; complete once `blocks` is exhausted
    resources: ExitStack = field(default_factory=ExitStack, repr=False)

    def close(self) -> None:
        """Close the files that were opened for this song and delete what was downloaded."""
        self.resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


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
        limits (`AudioLimits`, *optional*): What to refuse.

    Returns:
        `AudioStream`: The song, at its native rate. Close it, or read it to its end.

    Raises:
        `AudioError`: If the song cannot be decoded, is empty, or breaks a limit; while reading, if it holds NaN.
        `FileNotFoundError`, `IsADirectoryError`: If the path does not exist or is a folder.
        `TypeError`, `ImportError`: If `source` is of another kind, or needs a package that is not installed.
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


def name_song(source: Any) -> str:
    """Name a song by its path or URL, as messages and reports do: a URL without what opens it."""
    if name_source is not None:
        return name_source(str(source))
    return re.sub(r"(?<=://)[^/?#]*@|[?#].*", "", str(source)) if "://" in str(source) else str(source)


def _open_dict(source: dict[str, Any], sampling_rate: int | None, limits: AudioLimits) -> AudioStream:
    """Open what `datasets` and `transformers` put around a song."""
    path = source.get("path")
    for key in ("array", "raw"):
        if source.get(key) is not None:
            name = name_song(path) if path is not None else "<array>"
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
            stream.name = name_song(path)
        return stream
    if path is not None:
        return open_audio(path, sampling_rate=sampling_rate, limits=limits)
    raise TypeError(f"The dict holds {sorted(map(str, source))} and no audio. Pass {ACCEPTED_SOURCES}.")


def _open_array(source: Any, sampling_rate: Any, limits: AudioLimits, *, name: str = "<array>") -> AudioStream:
    if sampling_rate is None:
        raise AudioError(
            f"{name}: an array does not carry a sampling rate. Pass `sampling_rate=` in hertz, or "
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
    decoded = Decoded(sampling_rate, channels_last.shape[1], blocks, len(channels_last) / sampling_rate)
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
        if open_url is None:
            raise AudioError(
                f"{name_song(source)}: is a URL, and this code, which came with a checkpoint, does not open URLs. "
                f"Download the song and pass its path, or use the package apex-music: {INSTALL_PACKAGE}"
            )
        return open_url(source, limits, resources)
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(os.fspath(source)), limits, resources)
    if hasattr(source, "read"):
        return _copy_file_object(source, limits, resources)
    raise TypeError(f"Cannot read audio from {type(source).__name__}. Pass {ACCEPTED_SOURCES}.")


def _open_path(path: Path, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    name = str(path)
    try:
        path = Path(os.path.expanduser(path))
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


def create_temporary_file(resources: ExitStack) -> BinaryIO:
    """Open a nameless file that is gone when `resources` are closed."""
    return resources.enter_context(tempfile.TemporaryFile(buffering=0, prefix="apex-song-"))


def _copy_file_object(source: Any, limits: AudioLimits, resources: ExitStack) -> tuple[str, BinaryIO]:
    """Copy a file object to disk, so that a read error stays an error: decoders take a failed callback for the end."""
    name = getattr(source, "name", None)
    name = name_song(name) if isinstance(name, str) else "<file object>"
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
    """Decode with libsndfile, and what it cannot read by the package's own means."""
    try:
        num_bytes = handle.seek(0, os.SEEK_END)
        handle.seek(0)
        head = handle.read(512)
        handle.seek(0)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error}). Check the disk, or copy the file first.") from error
    if not head:
        raise AudioError(f"{name}: the file is empty (0 bytes).")
    if refuse_format is not None:
        refuse_format(name, head)
    shortfall = measure_shortfall(handle)
    handle, warnings = (handle, []) if mend_header is None else mend_header(handle, head)
    decoded = decode_with_soundfile(handle, limits, resources)
    if decoded is not None and complete_song is not None:
        complete_song(name, handle, head, decoded, limits, resources)
    if decoded is None:
        handle.seek(0)
        if decode_container is None:
            raise AudioError(
                f"{name}: is not audio that libsndfile can decode; its first bytes are {head[:8]!r}. The package "
                f"apex-music also decodes M4A, WebM and other containers: {INSTALL_PACKAGE}"
            )
        decoded = decode_container(name, handle, head, limits, resources)
    _check_same_rate(name, sampling_rate, decoded.sampling_rate)
    decoded.num_bytes, decoded.shortfall = num_bytes, shortfall
    decoded.warnings[:0] = warnings
    return _build_stream(name, decoded, limits, resources)


def _build_stream(name: str, decoded: Decoded, limits: AudioLimits, resources: ExitStack) -> AudioStream:
    rate = decoded.sampling_rate
    limits.refuse_format(name, rate, decoded.num_channels)
    if decoded.declared_seconds is not None:
        limits.refuse_duration(name, round(decoded.declared_seconds * rate), rate)
    stream = AudioStream(name, rate, decoded.num_channels, iter(()), resources=resources)
    stream.blocks = _check_blocks(stream, decoded, limits)
    return stream


def _check_blocks(stream: AudioStream, decoded: Decoded, limits: AudioLimits) -> Iterator[np.ndarray]:
    """Mix blocks to mono, refuse what cannot be scored and note what is odd."""
    num_samples, failure, levels = 0, None, _Levels()
    with stream.resources:
        blocks = decoded.blocks
        while True:
            try:
                block = next(blocks)
            except StopIteration:
                break
            except AudioError as error:
                if error.is_fatal:
                    raise
                if not num_samples:
                    raise AudioError(f"{stream.name}: cannot be decoded ({error}). Is the file complete?") from error
                failure = error
                break
            limits.refuse_format(stream.name, stream.sampling_rate, block.shape[1])
            # The mean may overflow where the samples do not; both count as not finite.
            with np.errstate(over="ignore", invalid="ignore"):
                mono = _mix(block)
                peak = levels.note(block, mono)
            place = f"near {num_samples / stream.sampling_rate:.1f} s"
            if not math.isfinite(peak):
                raise AudioError(
                    f"{stream.name}: samples are NaN or infinite {place}. "
                    "Render the song again, or clean it with np.nan_to_num if that is what you mean."
                )
            if peak > MAX_AMPLITUDE:
                raise AudioError(
                    f"{stream.name}: samples reach {peak:.3g} {place}, but belong between -1 and 1. Render the song "
                    "again."
                )
            num_samples += len(mono)
            limits.refuse_duration(stream.name, num_samples, stream.sampling_rate)
            if decoded.num_bytes is not None:
                limits.refuse_expansion(stream.name, num_samples, decoded.num_bytes)
            yield mono
        if not num_samples:
            raise AudioError(f"{stream.name}: holds no samples.")
        seconds, declared = num_samples / stream.sampling_rate, decoded.declared_seconds
        if decoded.shortfall > 1:
            declared = max(declared or 0.0, seconds * decoded.shortfall)
        if declared is not None and declared - seconds > max(0.5, 0.01 * declared):
            stream.warnings.append(
                f"the file declares {declared:.1f} s but only {seconds:.1f} s decode; scored what decodes"
            )
        elif failure is not None:
            stream.warnings.append(f"decoding failed after {seconds:.1f} s ({failure}); scored what decodes")
        stream.warnings += [*decoded.warnings, *levels.describe()]


def _mix(block: np.ndarray) -> np.ndarray:
    """Return `block.mean(axis=1)` to the last bit; a mean over a short last axis takes many times as long."""
    num_channels = block.shape[1]
    mono = block[:, 0]
    if num_channels >= 8 or block.dtype == np.float16:  # NumPy adds these in another order, or with other digits
        mono = block.mean(axis=1)
    elif num_channels > 1:
        mono = mono + block[:, 1]
        for channel in range(2, num_channels):
            mono += block[:, channel]
        if num_channels & num_channels - 1:
            mono /= num_channels
        else:  # a power of two: the product is exact as well, and quicker
            mono *= 1 / num_channels
    return np.ascontiguousarray(mono, np.float32)


@dataclass
class _Levels:
    """How loud a song is, and how much of its channels is left in their mean."""

    peak: float = 0.0
    energy: float = 0.0
    channel_energy: float = 0.0

    def note(self, block: np.ndarray, mono: np.ndarray) -> float:
        """Take a block and its mean into account; return the peak of the mean."""
        peak = max(float(mono.max()), -float(mono.min()))  # a sample that is NaN makes it NaN
        self.peak = max(self.peak, peak)
        if not peak <= MAX_AMPLITUDE:  # refused; its square may overflow
            return peak
        if block.shape[1] > 1:
            # In double precision only from block to block: this tells 40 dB from less.
            self.channel_energy += float(np.vdot(block, block)) / block.shape[1]
            self.energy += float(np.dot(mono, mono))
        return peak

    def describe(self) -> list[str]:
        if self.energy < CANCELLATION * self.channel_energy:
            return ["the channels cancel each other: hardly anything is left of their mean"]
        if not self.peak:
            return ["the song is silent"]
        if self.peak < NEAR_SILENCE:
            level = -20 * math.log10(self.peak)
            return [f"the song is nearly silent: its peak is {level:.0f} dB below full scale"]
        return []


def _check_same_rate(name: str, sampling_rate: Any, own_rate: Any) -> None:
    if sampling_rate is not None and sampling_rate != own_rate:
        raise AudioError(
            f"{name}: `sampling_rate` is {sampling_rate}, but this audio states its own rate, {own_rate} Hz. Leave "
            "`sampling_rate` out; resampling is done for you."
        )
