"""
What the training of a whole model starts from.

What comes in is the name of a model, of an encoder alone, or nothing; what leaves is an [`ApexModel`]. Of an encoder
alone (MERT, HuBERT) it has the weights, behind the published layer mix, and heads that are yet to learn anything.
"""

import os
from pathlib import Path
from typing import Any

from transformers import HubertConfig

from modeling_apex.checkpoints.convert import name_public_source
from modeling_apex.checkpoints.published import ENCODER_MODEL_TYPES, build_published_aggregator, read_encoder
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.storage.output_folder import load_fields
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.batches import seeded
from modeling_apex.training.trained_model import load_base_model

DEFAULT_ENCODER = "m-a-p/MERT-v1-95M"
ENCODERS_ON_THE_HUB = (DEFAULT_ENCODER, "m-a-p/MERT-v1-330M")


def load_starting_model(model: Any, arguments: ApexTrainingArguments) -> ApexModel:
    """
    Load what an encoder and its heads start from.

    Args:
        model (`str`, `os.PathLike` or [`ApexModel`], *optional*):
            An APEX model, or an encoder alone: a folder or a Hub id. Defaults to MERT-v1-95M.
        arguments ([`ApexTrainingArguments`]):
            Of the run; they say whether heads of the model are wanted.

    Raises:
        `FileNotFoundError`: If there is no such model; the message says how to get it for offline work.
        `ValueError`: If heads are wanted of an encoder alone.
    """
    source = DEFAULT_ENCODER if model is None else model
    if not isinstance(source, (str, os.PathLike)) or not _is_encoder(os.fspath(source)):
        return load_base_model(source)
    if arguments.initial_heads == "model":
        raise ValueError(
            f"initial_heads='model' needs a model that has heads, and {source} is an encoder alone. Name an APEX "
            "model (--model), or leave initial_heads out."
        )
    weights = read_encoder(source)
    config = ApexConfig(
        encoder_config=HubertConfig(**weights.config["encoder_config"]),
        sampling_rate=weights.config["sampling_rate"],
        provenance={"encoder": {"source": name_public_source(source), "sha256": weights.hashes}},
    )
    with seeded(arguments.seed):
        built = ApexModel(config)
    tensors = {**weights.state_dict, **build_published_aggregator({}, str(source))}
    expected = {name for name in built.state_dict() if name.startswith(("encoder.", "aggregator."))}
    if different := sorted(expected ^ set(tensors)):
        raise ValueError(f"{source}: the weights are not those that its config describes: {different[0]}.")
    built.load_state_dict(tensors, strict=False)
    return built


def _is_encoder(source: str) -> bool:
    path = Path(os.path.expanduser(source)) / "config.json"
    if path.is_file():
        return load_fields(path, "Download the model again.").get("model_type") in ENCODER_MODEL_TYPES
    return source in ENCODERS_ON_THE_HUB
