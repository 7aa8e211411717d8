"""
Room 4: from waveforms to the encoder's input.

What comes in is mono audio at the model's sampling rate; what leaves is `input_values` `(B, S, T)`, equal segments
that are zero-padded first and then normalised to zero mean and unit variance (the published order), and
`segment_mask` `(B, S)`, true for the segments that exist; and
`num_real_samples` `(B, S)`, what of each was there before the padding.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature, FeatureExtractionMixin

from .audio_apex import load_audio, split_segments
from .audio_limits_apex import MAX_SEGMENT_SAMPLES, AudioError
from .normalization_apex import normalize_segments

__all__ = ["ApexFeatureExtractor", "normalize_segments"]


class ApexFeatureExtractor(FeatureExtractionMixin):
    """
    Cut songs into segments and normalise them.

    Args:
        sampling_rate (`int`, defaults to 24000): Sampling rate that the model expects, in hertz.
        segment_seconds (`float`, defaults to 30.0): Length of a segment, in seconds.
        minimum_num_samples (`int`, defaults to 400): Shortest song, in samples: what one frame of the encoder sees.

    Raises:
        `ValueError`: If one of them is not a positive number, or a segment would be too long to hold.
    """

    model_input_names = ["input_values", "segment_mask", "num_real_samples"]  # noqa: RUF012

    def __init__(
        self, sampling_rate: int = 24_000, segment_seconds: float = 30.0, minimum_num_samples: int = 400, **kwargs: Any
    ):
        if not __name__.startswith("transformers_modules"):  # as in the config: the installed class serves
            own = {"auto_map", "custom_pipelines", *dir(type(self))}  # no value stands in the place of a method
            kwargs = {name: value for name, value in kwargs.items() if name not in own}
        super().__init__(**kwargs)
        for name, value in (("sampling_rate", sampling_rate), ("minimum_num_samples", minimum_num_samples)):
            if type(value) is not int or not 0 < value < 2**53:
                unit = " of hertz" if name == "sampling_rate" else ""
                raise ValueError(f"`{name}` must be a positive whole number{unit}, got {value!r:.40}.")
        if type(segment_seconds) not in (int, float) or not 0 < segment_seconds < 2**53:
            raise ValueError(f"`segment_seconds` must be a positive number of seconds, got {segment_seconds!r:.40}.")
        if segment_seconds * sampling_rate > MAX_SEGMENT_SAMPLES:
            raise ValueError(
                f"`segment_seconds` {segment_seconds} at `sampling_rate` {sampling_rate} is "
                f"{segment_seconds * sampling_rate:,.0f} samples, above the limit of {MAX_SEGMENT_SAMPLES:,}."
            )
        self.sampling_rate = sampling_rate
        self.segment_seconds = segment_seconds
        self.minimum_num_samples = minimum_num_samples

    @classmethod
    def from_config(cls, config: Any) -> "ApexFeatureExtractor":
        """Build the feature extractor that belongs to an [`ApexConfig`]."""
        return cls(config.sampling_rate, config.segment_seconds, config.minimum_num_samples)

    @property
    def segment_num_samples(self) -> int:
        """Length of a segment in samples; derived, never stored."""
        return round(self.segment_seconds * self.sampling_rate)

    def __call__(
        self, raw_audio: Any, sampling_rate: int | None = None, return_tensors: str | None = None
    ) -> BatchFeature:
        """
        Turn one or more waveforms into model inputs.

        Args:
            raw_audio (`np.ndarray`, `torch.Tensor`, or a list of them):
                Each of shape `(num_samples,)` or `(num_channels, num_samples)`, floating point in [-1, 1].
            sampling_rate (`int`): Sampling rate of `raw_audio` in hertz; must be the model's.
            return_tensors (`str`, *optional*): `"pt"` for torch tensors, `"np"` for numpy arrays.

        Returns:
            [`BatchFeature`]: `input_values` of shape `(batch_size, num_segments, segment_num_samples)`, float32, and
            `segment_mask` and `num_real_samples` (int64) of shape `(batch_size, num_segments)`. Songs with fewer
            segments are filled with zeros.

        Raises:
            `ValueError`, `TypeError`: If the sampling rate is missing or another, or a waveform cannot be scored.
        """
        if sampling_rate is None:
            raise ValueError(
                f"`sampling_rate` is missing: pass the rate of the audio in hertz (this extractor needs "
                f"{self.sampling_rate})."
            )
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`sampling_rate` is {sampling_rate} but this extractor needs {self.sampling_rate}. Resample first, "
                "or pass a file path to the pipeline and let it resample."
            )
        waveforms = map(self._load_waveform, _list_songs(raw_audio))
        songs = [split_segments(waveform, self.segment_num_samples) for waveform in waveforms]
        num_segments = max(len(segments) for segments, _ in songs)
        input_values = np.zeros((len(songs), num_segments, self.segment_num_samples), np.float32)  # (B, S, T)
        segment_mask = np.zeros((len(songs), num_segments), bool)  # (B, S)
        num_real_samples = np.zeros((len(songs), num_segments), np.int64)  # (B, S)
        for row, (segments, lengths) in enumerate(songs):
            input_values[row, : len(segments)] = normalize_segments(segments)
            segment_mask[row, : len(segments)], num_real_samples[row, : len(segments)] = True, lengths
        arrays = (input_values, segment_mask, num_real_samples)
        return BatchFeature(dict(zip(self.model_input_names, arrays, strict=True)), tensor_type=return_tensors)

    def _load_waveform(self, song: Any) -> np.ndarray:
        waveform = load_audio(song, target_rate=self.sampling_rate, sampling_rate=self.sampling_rate)
        if len(waveform) < self.minimum_num_samples:
            raise AudioError(
                f"the song has {len(waveform)} samples ({len(waveform) / self.sampling_rate:.4f} s) at "
                f"{self.sampling_rate} Hz; one frame of the encoder needs at least {self.minimum_num_samples}."
            )
        return waveform


def _list_songs(raw_audio: Any) -> list[Any]:
    """Return the songs of a call: a list or tuple of waveforms is many, a waveform (also as numbers) is one."""
    if isinstance(raw_audio, (str, bytes, Mapping)):
        raise TypeError(
            f"the feature extractor takes waveforms, got {type(raw_audio).__name__}. For files, bytes, URLs and "
            'dataset values use `pipeline("apex-popularity")` or `modeling_apex.load_audio`.'
        )
    if isinstance(raw_audio, Sequence):
        if not raw_audio:
            raise ValueError("no audio: the list of waveforms is empty.")
        if isinstance(raw_audio[0], (int, float)):
            return [np.asarray(raw_audio)]
        return [np.asarray(song) if isinstance(song, Sequence) else song for song in raw_audio]
    return [raw_audio]
