"""
Configuration of the APEX model: everything that a checkpoint must say about itself besides its weights.

What comes in is a `config.json` (ours, or the published `amaai-lab/apex` one, whose field names are translated here);
what leaves is a validated [`ApexConfig`]. The encoder is described by a nested `HubertConfig`, and the heads are data:
their order in `config.heads` is the order of the score columns everywhere else.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import HubertConfig, PreTrainedConfig

from .configuration_fields_apex import CODE_POINTERS, ApexFields, set_fields

# MERT-v1-95M is HuBERT base, the default of `HubertConfig`, at 24 kHz. Layer drop and time masking are training
# devices of the encoder's own pre-training: with them on, an index into the hidden states would not always name the
# same layer.
MERT_95M_ENCODER: dict[str, Any] = {
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}

# Facts of the published training run that change nothing about the model: kept under `provenance`.
PUBLISHED_FACTS = ("seed", "epoch", "val_loss", "task", "shared", "loss")
# What the published config calls some fields.
PUBLISHED_NAMES = {"segment_sec": "segment_seconds", "mode": "prediction_level"}


class ApexConfig(ApexFields, PreTrainedConfig):
    """
    Describe an APEX model: encoder, segments, layers, heads.

    Args:
        encoder_config (`HubertConfig` or `dict`, *optional*):
            The frozen encoder. Defaults to the shape of MERT-v1-95M.
        heads (`list[dict]`, *optional*):
            One entry a score, in the order of the output columns: `name`, `minimum`, `maximum`, `group`
            (`"popularity"`, `"aesthetics"` or `"hit"`) and `scale`: `"percentile"` (a power of the percentile rank,
            within the range; the default of popularity), `"rating"` (of aesthetics) or `"probability"` (of a hit).
            Defaults to the seven heads of the paper.
        layer_indices (`list[int]`, defaults to `[2, 5, 8, -1]`):
            Which entries of the encoder's hidden states are mixed. Entry 0 is the input of the first layer, so the
            default names layers 2, 5, 8 and 12 (the paper says 3, 6, 9, 12; the published weights need these).
        sampling_rate (`int`, defaults to 24000): Sampling rate of the encoder, in hertz.
        segment_seconds (`float`, defaults to 30.0): Length of a segment, in seconds.
        shared_dims (`list[int]`, defaults to `[512, 256]`): Widths of the trunk that all heads share.
        branch_dims (`list[int]`, defaults to `[128, 64]`): Widths of each head's own branch.
        dropout_shared (`float`, defaults to 0.3): Dropout probability in the trunk.
        dropout_branch (`float`, defaults to 0.1): Dropout probability in the branches.
        prediction_level (`str`, defaults to `"song"`):
            `"song"`: segment embeddings are averaged, then scored. `"segment"`: each segment is scored, then the
            scores are averaged (the two training modes of the paper).
        freeze_encoder (`bool`, defaults to `True`): Whether the encoder is kept out of training.
        popularity_exponent (`float`, defaults to `ln 0.5 / ln 0.8`):
            Exponent of the power transform between percentile and popularity score.
        percentile_tables (`dict[str, list[float]]`, *optional*):
            Per score, the 101 quantiles (0 to 100 percent) of the model's own scores on its training songs, so that a
            report can say "better than 83 % of the training songs".
        provenance (`dict`, *optional*):
            Where the weights come from: source ids, hashes, training facts. Shown, never computed with.
        mert_model_name (`str`, *optional*):
            Only in the published layout, which does not store the encoder: the Hub id or folder that it is read from.
        input_dim (`int`, *optional*): Only in the published layout; must equal the encoder's hidden size.

    Raises:
        `TypeError`: If a field has the wrong type.
        `ValueError`: If a field has a value that no model can have, or an unknown field is a near miss of one above.
    """

    model_type = "apex"
    sub_configs: ClassVar = {"encoder_config": HubertConfig}

    def __init__(self, **fields: Any):
        for published, name in PUBLISHED_NAMES.items():
            if published in fields and name in fields:
                raise ValueError(
                    f"`{published}` is {fields[published]!r} and `{name}` is {fields[name]!r}, but they are two names "
                    f"of one field. Leave `{published}`, the published name, out."
                )
            if published in fields:
                fields[name] = fields.pop(published)
        if facts := {name: fields.pop(name) for name in PUBLISHED_FACTS if name in fields}:
            fields["provenance"] = {**facts, **(fields.get("provenance") or {})}
        is_complete = fields.get("mert_model_name") is None or fields.get("encoder_config") is not None
        fields["encoder_config"] = _build_encoder_config(fields.get("encoder_config"))
        others = set_fields(self, fields)
        # The published layout's encoder is known only once it is fetched.
        if is_complete and self.validate_encoder is not None:
            self.validate_encoder()
        super().__init__(**others)


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
