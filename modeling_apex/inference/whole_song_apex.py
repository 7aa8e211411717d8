"""
Rooms 1 and 2 for a model that hears a song whole: decode and resample it as `librosa.load` does, within a limit.

What comes in is anything that `decoding_apex` opens; what leaves is one float32 mono waveform, with the mean over
channels taken before SoX's high-quality resampler, and neither cut nor normalised. A song that is too long is refused
as soon as that is known, so no more of it is held than the limit allows.
"""

from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np

from .audio_apex import Segment, SegmentStream
from .audio_limits_apex import AudioError, AudioLimits
from .decoding_apex import AudioStream, open_audio
from .resampling_apex import StreamingResampler


class WholeSong(NamedTuple):
    """
    A song as a model hears it that hears all of it.

    Args:
        name (`str`):
            How messages call the song.
        samples (`np.ndarray` of shape `(num_samples,)`):
            Mono float32 audio at the model's sampling rate.
        warnings (`list[str]`):
            What was odd about the song.
    """

    name: str
    samples: np.ndarray
    warnings: list[str]


def load_whole_song(
    source: Any,
    *,
    target_rate: int = 24_000,
    max_song_seconds: float = 1200.0,
    minimum_num_samples: int = 1,
    sampling_rate: int | None = None,
    limits: AudioLimits | None = None,
) -> WholeSong:
    """
    Decode, mix and resample a whole song.

    Args:
        source:
            The song, as `open_audio` takes it.
        target_rate (`int`, defaults to 24000):
            The model's sampling rate, in hertz.
        max_song_seconds (`float`, defaults to 1200):
            Longest song, in seconds; `config.max_song_seconds`.
        minimum_num_samples (`int`, defaults to 1):
            Fewest samples at the target rate that can be scored; `config.minimum_num_samples`.
        sampling_rate (`int`, *optional*):
            Rate of an array, in hertz.
        limits (`AudioLimits`, *optional*):
            What else to refuse.

    Returns:
        [`WholeSong`]: The samples are those of `librosa.load(path, sr=target_rate)`, to the bit and to the length:
        `ceil(num_native_samples * target_rate / native_rate)`, zeros where the resampler ends before.

    Raises:
        `AudioError`: As `open_audio`, or if the song is longer or shorter than allowed.
        `FileNotFoundError`, `IsADirectoryError`, `TypeError`, `ImportError`: As `open_audio`.
    """
    with open_whole_song(
        source,
        target_rate=target_rate,
        max_song_seconds=max_song_seconds,
        minimum_num_samples=minimum_num_samples,
        sampling_rate=sampling_rate,
        limits=limits,
    ) as stream:
        (segment,) = stream
    return WholeSong(stream.name, segment.samples, stream.warnings)


def open_whole_song(
    source: Any,
    *,
    target_rate: int,
    max_song_seconds: float,
    minimum_num_samples: int,
    sampling_rate: int | None = None,
    limits: AudioLimits | None = None,
) -> "WholeSongStream":
    """Open a song that is one segment; arguments and errors, the latter while iterating, as [`load_whole_song`]."""
    stream = open_audio(source, sampling_rate=sampling_rate, limits=limits)
    return WholeSongStream(
        stream, target_rate=target_rate, max_song_seconds=max_song_seconds, minimum_num_samples=minimum_num_samples
    )


class WholeSongStream(SegmentStream):
    """Iterate over the one segment of a song that is heard whole; [`open_whole_song`] builds it."""

    def __init__(
        self, stream: AudioStream, *, target_rate: int, max_song_seconds: float, minimum_num_samples: int
    ) -> None:
        self._max_song_seconds = max_song_seconds
        lengths = {"segment_num_samples": 0, "minimum_num_samples": minimum_num_samples}
        super().__init__(stream, stream.blocks, target_rate=target_rate, **lengths)

    def _cut(self, blocks: Iterator[np.ndarray]) -> Generator[Segment, None, None]:
        rate, num_native, pieces = self.sampling_rate, 0, []
        resampler = StreamingResampler(rate, self._target_rate, method="soxr")
        for block in blocks:
            num_native += len(block)
            if num_native > self._max_song_seconds * rate:
                raise AudioError(
                    f"{self.name}: lasts more than {self._max_song_seconds:g} s, the longest song that this model "
                    "scores; it scores whole songs and does not cut them. Cut the song yourself, or raise "
                    "`max_song_seconds` in the model's config, which costs memory and time."
                )
            pieces.append(resampler.push(block))
        pieces.append(resampler.finish())
        # In floating point, as librosa computes it: where the quotient is whole, that may round up to a sample more.
        length = int(np.ceil(num_native * (float(self._target_rate) / rate)))
        pieces.append(np.zeros(max(0, length - sum(map(len, pieces))), np.float32))
        samples = np.concatenate(pieces)[:length]
        del pieces  # twice the song is enough to hold
        self.num_real_samples = length
        if length < self._minimum_num_samples:
            raise AudioError(
                f"{self.name}: lasts {length / self._target_rate:.4f} s ({length} samples at {self._target_rate} "
                f"Hz), but at least {self._minimum_num_samples} samples are needed. Pass a longer song."
            )
        yield Segment(samples, length, 0, is_last=True)
