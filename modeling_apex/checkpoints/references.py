"""
What a published checkpoint holds: its weights, and what a config must say so that they give the published scores.

What comes in is a folder or a Hub id in any layout that was published; what leaves are its tensors under this
package's names, and the fields that belong to them, by which a model with the same weights is judged.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import HubertConfig, PreTrainedConfig

from modeling_apex.checkpoints.published import (
    ENCODER_MODEL_TYPES,
    PublishedWeights,
    infer_head_config,
    read_encoder,
    read_heads,
)
from modeling_apex.engines.model_hashes import SCORE_FIELDS
from modeling_apex.engines.plain_folder import ENCODER_FIELDS
from modeling_apex.inference.configuration_fields_apex import ApexFields, list_fields
from modeling_apex.loading import load_model
from modeling_apex.model_names import choose_hub_options, find_model
from modeling_apex.storage.output_folder import load_fields

# Time masking is of training, and switched off by conversion.
UNCOUNTED = ("mask_time_prob", "mask_feature_prob")
ORIGIN = ("provenance", "architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path")


def read_reference(source: str, options: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    Read a checkpoint to compare with.

    Returns:
        `tuple[dict, dict]`: its tensors, and the fields that a config with these tensors must have.

    Raises:
        `OSError`, `ValueError`: If it cannot be read.
    """
    if os.path.exists(source) and not os.path.isfile(os.path.join(source, "config.json")):
        return _describe_heads(read_heads(source))
    source = find_model(source)
    options = choose_hub_options(source, options)
    if os.path.isdir(source):
        load_fields(Path(source) / "config.json", "Choose another model.")
    fields, _ = PreTrainedConfig.get_config_dict(source, **options)
    if fields.get("model_type") in ENCODER_MODEL_TYPES:
        encoder = read_encoder(source, **options)
        config = HubertConfig(**encoder.config["encoder_config"])
        return encoder.state_dict, {"sampling_rate": encoder.config["sampling_rate"], **_describe_encoder(config)}
    if fields.get("mert_model_name"):
        return _describe_heads(read_heads(source, **options))
    model = load_model(source, **options)
    return dict(model.state_dict()), describe_config(model.config)


def describe_config(config: Any) -> dict[str, Any]:
    """Return the fields of a config that scores and what is said of them depend on."""
    if (encoder := getattr(config, "encoder_config", None)) is not None:
        return {name: getattr(config, name) for name in SCORE_FIELDS} | _describe_encoder(encoder)
    return {name: value for name, value in config.to_dict().items() if name not in ORIGIN}


def list_config_differences(config: Any, expected: Mapping[str, Any]) -> list[str]:
    """Compare a config with the fields that belong to its weights: a sentence for each that is another."""
    found = describe_config(config)
    return [
        f"`{name}` is {_shorten(found.get(name), value)}, published is {_shorten(value, found.get(name))}"
        for name, value in expected.items()
        if found.get(name) != value
    ]


def _describe_heads(heads: PublishedWeights) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Say what belongs to published heads: what they state, else the defaults of the code that they came with."""
    defaults = {name: field.default for name, field in list_fields(ApexFields).items()}
    stated = {
        "layer_indices": heads.config.get("layer_indices", defaults["layer_indices"]),
        "segment_seconds": float(heads.config.get("segment_sec", defaults["segment_seconds"])),
        "prediction_level": heads.config.get("mode", heads.config.get("prediction_level", "song")),
        "popularity_exponent": defaults["popularity_exponent"],
        "percentile_tables": {},
    }
    named = [dict(head) for head in infer_head_config(heads.state_dict)["heads"]]
    return heads.state_dict, stated | {"heads": named}


def _describe_encoder(encoder: Any) -> dict[str, Any]:
    return {
        f"encoder_config.{name}": list(value) if isinstance(value := getattr(encoder, name), tuple) else value
        for name in ENCODER_FIELDS
        if name not in UNCOUNTED
    }


def _shorten(value: Any, other: Any) -> str:
    """Show a value, of lists and tables only what differs."""
    if isinstance(value, list) and isinstance(other, list) and len(value) == len(other):
        value = [entry for entry, against in zip(value, other, strict=True) if entry != against]
    elif isinstance(value, dict) and isinstance(other, dict):
        value = sorted(name for name in value if value[name] != other.get(name))
    return f"{value!r:.200}"
