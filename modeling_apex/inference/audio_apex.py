"""
Rooms 1 to 3 of a song's way to its scores: decode, resample, cut into segments.

A song comes in as anything that `decoding_apex` opens. It leaves as float32 mono segments at the model's sampling
rate. Everything streams: blocks are decoded and resampled one after the other, and `stream_segments` never holds more
than two segments, however long the song.
"""

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .audio_limits_apex import AudioError, AudioLimits, check_rate
from .decoding_apex import AudioStream, open_audio
from .resampling_apex import RESAMPLERS, StreamingResampler

__all__ = ["RESAMPLERS", "AudioError", "AudioLimits", "AudioStream", "Segment", "SegmentStream", "StreamingResampler"]
__all__ += ["load_audio", "open_audio", "split_segments", "stream_segments"]


def split_segments(
    waveform: np.ndarray, segment_num_samples: int, *, pad_value: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """
    Cut a mono waveform into equal segments and pad the last one.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Mono audio at the model's sampling rate, float32.
        segment_num_samples (`int`): Length of a segment, in samples.
        pad_value (`float`, defaults to 0): What fills the rest of the last segment.

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
    """One segment of a song at the target rate."""

    samples: np.ndarray  # (segment_num_samples,), mono float32; zeros after the end of the song
    num_real_samples: int  # before the padding
    start_sample: int  # in the song
    is_last: bool


class SegmentStream:
    """
    Iterate over the segments of a song in bounded memory.

    [`stream_segments`] builds it. One segment is read ahead, to know which is the last. The source is closed when the
    iterator is exhausted or fails, by `close`, and on leaving a `with` block.

    `name`, `sampling_rate`, `num_channels` and `warnings` are those of the [`AudioStream`]; `num_real_samples` counts
    the samples at the target rate that were read so far.
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

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and close the source."""
        self._segments.close()
        self._stream.close()

    def _cut(self, blocks: Iterator[np.ndarray]) -> Generator[Segment, None, None]:
        length = self._segment_num_samples
        ahead: Segment | None = None
        samples, num_filled, start = np.empty(length, np.float32), 0, 0
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
                    samples, num_filled, start = np.empty(length, np.float32), 0, start + length
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
            samples[num_filled:] = 0
            ahead = Segment(samples, num_filled, start, is_last=False)
        if ahead is not None:
            ahead.is_last = True
            yield ahead


def _resample_blocks(stream: AudioStream, target_rate: int, resampler: str) -> Iterator[np.ndarray]:
    # Built here rather than on the first block, so that a wrong rate or method is refused before anything is read.
    state = StreamingResampler(stream.sampling_rate, target_rate, method=resampler)
    return itertools.chain(map(state.push, stream.blocks), (state.finish() for _ in range(1)))


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
        source: The song, as `open_audio` takes it.
        target_rate (`int`, defaults to 24000): The model's sampling rate, in hertz.
        segment_seconds (`float`, defaults to 30): Length of a segment, in seconds.
        sampling_rate (`int`, *optional*): Rate of an array, in hertz.
        resampler (`str`, defaults to `"sinc"`): `"sinc"` or `"soxr"`; see `StreamingResampler`.
        limits (`AudioLimits`, *optional*): What to refuse.
        minimum_num_samples (`int`, defaults to 1): Fewest samples at the target rate that can be scored.

    Returns:
        `SegmentStream`: An iterator of `Segment`.

    Raises:
        `AudioError`, `FileNotFoundError`, `IsADirectoryError`, `TypeError`, `ImportError`: As `open_audio`; while
            iterating, if the song breaks off before its first sample, holds NaN, or is too short.
        `ValueError`: If a segment would hold no sample, or the resampler is unknown.
    """
    segment_num_samples = round(segment_seconds * check_rate(target_rate, "`target_rate`"))
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

    Arguments and errors are those of [`stream_segments`].

    Returns:
        `np.ndarray` of shape `(num_samples,)`: Mono float32 audio at `target_rate`.
    """
    with open_audio(source, sampling_rate=sampling_rate, limits=limits) as stream:
        return np.concatenate(list(_resample_blocks(stream, target_rate, resampler)))
