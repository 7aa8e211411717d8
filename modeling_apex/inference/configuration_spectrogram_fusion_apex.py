"""
Configuration of the spectrogram-fusion model: front end, convolutional network, track features, threshold of a hit.

What comes in is a `config.json`; what leaves is a validated [`SpectrogramFusionConfig`]. It has the names
that feature extractor, pipeline and report read of any model here (`heads`, `sampling_rate`, `hidden_size`, ...).
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

# As remote code, an entry file must name all that it needs, at any depth: early 5.x releases copy no more than that.
from .checkpoint_limits_apex import MAX_WIDTH  # noqa: F401
from .configuration_fields_apex import (
    _validate_choice,
    _validate_float,
    _validate_int,
    _validate_ints,
    _validate_percentile_tables,
)
from .heads_apex import FUSION_HEADS
from .track_features_apex import FEATURE_KINDS, TRANSFORMS, encode_features

BRANCHES = ("fused", "audio", "features")
SPECTROGRAMS = ("log-mel", "log-stft")
FEATURE_FIELDS = {
    "numeric": {"name", "kind", "transform", "is_leaking", "mean", "std"},
    "categorical": {"name", "kind", "is_leaking", "categories"},
}
# A config is read before its weights: what no spectrogram network needs is refused before memory is asked for.
MAXIMUM_SIZE = 16_384
MAXIMUM_NUM_CATEGORIES = 100_000


class SpectrogramFusionConfig(PreTrainedConfig):
    """
    Describe a spectrogram-fusion model: a convolutional network on the spectrogram, fused late with track features.

    Args:
        branches (`str`, defaults to `"fused"`):
            `"fused"`: audio and features. `"audio"`: the spectrogram alone. `"features"`: the track features alone.
        features (`list[dict]`, *optional*):
            One entry a feature, in the order of the input columns. Numeric: `name`, `kind` (`"numeric"`), `transform`
            (`"identity"` or `"log1p"`), `mean` and `std` of the transformed training values, `is_leaking`.
            Categorical: `name`, `kind` (`"categorical"`), `categories`, `is_leaking`. Defaults to none.
        hit_threshold (`float`, defaults to 50.0):
            The popularity from which a track is a hit, 0 to 100.
        sampling_rate (`int`, defaults to 24000):
            Sampling rate, in hertz.
        segment_seconds (`float`, defaults to 10.0):
            Length of a segment, in seconds.
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

    def __init__(
        self,
        branches: str = "fused",
        features: Sequence[Mapping[str, Any]] | None = None,
        hit_threshold: float = 50.0,
        sampling_rate: int = 24_000,
        segment_seconds: float = 10.0,
        spectrogram: str = "log-mel",
        fft_size: int = 1024,
        hop_size: int = 480,
        num_mel_bands: int = 64,
        minimum_hertz: float = 30.0,
        maximum_hertz: float | None = None,
        power_floor: float = 1e-5,
        channels: Sequence[int] = (16, 32, 64, 96),
        hidden_size: int = 64,
        feature_dims: Sequence[int] = (64, 32),
        category_size: int = 6,
        fusion_size: int = 64,
        dropout: float = 0.2,
        feature_dropout: float = 0.15,
        popularity_exponent: float | None = None,
        percentile_tables: Mapping[str, Sequence[float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        if not __name__.startswith("transformers_modules"):
            # The installed classes serve, so pointers to code in a folder must neither ask for trust nor be saved.
            kwargs.pop("auto_map", None)
            kwargs.pop("custom_pipelines", None)
        _refuse_near_misses(kwargs)

        self.branches = _validate_choice("branches", branches, BRANCHES)
        self.features = _validate_features(features or ())
        self.hit_threshold = _validate_float("hit_threshold", hit_threshold, minimum=0.0, exclusive=True)
        self.sampling_rate = _validate_int("sampling_rate", sampling_rate, minimum=1)
        self.segment_seconds = _validate_float("segment_seconds", segment_seconds, minimum=0.0, exclusive=True)
        self.spectrogram = _validate_choice("spectrogram", spectrogram, SPECTROGRAMS)
        self.fft_size = _validate_int("fft_size", fft_size, minimum=2)
        self.hop_size = _validate_int("hop_size", hop_size, minimum=1)
        self.num_mel_bands = _validate_int("num_mel_bands", num_mel_bands, minimum=1)
        self.minimum_hertz = _validate_float("minimum_hertz", minimum_hertz, minimum=0.0)
        highest = sampling_rate / 2 if maximum_hertz is None else maximum_hertz
        self.maximum_hertz = _validate_float("maximum_hertz", highest, minimum=self.minimum_hertz, exclusive=True)
        self.power_floor = _validate_float("power_floor", power_floor, minimum=0.0, exclusive=True)
        self.channels = _validate_ints("channels", channels, minimum=1)
        self.hidden_size = _validate_int("hidden_size", hidden_size, minimum=1)
        self.feature_dims = _validate_ints("feature_dims", feature_dims, minimum=1)
        self.category_size = _validate_int("category_size", category_size, minimum=1)
        self.fusion_size = _validate_int("fusion_size", fusion_size, minimum=1)
        self.dropout = _validate_float("dropout", dropout, minimum=0.0, maximum=1.0)
        self.feature_dropout = _validate_float("feature_dropout", feature_dropout, minimum=0.0, maximum=1.0)
        self.popularity_exponent = (
            None
            if popularity_exponent is None
            else _validate_float("popularity_exponent", popularity_exponent, minimum=0.0, exclusive=True)
        )
        self.percentile_tables = _validate_percentile_tables(percentile_tables or {}, self.head_names)
        self.provenance = dict(provenance or {})
        self._validate_together()
        super().__init__(**kwargs)

    @property
    def heads(self) -> list[dict[str, Any]]:
        """The scores, as in [`ApexConfig`]; here they follow from the model type."""
        return [dict(head) for head in FUSION_HEADS]

    @property
    def head_names(self) -> list[str]:
        """Names of the scores, in the order of the output columns."""
        return [head["name"] for head in FUSION_HEADS]

    @property
    def has_audio(self) -> bool:
        """Whether the model hears the song."""
        return self.branches != "features"

    @property
    def has_features(self) -> bool:
        """Whether the model takes track features."""
        return self.branches != "audio"

    @property
    def feature_names(self) -> list[str]:
        """Names of the track features, in the order of the input columns; none in an audio-only model."""
        return [feature["name"] for feature in self.features]

    @property
    def leaking_names(self) -> list[str]:
        """Names of the features that are computed from how a track did."""
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
            `TypeError`: If the values are no mapping, or one of them has the wrong kind.
            `ValueError`: If a name is unknown, or a number is outside the range of its unit.
        """
        return encode_features(values, self.features)

    def _validate_together(self) -> None:
        if self.branches == "audio" and self.features:
            raise ValueError(
                "`features` must be empty where `branches` is 'audio': such a model takes none. Leave them out, or "
                "set `branches` to 'fused'."
            )
        if self.branches == "features" and not self.features:
            raise ValueError("`features` is empty, but `branches` is 'features': the model would have no input.")
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
                raise ValueError(f"`{name}` {size:,} is absurd; at most {MAXIMUM_SIZE:,} is allowed.")


def _validate_features(features: Any) -> list[dict[str, Any]]:
    if isinstance(features, (str, Mapping)) or not isinstance(features, Sequence):
        raise TypeError(
            "`features` must be a list of dicts (a list, because its order is the order of the input columns), got "
            f"{type(features).__name__}."
        )
    validated = [_validate_feature(position, feature) for position, feature in enumerate(features)]
    names = [feature["name"] for feature in validated]
    if len(set(names)) != len(names):
        raise ValueError(f"`features` names a feature twice: {names}.")
    return validated


def _validate_feature(position: int, feature: Any) -> dict[str, Any]:
    place = f"features[{position}]"
    if not isinstance(feature, Mapping):
        raise TypeError(f"`{place}` must be a dict, got {feature!r}.")
    kind = _validate_choice(f"{place}.kind", feature.get("kind"), FEATURE_KINDS)
    if set(feature) != FEATURE_FIELDS[kind]:
        fields = ", ".join(sorted(FEATURE_FIELDS[kind]))
        raise ValueError(f"`{place}` is {kind} and must have exactly {fields}, got {', '.join(map(str, feature))}.")
    if not isinstance(feature["name"], str) or not feature["name"].isidentifier():
        raise ValueError(f"`{place}.name` must be a plain identifier, got {feature['name']!r}.")
    if not isinstance(feature["is_leaking"], bool):
        raise TypeError(f"`{place}.is_leaking` must be true or false, got {feature['is_leaking']!r}.")
    described = {"name": feature["name"], "kind": kind, "is_leaking": feature["is_leaking"]}
    if kind == "numeric":
        return {
            **described,
            "transform": _validate_choice(f"{place}.transform", feature["transform"], TRANSFORMS),
            "mean": _validate_float(f"{place}.mean", feature["mean"]),
            "std": _validate_float(f"{place}.std", feature["std"], minimum=0.0, exclusive=True),
        }
    categories = feature["categories"]
    if isinstance(categories, str) or not isinstance(categories, Sequence) or not categories:
        raise TypeError(f"`{place}.categories` must be a list with at least one text, got {categories!r}.")
    if len(categories) > MAXIMUM_NUM_CATEGORIES:
        raise ValueError(f"`{place}.categories` has {len(categories):,}; at most {MAXIMUM_NUM_CATEGORIES:,} can be.")
    if len(set(map(str, categories))) != len(categories) or not all(isinstance(name, str) for name in categories):
        raise ValueError(f"`{place}.categories` must be different texts, got {categories!r}.")
    return {**described, "categories": list(categories)}


# What may stand in a config.json under our own names; everything else belongs to transformers.
OWN_FIELDS = (
    *("branches", "features", "hit_threshold", "sampling_rate", "segment_seconds", "spectrogram", "fft_size"),
    *("hop_size", "num_mel_bands", "minimum_hertz", "maximum_hertz", "power_floor", "channels", "hidden_size"),
    *("feature_dims", "category_size", "fusion_size", "dropout", "feature_dropout", "popularity_exponent"),
    *("percentile_tables", "provenance"),
)


def _refuse_near_misses(fields: Mapping[str, Any]) -> None:
    """Plain configs keep any unknown field, so a typo would silently leave the default in force."""
    for name in fields:
        close = difflib.get_close_matches(name, OWN_FIELDS, n=1, cutoff=0.8)
        if close:
            raise ValueError(f"unknown config field `{name}`; did you mean `{close[0]}`?")
