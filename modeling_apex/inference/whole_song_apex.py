"""
Rooms 1 and 2 for a model that hears a song whole: decode and resample it as `librosa.load` does, within a limit.

What comes in is anything that `decoding_apex` opens; what leaves is one float32 mono waveform, with the mean over
channels taken before SoX's high-quality resampler, and neither cut nor normalised. A song that is too long is refused
as soon as that is known, so no more of it is held than the limit allows.
"""

from typing import Any, NamedTuple

import numpy as np

from .audio_limits_apex import AudioError, AudioLimits
from .decoding_apex import open_audio
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
    with open_audio(source, sampling_rate=sampling_rate, limits=limits) as stream:
        rate, num_native, pieces = stream.sampling_rate, 0, []
        resampler = StreamingResampler(rate, target_rate, method="soxr")
        for block in stream.blocks:
            num_native += len(block)
            if num_native > max_song_seconds * rate:
                raise AudioError(
                    f"{stream.name}: lasts more than {max_song_seconds:g} s, the longest song that this model scores; "
                    "it hears songs whole and cuts none. Cut the song yourself, or raise `max_song_seconds` in the "
                    "model's config, which costs memory and time."
                )
            pieces.append(resampler.push(block))
        pieces.append(resampler.finish())
    # In floating point, as librosa computes it: where the quotient is whole, that may round up to one sample more.
    samples = np.zeros(int(np.ceil(num_native * (float(target_rate) / rate))), np.float32)
    resampled = np.concatenate(pieces)[: len(samples)]
    samples[: len(resampled)] = resampled
    if len(samples) < minimum_num_samples:
        raise AudioError(
            f"{stream.name}: lasts {len(samples) / target_rate:.4f} s ({len(samples)} samples at {target_rate} Hz), "
            f"but at least {minimum_num_samples} samples are needed. Pass a longer song."
        )
    return WholeSong(stream.name, samples, stream.warnings)
