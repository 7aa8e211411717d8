"""
Configuration of the APEX model: everything that a checkpoint must say about itself besides its weights.

What comes in is a `config.json` (ours, or the published `amaai-lab/apex` one, whose field names are translated here);
what leaves is a validated [`ApexConfig`]. The encoder is described by a nested `HubertConfig`, and the heads are data:
their order in `config.heads` is the order of the score columns everywhere else.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import HubertConfig, PreTrainedConfig

from .checkpoint_limits_apex import (
    MAX_HEADS,
    MAX_NUM_NUMBERS,
    MAX_WIDTH,
    MAX_WIDTHS,
    check_encoder_fields,
    check_model_size,
)
from .heads_apex import DEFAULT_HEADS, HEAD_GROUPS, POPULARITY_EXPONENT

PREDICTION_LEVELS = ("song", "segment")
CODE_POINTERS = ("auto_map", "custom_pipelines")  # what names code to run beside, or instead of, our own
NUM_QUANTILES = 101  # 0, 1, ... 100 percent

# MERT-v1-95M is HuBERT base at 24 kHz. Layer drop and time masking are training devices of the encoder's own
# pre-training: with them on, an index into the hidden states would not always name the same layer.
MERT_95M_ENCODER: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "layer_norm_eps": 1e-5,
    "mask_time_prob": 0.05,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}

# Facts of the published training run that change nothing about the model: kept under `provenance`.
PUBLISHED_FACTS = ("seed", "epoch", "val_loss", "task", "shared", "loss")


class ApexConfig(PreTrainedConfig):
    """
    Describe an APEX model: encoder, segments, layers, heads.

    Args:
        encoder_config (`HubertConfig` or `dict`, *optional*):
            The frozen encoder. Defaults to the shape of MERT-v1-95M.
        heads (`list[dict]`, *optional*):
            One entry a score, in the order of the output columns: `name`, `minimum`, `maximum` and `group`
            (`"popularity"` or `"aesthetics"`). Defaults to the seven heads of the paper.
        layer_indices (`list[int]`, defaults to `[2, 5, 8, -1]`):
            Which entries of the encoder's hidden states are mixed. Entry 0 is the input of the first layer, so the
            default names layers 2, 5, 8 and 12 (the paper says 3, 6, 9, 12; the published weights need these).
        sampling_rate (`int`, defaults to 24000):
            Sampling rate of the encoder, in hertz.
        segment_seconds (`float`, defaults to 30.0):
            Length of a segment, in seconds.
        shared_dims (`list[int]`, defaults to `[512, 256]`):
            Widths of the trunk that all heads share.
        branch_dims (`list[int]`, defaults to `[128, 64]`):
            Widths of each head's own branch.
        dropout_shared (`float`, defaults to 0.3):
            Dropout probability in the trunk.
        dropout_branch (`float`, defaults to 0.1):
            Dropout probability in the branches.
        prediction_level (`str`, defaults to `"song"`):
            `"song"`: segment embeddings are averaged, then scored. `"segment"`: each segment is scored, then the
            scores are averaged (the two training modes of the paper).
        freeze_encoder (`bool`, defaults to `True`):
            Whether the encoder is kept out of training.
        popularity_exponent (`float`, defaults to `ln 0.5 / ln 0.8`):
            Exponent of the power transform between percentile and popularity score.
        percentile_tables (`dict[str, list[float]]`, *optional*):
            Per score, the 101 quantiles (0 to 100 percent) of the model's own scores on its training songs, so that a
            report can say "better than 83 % of the training songs".
        provenance (`dict`, *optional*):
            Where the weights come from: source ids, hashes, training facts. Shown, never computed with.
        mert_model_name (`str`, *optional*):
            Only in the published layout, which does not store the encoder: the Hub id or folder that it is read from.
        input_dim (`int`, *optional*):
            Only in the published layout; must equal the encoder's hidden size.

    Raises:
        `TypeError`: If a field has the wrong type.
        `ValueError`: If a field has a value that no model can have, or an unknown field is a near miss of one above.
    """

    model_type = "apex"
    sub_configs: ClassVar = {"encoder_config": HubertConfig}
    max_num_numbers: ClassVar[int] = MAX_NUM_NUMBERS
    """Most numbers of a model. A config that asks for more is refused before anything is allocated."""

    def __init__(
        self,
        encoder_config: HubertConfig | Mapping[str, Any] | None = None,
        heads: Sequence[Mapping[str, Any]] | None = None,
        layer_indices: Sequence[int] = (2, 5, 8, -1),
        sampling_rate: int = 24_000,
        segment_seconds: float = 30.0,
        shared_dims: Sequence[int] = (512, 256),
        branch_dims: Sequence[int] = (128, 64),
        dropout_shared: float = 0.3,
        dropout_branch: float = 0.1,
        prediction_level: str = "song",
        freeze_encoder: bool = True,
        popularity_exponent: float = POPULARITY_EXPONENT,
        percentile_tables: Mapping[str, Sequence[float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
        mert_model_name: str | None = None,
        input_dim: int | None = None,
        **kwargs: Any,
    ):
        if "segment_sec" in kwargs:
            segment_seconds = float(kwargs.pop("segment_sec"))
        if "mode" in kwargs:
            prediction_level = kwargs.pop("mode")
        facts = {name: kwargs.pop(name) for name in PUBLISHED_FACTS if name in kwargs}
        if not __name__.startswith("transformers_modules"):
            # This is the installed package, not code from a checkpoint's folder: its own classes serve, so the
            # pointers to code in that folder must neither ask the user for trust nor be saved again.
            kwargs = {name: value for name, value in kwargs.items() if name not in CODE_POINTERS}
        _refuse_near_misses(kwargs)

        self.encoder_config = _build_encoder_config(encoder_config)
        self.heads = _validate_heads(DEFAULT_HEADS if heads is None else heads)
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
        self.provenance = {**facts, **(provenance or {})}
        self.mert_model_name = mert_model_name
        self.input_dim = input_dim
        if mert_model_name is None or encoder_config is not None:
            self.validate_encoder()  # the published layout's encoder is known only once it is fetched
        super().__init__(**kwargs)

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


def _build_encoder_config(encoder_config: HubertConfig | Mapping[str, Any] | None) -> HubertConfig:
    if encoder_config is None:
        return HubertConfig(**MERT_95M_ENCODER)
    if isinstance(encoder_config, Mapping):
        fields = {name: value for name, value in encoder_config.items() if name not in CODE_POINTERS}
        model_type = fields.pop("model_type", "hubert")
        if model_type != "hubert":
            raise ValueError(
                f"`encoder_config` has model_type {model_type!r}; this model runs encoders of model_type 'hubert'. "
                "MERT checkpoints become HuBERT by `apex-music convert`."
            )
        return HubertConfig(**fields)
    if getattr(encoder_config, "model_type", None) != "hubert":
        raise TypeError(f"`encoder_config` must be a `HubertConfig` or a dict, got {type(encoder_config).__name__}.")
    return encoder_config


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


def _refuse_near_misses(fields: Mapping[str, Any]) -> None:
    """Plain configs keep any unknown field, so a typo would silently leave the default in force."""
    for name in fields:
        close = difflib.get_close_matches(name, OWN_FIELDS, n=1, cutoff=0.8)
        if close:
            raise ValueError(f"unknown config field `{name}`; did you mean `{close[0]}`?")
