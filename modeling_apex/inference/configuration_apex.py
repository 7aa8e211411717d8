"""
Configuration of the APEX model: everything that a checkpoint must say about itself besides its weights.

What comes in is a `config.json` (ours, or the published `amaai-lab/apex` one, whose field names are translated here);
what leaves is a validated [`ApexConfig`]. The encoder is described by a nested `HubertConfig`, and the heads are data:
their order in `config.heads` is the order of the score columns everywhere else.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import HubertConfig, PreTrainedConfig

# As remote code, an entry file must name all that it needs, at any depth: early 5.x releases copy no more than that.
from .checkpoint_limits_apex import MAX_NUM_NUMBERS  # noqa: F401
from .configuration_fields_apex import (
    NUM_QUANTILES,
    OWN_FIELDS,
    PREDICTION_LEVELS,
    ApexFields,
    refuse_near_misses,
)
from .heads_apex import DEFAULT_HEADS, POPULARITY_EXPONENT

CODE_POINTERS = ("auto_map", "custom_pipelines")  # what names code to run beside, or instead of, our own

__all__ = ["MERT_95M_ENCODER", "NUM_QUANTILES", "OWN_FIELDS", "PREDICTION_LEVELS", "ApexConfig"]

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


class ApexConfig(ApexFields, PreTrainedConfig):
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
        refuse_near_misses(kwargs)

        self.set_fields(
            encoder_config=_build_encoder_config(encoder_config),
            heads=DEFAULT_HEADS if heads is None else heads,
            layer_indices=layer_indices,
            sampling_rate=sampling_rate,
            segment_seconds=segment_seconds,
            shared_dims=shared_dims,
            branch_dims=branch_dims,
            dropout_shared=dropout_shared,
            dropout_branch=dropout_branch,
            prediction_level=prediction_level,
            freeze_encoder=freeze_encoder,
            popularity_exponent=popularity_exponent,
            percentile_tables=percentile_tables,
            provenance={**facts, **(provenance or {})},
            mert_model_name=mert_model_name,
            input_dim=input_dim,
        )
        if mert_model_name is None or encoder_config is not None:
            self.validate_encoder()  # the published layout's encoder is known only once it is fetched
        super().__init__(**kwargs)


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
