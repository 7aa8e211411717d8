"""
Configuration of the spectrogram-fusion model: front end, convolutional network, track features, threshold of a hit.

What comes in is a `config.json`; what leaves is a validated [`SpectrogramFusionConfig`]. It has the names
that feature extractor, pipeline and report read of any model here (`heads`, `sampling_rate`, `hidden_size`, ...).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from .configuration_fields_apex import TAILS, declare_field, set_fields
from .track_features_apex import FUSION_HEADS, encode_features, is_missing

BRANCHES = ("fused", "audio", "features")
SPECTROGRAMS = ("log-mel", "log-stft")
# A config is read before its weights: what no spectrogram network needs is refused before memory is asked for.
MAXIMUM_SIZE = 16_384


class SpectrogramFusionFields:
    """The fields of a spectrogram-fusion config; [`SpectrogramFusionConfig`] says what each one means."""

    branches: str = declare_field("fused", "choice", choices=BRANCHES)
    features: list[dict[str, Any]] = declare_field([], "features")
    hit_threshold: float = declare_field(50.0, "float", above=0.0)
    sampling_rate: int = declare_field(24_000, "int", minimum=1)
    segment_seconds: float = declare_field(10.0, "float", above=0.0)
    tail: str = declare_field("full", "choice", choices=TAILS)
    tail_seconds: float = declare_field(5.0, "float", minimum=0.0)
    spectrogram: str = declare_field("log-mel", "choice", choices=SPECTROGRAMS)
    fft_size: int = declare_field(1024, "int", minimum=2)
    hop_size: int = declare_field(480, "int", minimum=1)
    num_mel_bands: int = declare_field(64, "int", minimum=1, maximum=1024)
    minimum_hertz: float = declare_field(30.0, "float", minimum=0.0)
    maximum_hertz: Any = declare_field(None, "float", above=0.0, is_optional=True)
    power_floor: float = declare_field(1e-5, "float", above=0.0)
    channels: list[int] = declare_field([16, 32, 64, 96], "ints", minimum=1)
    hidden_size: int = declare_field(64, "int", minimum=1)
    feature_dims: list[int] = declare_field([64, 32], "ints", minimum=1)
    category_size: int = declare_field(6, "int", minimum=1)
    fusion_size: int = declare_field(64, "int", minimum=1)
    dropout: float = declare_field(0.2, "float", minimum=0.0, below=1.0)
    feature_dropout: float = declare_field(0.15, "float", minimum=0.0, below=1.0)
    popularity_exponent: float | None = declare_field(None, "float", above=0.0, is_optional=True)
    percentile_tables: dict[str, list[float]] = declare_field({}, "percentile tables")
    reference: dict[str, Any] = declare_field({}, "reference")
    provenance: dict[str, Any] = declare_field({}, "provenance")


class SpectrogramFusionConfig(SpectrogramFusionFields, PreTrainedConfig):
    """
    Describe a spectrogram-fusion model: a convolutional network on the spectrogram, fused late with track features.

    Args:
        branches (`str`, defaults to `"fused"`):
            `"fused"`: audio and features. `"audio"`: the spectrogram alone. `"features"`: the track features alone.
        features (`list[dict]`, *optional*):
            One entry per feature, in order of the input columns. Numeric: `name`, `kind` (`"numeric"`), `transform`
            (`"identity"` or `"log1p"`), `mean` and `std` of the transformed training values, `is_leaking`.
            Categorical: `name`, `kind` (`"categorical"`), `categories`, `is_leaking`. Defaults to none.
        hit_threshold (`float`, defaults to 50.0):
            The popularity from which a track is a hit, 0 to 100.
        sampling_rate (`int`, defaults to 24000):
            Sampling rate, in hertz.
        segment_seconds (`float`, defaults to 10.0):
            Length of a segment, in seconds.
        tail (`str`, defaults to `"full"`), tail_seconds (`float`, defaults to 5.0):
            What the padded last segment of a song counts, as in [`ApexFields`].
        spectrogram (`str`, defaults to `"log-mel"`):
            `"log-mel"`, or `"log-stft"` for the linear frequencies of the Fourier transform.
        fft_size (`int`, defaults to 1024):
            Length of a frame and of its Hann window, in samples.
        hop_size (`int`, defaults to 480):
            Step between frames, in samples.
        num_mel_bands (`int`, defaults to 64):
            Bands of the mel scale.
        minimum_hertz (`float`, defaults to 30.0):
            Lower edge of the first mel band, in hertz.
        maximum_hertz (`float`, *optional*):
            Upper edge of the last mel band, in hertz; defaults to half the sampling rate.
        power_floor (`float`, defaults to 1e-5):
            Added to the mean power of a band before the logarithm; segments have unit variance.
        channels (`list[int]`, defaults to `[16, 32, 64, 96]`):
            Channels of the stem and of each residual block; each halves time and frequency.
        hidden_size (`int`, defaults to 64):
            Width of the embedding of a segment; zeros in a model of the features alone.
        feature_dims (`list[int]`, defaults to `[64, 32]`):
            Widths of the layers of the feature branch.
        category_size (`int`, defaults to 6):
            Width of the embedding of a category.
        fusion_size (`int`, defaults to 64):
            Width of the layer that joins the branches.
        dropout (`float`, defaults to 0.2):
            Dropout probability before the heads and in the feature branch.
        feature_dropout (`float`, defaults to 0.15):
            Probability, in training, that a song of a fused model comes without any of its features, so that an
            audio-only score means something.
        popularity_exponent (`float`, *optional*):
            Exponent of the power transform between percentile and popularity, where popularity is such a score (see
            [`ApexConfig`]). By default it is none, and reports state no percentile.
        percentile_tables (`dict[str, list[float]]`, *optional*):
            Per score, 101 quantiles of the model's scores on its training songs.
        provenance (`dict`, *optional*):
            Where the weights come from. Shown, never computed with.

    Raises:
        `TypeError`: If a field has the wrong type.
        `ValueError`: If a field has a value that no model can have, or an unknown field is a near miss of one above.
    """

    model_type = "spectrogram-fusion"

    def __init__(self, /, **fields: Any):
        others = set_fields(self, fields)
        if self.maximum_hertz is None:
            self.maximum_hertz = self.sampling_rate / 2
        self._validate_together()
        super().__init__(**others)

    @property
    def heads(self) -> list[dict[str, Any]]:
        """The scores, as in [`ApexConfig`]; here they follow from the model type."""
        heads = [dict(head) for head in FUSION_HEADS]
        if self.popularity_exponent is not None:
            heads[0]["scale"] = "percentile"
        return heads

    @property
    def head_names(self) -> list[str]:
        """Names of the scores, in the order of the output columns."""
        return [head["name"] for head in FUSION_HEADS]

    @property
    def has_audio(self) -> bool:
        """Whether the model hears the song."""
        return self.branches != "features"

    @property
    def feature_names(self) -> list[str]:
        """Names of the track features, in the order of the input columns; none in an audio-only model."""
        return [feature["name"] for feature in self.features]

    @property
    def leaking_names(self) -> list[str]:
        """Names of the features that are computed from a track's success."""
        return [feature["name"] for feature in self.features if feature["is_leaking"]]

    @property
    def segment_num_samples(self) -> int:
        """Length of a segment in samples; derived, never stored."""
        return round(self.segment_seconds * self.sampling_rate)

    @property
    def minimum_num_samples(self) -> int:
        """Samples of one frame of the spectrogram, the shortest song."""
        return self.fft_size

    @property
    def num_bands(self) -> int:
        """Rows of the spectrogram."""
        return self.num_mel_bands if self.spectrogram == "log-mel" else self.fft_size // 2 + 1

    def encode_features(self, values: Mapping[str, Any]) -> list[float]:
        """
        Turn the named features of one song into a row for the model's `features`; see `track_features_apex`.

        Raises:
            `TypeError`: If the values are not a mapping, or one of them has the wrong kind.
            `ValueError`: If a name is unknown, or a number is outside the range of its unit.
        """
        return encode_features(values, self.features)

    def describe_features(self, row: Sequence[float]) -> tuple[dict[str, list[str]], list[str]]:
        """
        Say which track features a song came with.

        Args:
            row (`list[float]` of length `num_features`): What `encode_features` returned; NaN is a missing value.

        Returns:
            `tuple[dict[str, list[str]], list[str]]`: names under `given`, `missing`, and `leaking` (those given that
            leak the target), and the warning that a song without any needs: what its scores are made of then.
        """
        given = [name for name, value in zip(self.feature_names, row, strict=True) if not is_missing(value)]
        described = {
            "given": given,
            "missing": [name for name in self.feature_names if name not in given],
            "leaking": [name for name in self.leaking_names if name in given],
        }
        if given:
            return described, []
        if self.has_audio:
            return described, ["scored from the audio alone: no track features were given"]
        notice = "no track features were given, and this model hears no audio: its scores say nothing about the song"
        return described, [notice]

    def _validate_together(self) -> None:
        if self.branches == "audio" and self.features:
            raise ValueError(
                "`features` must be empty where `branches` is 'audio': such a model takes none. Leave them out, or "
                "set `branches` to 'fused'."
            )
        if self.branches == "features" and not self.features:
            raise ValueError("`features` is empty, but `branches` is 'features': the model would have no input.")
        if self.maximum_hertz <= self.minimum_hertz:
            raise ValueError(f"`maximum_hertz` must be above {self.minimum_hertz}, got {self.maximum_hertz}.")
        if not self.hit_threshold <= 100:
            raise ValueError(f"`hit_threshold` is a popularity, at most 100, got {self.hit_threshold}.")
        if self.maximum_hertz > self.sampling_rate / 2:
            raise ValueError(
                f"`maximum_hertz` {self.maximum_hertz:g} is above half the sampling rate, {self.sampling_rate / 2:g}."
            )
        if self.hop_size > self.fft_size:
            raise ValueError(f"`hop_size` {self.hop_size} is above `fft_size` {self.fft_size}: samples would be lost.")
        if self.segment_num_samples < self.fft_size:
            raise ValueError(
                f"`segment_seconds` {self.segment_seconds:g} is {self.segment_num_samples} samples, fewer than the "
                f"{self.fft_size} of one frame (`fft_size`)."
            )
        sizes = {
            "fft_size": self.fft_size,
            "num_mel_bands": self.num_mel_bands,
            "hidden_size": self.hidden_size,
            "category_size": self.category_size,
            "fusion_size": self.fusion_size,
            "channels": max(self.channels),
            "feature_dims": max(self.feature_dims),
        }
        for name, size in sizes.items():
            if size > MAXIMUM_SIZE:
                raise ValueError(f"`{name}` {size:,} is too large; at most {MAXIMUM_SIZE:,} is allowed.")
