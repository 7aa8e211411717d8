"""SHA-256 hashes that tell models apart: by what embeddings depend on, and by all that scores depend on."""

import hashlib
import json
from typing import Any

import numpy as np
import torch
from torch import nn

from modeling_apex.engines.plain_folder import ENCODER_FIELDS

# The weights that embeddings depend on; the heads come after. A model whose embeddings pass through them says so.
EMBEDDING_PARTS = ("encoder.", "aggregator.")
# Fields of an encoder's config that say where it came from, not what it computes.
ORIGIN_FIELDS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
# What scores and percentiles depend on beside the weights and the encoder's config.
SCORE_FIELDS = (
    *("heads", "layer_indices", "prediction_level", "sampling_rate", "segment_seconds"),
    *("popularity_exponent", "percentile_tables"),
)


def compute_weights_hash(model: nn.Module) -> str:
    """
    Hash the weights that embeddings depend on, those of the encoder and of the layer mix, and of SongEval those of the
    head: names, shapes and values.

    The model is in float32, so that a checkpoint has the same hash whatever precision it will run in.
    """
    stored = getattr(getattr(model, "encoder", None), "weights_sha256", None)
    if stored is not None:  # an exported graph stands for the encoder that it was made from
        return str(stored)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(_list_embedding_parts(model)):
            _add_values(digest, name, tensor.float())
    return digest.hexdigest()


def compute_fingerprint(model: Any) -> str:
    """Hash what an `ApexModel` computes: every weight, and what shapes its encoder, its segments and its scores."""
    fields = model.config.encoder_config.to_dict()
    facts = {
        "encoder": {name: value for name, value in fields.items() if name not in ORIGIN_FIELDS},
        # Without the scale, which changes what a score is called and no score: older graphs and records stay valid.
        "heads": [{name: value for name, value in head.items() if name != "scale"} for head in model.config.heads],
        "layer_indices": model.config.layer_indices,
        "prediction_level": model.config.prediction_level,
        "segment_num_samples": model.config.segment_num_samples,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        _add_values(digest, name, tensor, str(tensor.dtype).removeprefix("torch."))
    return digest.hexdigest()


def compute_scores_hash(model: Any) -> str:
    """
    Hash everything that scores depend on, so that a model has one hash by whichever door it was loaded.

    Args:
        model ([`ApexModel`], [`PlainModel`], [`SpectrogramFusionModel`] or [`SongEvalModel`]):
            The model; an export has the hash of the checkpoint that it was made from.
    """
    config: Any = model.config
    if encoder := getattr(config, "encoder_config", None):
        facts = {name: getattr(config, name) for name in SCORE_FIELDS}
        if config.tail != "full":  # as everywhere before there was a choice, so that hashes of then stay valid
            facts |= {"tail": config.tail, "tail_seconds": config.tail_seconds}
        if config.reference:
            facts["reference"] = config.reference
        facts |= {f"encoder.{name}": kind(getattr(encoder, name)) for name, kind in ENCODER_FIELDS.items()}
    else:
        left_out = {*ORIGIN_FIELDS, "auto_map", "custom_pipelines", "provenance"}
        facts = {name: value for name, value in config.to_diff_dict().items() if name not in left_out}
    facts["embeddings"] = compute_weights_hash(model)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(_list_embedding_parts(model)):
            _add_values(digest, name, tensor.float())
    return digest.hexdigest()


def _list_embedding_parts(model: nn.Module) -> tuple[str, ...]:
    return getattr(model, "embedding_parts", EMBEDDING_PARTS)


def _add_values(digest: Any, name: str, tensor: torch.Tensor, kind: str = "") -> None:
    values = tensor.detach().cpu().contiguous().numpy()
    digest.update(f"{name}{values.shape}{kind}".encode())
    digest.update(np.ascontiguousarray(values).data)  # which makes a row of a single number, too
