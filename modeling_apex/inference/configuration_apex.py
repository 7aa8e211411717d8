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

    Takes the fields of [`ApexFields`] by name, which says what each one means, the names that the published config has
    for them, and those of `PreTrainedConfig`.

    Raises:
        `TypeError`: If a field has the wrong type.
        `ValueError`: If a field has a value that no model can have, or an unknown field is a near miss of one of ours.
    """

    model_type = "apex"
    sub_configs: ClassVar = {"encoder_config": HubertConfig}

    def __init__(self, /, **fields: Any):
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
        others = set_fields(self, fields)
        self.encoder_config = _build_encoder_config(self.encoder_config)
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
