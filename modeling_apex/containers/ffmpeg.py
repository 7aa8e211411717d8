"""
Room 1's other decoder: from the bytes of a song to blocks of samples, by FFmpeg.

What comes in is a seekable file and the name of its demuxer; what leaves is a [`Decoded`] song. Packets that do not
decode are passed over up to a bound, and counted. PyAV is imported when the first such song comes.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from modeling_apex.inference.audio_limits_apex import AudioError, import_optional
from modeling_apex.inference.libsndfile_apex import BLOCK_NUM_SAMPLES, Decoded

SPARE_BAD_PACKETS = 50
"""Bad packets that are passed over, beyond as many as there are good ones; with more, it is no song."""

OWN_ORDER = " channels ("
"""In the name of a layout whose channels stand in an order of its own: "2 channels (FR+FL)"."""
ADVICE = "If another program plays it, convert it to WAV or FLAC there."
PACKAGE = "apex-music[audio]"
# Whether the command that installs PyAV has been shown: once is enough for a folder of songs.
_shown: set[str] = set()


class MissingDecoderError(AudioError, ImportError):
    """A song that would be read if PyAV were installed."""


@dataclass
class Damage:
    """What was passed over in a song."""

    num_packets: int = 0
    num_bad: int = 0
    num_last: int = 0  # of these, how many no good one has followed
    bad_seconds: float = 0.0
    packet_seconds: float = 0.0  # of the last good packet

    def note(self, packet: Any) -> bool:
        """Count a bad packet; tell whether the next may be tried."""
        self.num_bad += 1
        self.num_last += 1
        is_stated = packet is not None and packet.duration and packet.time_base
        self.bad_seconds += float(packet.duration * packet.time_base) if is_stated else self.packet_seconds
        return self.num_bad <= SPARE_BAD_PACKETS + self.num_packets

    def describe(self) -> list[str]:
        if self.num_bad == self.num_last <= 1:  # a file that breaks off, which its length tells
            return []
        packets = "1 damaged packet" if self.num_bad == 1 else f"{self.num_bad} damaged packets"
        seconds = f" ({self.bad_seconds:.1f} s)" if self.bad_seconds else ""
        return [f"{packets}{seconds} passed over; scored what decodes"]


def import_av(name: str, label: str) -> ModuleType:
    """
    Import PyAV, or say which song needs it, and once how to install it.

    Raises:
        `MissingDecoderError`: If PyAV is not installed or does not load.
    """
    try:
        return import_optional("av", PACKAGE)
    except ImportError as error:
        advice = " too" if _shown else f': pip install "{PACKAGE}"'
        _shown.add(PACKAGE)
        reason = str(error.__cause__ or error)
        raise MissingDecoderError(f"{name}: to decode this {label} file, av is needed{advice} ({reason})") from error


def open_container(name: str, handle: BinaryIO, demuxer: str, label: str, resources: ExitStack) -> Any:
    """
    Open a container by its demuxer's name.

    Raises:
        `AudioError`: If FFmpeg does not open it, or there is no sound in it that FFmpeg decodes.
    """
    av = import_av(name, label)
    # Tags may hold anything, which PyAV must be told before 19; from then on it knows.
    lenient = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    # What a container refers to outside itself, no protocol may fetch.
    options = {"protocol_whitelist": "none"}
    try:
        container = resources.enter_context(av.open(handle, format=demuxer, container_options=options, **lenient))
    except (av.FFmpegError, OSError, ValueError) as error:
        # OSError: a seek to where its header points, before the beginning or beyond what a file can be.
        raise AudioError(f"{name}: this {label} file cannot be decoded ({error}). Is it complete? {ADVICE}") from error
    if not container.streams.audio:
        raise AudioError(f"{name}: this {label} file contains no audio.")
    codec = container.streams.audio[0].codec_context
    if codec is None:
        raise AudioError(f"{name}: the codec of this {label} file is not one that FFmpeg decodes. {ADVICE}")
    layout = codec.layout
    if OWN_ORDER in layout.name:
        # PyAV 18 frees the list of such an order once more with every frame. Replaced here, it is freed with `layout`;
        # the mean over channels knows no order.
        codec.layout = f"{layout.nb_channels} channels"
    return container


def decode_stream(name: str, container: Any, label: str) -> Decoded:
    """
    Decode the first sound of an opened container.

    Raises:
        `AudioError`: If nothing of it decodes; while reading, if it breaks off with more damage than is passed over.
    """
    av = import_av(name, label)
    damage = Damage()
    frames = _decode_frames(av, container, damage)
    try:
        # The header of an HE-AAC stream states half its rate and channels; the first frame tells what they are.
        first = next(frames, None)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(f"{name}: this {label} file cannot be decoded ({error}). Is it complete? {ADVICE}") from error
    if first is None:
        raise AudioError(f"{name}: holds no samples.")
    decoded = Decoded(first.sample_rate, first.layout.nb_channels, iter(()), _read_seconds(container))
    decoded.blocks = _join_frames(av, first, frames, decoded, damage)
    return decoded


def _decode_frames(av: ModuleType, container: Any, damage: Damage) -> Iterator[Any]:
    """Yield frames as they are decoded; packets that are damaged are passed over."""
    stream = container.streams.audio[0]
    if stream.codec_context.name == "flac":
        stream.codec_context.options = {"err_detect": "crccheck+explode"}  # or damage is decoded, as bursts of noise
    packets = container.demux(stream)
    while True:
        packet = None
        try:
            packet = next(packets)
            frames = packet.decode()
        except StopIteration:
            return
        except (av.FFmpegError, IndexError) as error:  # IndexError: PyAV knows no stream that begins in mid-file
            if not damage.note(packet):
                raise ValueError(f"{damage.num_bad} packets are damaged, the last with: {error}") from error
            if packet is None:
                packets = container.demux(stream)
            if isinstance(error, av.EOFError):
                return
            continue
        if frames:
            damage.num_packets, damage.num_last = damage.num_packets + 1, 0
            damage.packet_seconds = sum(frame.samples for frame in frames) / frames[0].sample_rate
        yield from frames


def _describe_frame(frame: Any) -> tuple[Any, ...]:
    return frame.sample_rate, frame.format.name, frame.layout.nb_channels, frame.layout.name


def _join_frames(
    av: ModuleType, first: Any, frames: Iterator[Any], decoded: Decoded, damage: Damage
) -> Iterator[np.ndarray]:
    """Join short frames into blocks of shape `(num_samples, num_channels)`, at the rate of the first frame."""
    pieces: list[np.ndarray] = []
    num_samples, failure, layout = 0, None, None
    frame: Any = first
    converter: Any = None
    while failure is None:
        flushes = frame is None or _describe_frame(frame) != layout
        try:
            if flushes and converter is not None:
                pieces += [_read_frame(item) for item in converter.resample(None)]
            if flushes and pieces:
                yield np.concatenate(pieces)
                pieces, num_samples = [], 0
            if frame is None:
                break
            if flushes:
                layout = _describe_frame(frame)
                if frame.sample_rate != first.sample_rate:
                    decoded.warnings.append("the sampling rate changes in mid-song; resampled to the first")
                # Packed: from eight channels on, PyAV's conversion to planes reads a plane too many.
                converter = av.AudioResampler(format="flt", rate=first.sample_rate)
            for item in converter.resample(frame):
                pieces.append(_read_frame(item))
                num_samples += item.samples
            frame = next(frames, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            # ValueError: the converter refuses what changes in mid-song, though not always. OSError: as in opening.
            failure = error
        if num_samples and (failure is not None or num_samples >= BLOCK_NUM_SAMPLES):
            yield np.concatenate(pieces)
            pieces, num_samples = [], 0
    decoded.warnings += damage.describe()
    if failure is not None:
        raise AudioError(str(failure)) from failure


def _read_frame(frame: Any) -> np.ndarray:
    """Return the samples `(num_samples, num_channels)` of a packed frame."""
    samples: np.ndarray = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    return samples


def _read_seconds(container: Any) -> float | None:
    """Read the length of the sound where the container states it and does not estimate it."""
    stream = container.streams.audio[0]
    if container.format.name.startswith("mov") and stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.format.name.startswith(("matroska", "asf")) and not container.streams.video and container.duration:
        return float(container.duration / 1e6)
    return None
