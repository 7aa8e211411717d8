"""
What an APEX config says, and what it may say: the checked fields of `ApexConfig`, without transformers.

What comes in are the values of a `config.json` and a description of the encoder; what leaves is an object that holds
them, refused where no model can have such a value. `ApexConfig` adds what transformers needs of a config. Apart from
it, a program that only scores is spared the seconds that transformers takes to import.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .checkpoint_limits_apex import (
    MAX_HEADS,
    MAX_NUM_NUMBERS,
    MAX_WIDTH,
    MAX_WIDTHS,
    check_encoder_fields,
    check_model_size,
)
from .heads_apex import HEAD_GROUPS

PREDICTION_LEVELS = ("song", "segment")
NUM_QUANTILES = 101  # 0, 1, ... 100 percent


class ApexFields:
    """The fields of an APEX config and what follows from them; [`ApexConfig`] says what each one means."""

    encoder_config: Any
    max_num_numbers: ClassVar[int] = MAX_NUM_NUMBERS
    """Most numbers of a model. A config that asks for more is refused before anything is allocated."""

    def set_fields(
        self,
        *,
        encoder_config: Any,
        heads: Sequence[Mapping[str, Any]],
        layer_indices: Sequence[int],
        sampling_rate: int,
        segment_seconds: float,
        shared_dims: Sequence[int],
        branch_dims: Sequence[int],
        dropout_shared: float,
        dropout_branch: float,
        prediction_level: str,
        freeze_encoder: bool,
        popularity_exponent: float,
        percentile_tables: Mapping[str, Sequence[float]] | None,
        provenance: Mapping[str, Any] | None,
        mert_model_name: str | None,
        input_dim: int | None,
    ) -> None:
        """
        Check the fields and keep them.

        Args:
            encoder_config (`HubertConfig` or any object with its attributes):
                The encoder. The others are those of [`ApexConfig`], each under its own name.

        Raises:
            `TypeError`: If a field has the wrong type.
            `ValueError`: If a field has a value that no model can have.
        """
        self.encoder_config = encoder_config
        self.heads = _validate_heads(heads)
        self.layer_indices = _validate_ints("layer_indices", layer_indices, minimum=None)
        self.sampling_rate = _validate_int("sampling_rate", sampling_rate, minimum=1)
        self.segment_seconds = _validate_float("segment_seconds", segment_seconds, minimum=0.0, exclusive=True)
        self.shared_dims = _validate_ints("shared_dims", shared_dims, minimum=1, maximum=MAX_WIDTH)
        self.branch_dims = _validate_ints("branch_dims", branch_dims, minimum=1, maximum=MAX_WIDTH)
        self.dropout_shared = _validate_float("dropout_shared", dropout_shared, minimum=0.0, maximum=1.0)
        self.dropout_branch = _validate_float("dropout_branch", dropout_branch, minimum=0.0, maximum=1.0)
        self.prediction_level = _validate_choice("prediction_level", prediction_level, PREDICTION_LEVELS)
        if not isinstance(freeze_encoder, bool):
            raise TypeError(f"`freeze_encoder` must be true or false, got {freeze_encoder!r}.")
        self.freeze_encoder = freeze_encoder
        self.popularity_exponent = _validate_float(
            "popularity_exponent", popularity_exponent, minimum=0.0, exclusive=True
        )
        self.percentile_tables = _validate_percentile_tables(percentile_tables or {}, self.head_names)
        self.provenance = dict(provenance or {})
        self.mert_model_name = mert_model_name
        self.input_dim = input_dim

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

    def validate_encoder(self) -> None:
        """
        Check that the other fields fit the encoder.

        Raises:
            `TypeError`: If a size of the encoder is not a whole number.
            `ValueError`: If a layer is not there, the heads have another width, a segment is shorter than a frame, or
                a size is beyond what a model can have.
        """
        check_encoder_fields(self.encoder_config)
        num_layers = self.encoder_config.num_hidden_layers
        for index in self.layer_indices:
            if not -num_layers - 1 <= index <= num_layers:
                raise ValueError(
                    f"`layer_indices` holds {index}, but the encoder has {num_layers} layers, so indices run from "
                    f"{-num_layers - 1} to {num_layers} (0 is the input of the first layer)."
                )
        if self.input_dim is not None and self.input_dim != self.hidden_size:
            raise ValueError(
                f"`input_dim` is {self.input_dim} but the encoder's hidden size is {self.hidden_size}. The heads "
                "belong to another encoder: pass the `encoder_config` that they were trained behind."
            )
        if self.segment_num_samples < self.minimum_num_samples:
            raise ValueError(
                f"`segment_seconds` {self.segment_seconds} is {self.segment_num_samples} samples, fewer than the "
                f"{self.minimum_num_samples} that one frame of the encoder needs."
            )
        check_model_size(self, self.max_num_numbers)


def _validate_heads(heads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(heads, (str, Mapping)) or not isinstance(heads, Sequence):
        raise TypeError(
            "`heads` must be a list of dicts (a list, because its order is the order of the scores, and JSON does not "
            f"keep the order of a dict), got {type(heads).__name__}."
        )
    if not heads:
        raise ValueError("`heads` is empty; a model needs at least one score.")
    if len(heads) > MAX_HEADS:
        raise ValueError(f"`heads` has {len(heads)} entries, but at most {MAX_HEADS} are accepted.")
    validated = []
    for position, head in enumerate(heads):
        if not isinstance(head, Mapping) or set(head) != {"name", "minimum", "maximum", "group"}:
            raise ValueError(f"head {position} must have exactly name, minimum, maximum and group, got {head!r}.")
        name = head["name"]
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"head {position}: `name` must be a plain identifier, got {name!r}.")
        minimum = _validate_float(f"heads[{position}].minimum", head["minimum"])
        maximum = _validate_float(f"heads[{position}].maximum", head["maximum"])
        if not minimum < maximum:
            raise ValueError(f"head {name!r}: `minimum` {minimum} must be below `maximum` {maximum}.")
        group = _validate_choice(f"heads[{position}].group", head["group"], HEAD_GROUPS)
        validated.append({"name": name, "minimum": minimum, "maximum": maximum, "group": group})
    names = [head["name"] for head in validated]
    if len(set(names)) != len(names):
        raise ValueError(f"`heads` names a score twice: {names}.")
    return validated


def _validate_percentile_tables(tables: Any, head_names: Sequence[str]) -> dict[str, list[float]]:
    if not isinstance(tables, Mapping):
        raise TypeError(f"`percentile_tables` must be a dict from score to quantiles, got {type(tables).__name__}.")
    validated = {}
    for name, table in tables.items():
        if name not in head_names:
            raise ValueError(f"`percentile_tables` names {name!r}, but the heads are {', '.join(head_names)}.")
        if isinstance(table, str) or not isinstance(table, Sequence) or len(table) != NUM_QUANTILES:
            raise ValueError(f"`percentile_tables[{name!r}]` must be a list of {NUM_QUANTILES} quantiles.")
        values = [_validate_float(f"percentile_tables[{name!r}]", value) for value in table]
        if values != sorted(values):
            raise ValueError(f"`percentile_tables[{name!r}]` must not descend; quantiles run from lowest to highest.")
        validated[str(name)] = values
    return validated


def _validate_int(name: str, value: Any, minimum: int | None, maximum: int = 2**53) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, got {value!r}.")
    if minimum is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")
    if abs(value) > maximum:
        raise ValueError(f"`{name}` must be at most {maximum}, got a larger number.")
    return value


def _validate_ints(name: str, values: Any, minimum: int | None, maximum: int = 2**53) -> list[int]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"`{name}` must be a list of integers, got {values!r}.")
    if not values:
        raise ValueError(f"`{name}` is empty; it needs at least one entry.")
    if len(values) > MAX_WIDTHS:
        raise ValueError(f"`{name}` has {len(values)} entries, but at most {MAX_WIDTHS} are accepted.")
    return [_validate_int(name, value, minimum, maximum) for value in values]


def _validate_float(
    name: str, value: Any, minimum: float | None = None, maximum: float | None = None, exclusive: bool = False
) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    if abs(value) > 1e300 or not math.isfinite(value):  # the first also spares the second an integer beyond floats
        raise ValueError(f"`{name}` must be finite and of a sane size, got {value!r:.40}.")
    if minimum is not None and (value <= minimum if exclusive else value < minimum):
        raise ValueError(f"`{name}` must be {'above' if exclusive else 'at least'} {minimum}, got {value}.")
    if maximum is not None and value >= maximum:
        raise ValueError(f"`{name}` must be below {maximum}, got {value}.")
    return float(value)


def _validate_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return str(value)


# What may stand in a config.json under our own names; everything else belongs to transformers.
OWN_FIELDS = (
    "encoder_config",
    "heads",
    "layer_indices",
    "sampling_rate",
    "segment_seconds",
    "shared_dims",
    "branch_dims",
    "dropout_shared",
    "dropout_branch",
    "prediction_level",
    "freeze_encoder",
    "popularity_exponent",
    "percentile_tables",
    "provenance",
    "mert_model_name",
    "input_dim",
)


def refuse_near_misses(fields: Mapping[str, Any]) -> None:
    """Plain configs keep any unknown field, so a typo would silently leave the default in force."""
    for name in fields:
        close = difflib.get_close_matches(name, OWN_FIELDS, n=1, cutoff=0.8)
        if close:
            raise ValueError(f"unknown config field `{name}`; did you mean `{close[0]}`?")
