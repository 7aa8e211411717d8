"""
What an APEX config says: each field once, with its default and what it may be, without transformers.

What comes in are the values of a `config.json` and a description of the encoder; what leaves is an object that holds
them. `ApexConfig` adds what transformers needs of a config. Apart from it, a program that only scores is spared the
seconds that transformers takes to import. The installed package refuses what no model can have; who runs code from a
checkpoint's folder trusts the config beside it as well.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .heads_apex import DEFAULT_HEADS, POPULARITY_EXPONENT

PREDICTION_LEVELS = ("song", "segment")
TAILS = ("full", "weighted", "drop")
CODE_POINTERS = ("auto_map", "custom_pipelines")  # what names code to run beside, or instead of, our own

# In the installed package: what checks the values of a class of configs, and refuses names that are nearly a field's.
check_fields: Callable[[type, dict[str, Any]], dict[str, Any]] | None = None


@dataclass(frozen=True)
class ConfigField:
    """One field of a config: what it is where nothing is said, its kind, and the bounds of what may be said."""

    default: Any
    kind: str
    bounds: Mapping[str, Any]


def declare_field(default: Any, kind: str = "anything", **bounds: Any) -> Any:
    """Declare a field in a class of configs, whose objects then have the value under the field's name."""
    return ConfigField(default, kind, bounds)


def list_fields(config_class: type) -> dict[str, ConfigField]:
    """Return the fields that a class of configs declares: all that its config.json says under our own names."""
    declared: dict[str, ConfigField] = {}
    for base in reversed(config_class.__mro__):
        declared |= {name: value for name, value in vars(base).items() if isinstance(value, ConfigField)}
    return declared


def set_fields(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Set every field of a config, to its default where `values` has none; return the values that are no fields."""
    declared = list_fields(type(config))
    values = {**{name: copy.deepcopy(field.default) for name, field in declared.items()}, **values}
    if check_fields is not None:
        values = check_fields(type(config), values)
    for name in declared:
        setattr(config, name, values.pop(name))
    if not __name__.startswith("transformers_modules"):
        # This is the installed package, not code from a checkpoint's folder: its own classes serve, so the pointers
        # to code in that folder must neither ask the user for trust nor be saved again.
        values = {name: value for name, value in values.items() if name not in CODE_POINTERS}
    return values


class ApexFields:
    """The fields of an APEX config, what they mean, and what follows from them."""

    # In the installed package: what checks that the encoder is one that can be, and that the other fields fit it.
    validate_encoder: ClassVar[Callable[[Any], None] | None] = None
    max_num_numbers: ClassVar[int] = 2_000_000_000
    """Most numbers (parameters and statistics) of a model: six times the largest published one."""

    # The frozen encoder, a `HubertConfig` or a dict; by default of the shape of MERT-v1-95M.
    encoder_config: Any = declare_field(None)
    # One entry per score, in the order of the output columns: `name`, `minimum`, `maximum`, `group` ("popularity",
    # "aesthetics", "hit" or "personal") and `scale` ("percentile", "rating" or "probability"; by default by group).
    heads: list[dict[str, Any]] = declare_field(list(DEFAULT_HEADS), "heads")
    # Which entries of the encoder's hidden states are mixed. Entry 0 is the input of the first layer, so the default
    # names layers 2, 5, 8 and 12 (the paper says 3, 6, 9, 12; the published weights need these).
    layer_indices: list[int] = declare_field([2, 5, 8, -1], "ints")
    sampling_rate: int = declare_field(24_000, "int", minimum=1)  # of the encoder, in hertz
    segment_seconds: float = declare_field(30.0, "float", above=0.0)
    # Widths of the trunk that all heads share and of each head's own branch, and their dropout probabilities.
    shared_dims: list[int] = declare_field([512, 256], "ints", minimum=1, maximum=65_536)
    branch_dims: list[int] = declare_field([128, 64], "ints", minimum=1, maximum=65_536)
    dropout_shared: float = declare_field(0.3, "float", minimum=0.0, below=1.0)
    dropout_branch: float = declare_field(0.1, "float", minimum=0.0, below=1.0)
    # "song": segment embeddings are averaged, then scored; "segment": the other way round (the paper's two modes).
    prediction_level: str = declare_field("song", "choice", choices=PREDICTION_LEVELS)
    # What the padded last segment counts in a song's mean: as much as any other (published), by its real seconds, or
    # nothing where it has fewer seconds than stated, unless the song has no other.
    tail: str = declare_field("full", "choice", choices=TAILS)
    tail_seconds: float = declare_field(5.0, "float", minimum=0.0)
    freeze_encoder: bool = declare_field(True, "bool")  # whether the encoder is kept out of training
    popularity_exponent: float = declare_field(POPULARITY_EXPONENT, "float", above=0.0)  # of percentile to score
    # Per score, the 101 quantiles (0 to 100 percent) of the model's own scores on its training songs.
    percentile_tables: dict[str, list[float]] = declare_field({}, "percentile tables")
    # What `apex-music calibrate` and training know of named songs: quantiles, widths of intervals, what is novel.
    reference: dict[str, Any] = declare_field({}, "reference")
    provenance: dict[str, Any] = declare_field({}, "provenance")  # where the weights come from; never computed with
    # Only in the published layout, which stores no encoder: where it is read from, and its width.
    mert_model_name: str | None = declare_field(None, "text", is_optional=True)
    input_dim: int | None = declare_field(None, "int", is_optional=True)

    @property
    def segment_num_samples(self) -> int:
        """Length of a segment in samples; derived, never stored."""
        return round(self.segment_seconds * self.sampling_rate)

    @property
    def head_names(self) -> list[str]:
        """Names of the scores, in the order of the output columns."""
        return [head["name"] for head in self.heads]

    @property
    def hidden_size(self) -> int:
        """Width of the encoder and of every embedding."""
        return int(self.encoder_config.hidden_size)

    @property
    def minimum_num_samples(self) -> int:
        """Samples that one frame of the encoder sees; a song shorter than this says nothing that it can hear."""
        num_samples = 1
        kernels_and_strides = zip(self.encoder_config.conv_kernel, self.encoder_config.conv_stride, strict=True)
        for kernel, stride in reversed(list(kernels_and_strides)):
            num_samples = (num_samples - 1) * stride + kernel
        return num_samples
