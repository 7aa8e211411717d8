"""
Turn the published weights (MERT here, APEX heads there, both pickles) into one strict safetensors checkpoint.

What comes in are two sources, each a folder, a file or a Hub id; what leaves is a folder that
`AutoModel.from_pretrained` loads without fetching anything, with the hashes of its sources in `config.json`.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import HubertConfig

from modeling_apex.checkpoints.published import PublishedWeights, infer_head_config, read_encoder, read_heads
from modeling_apex.inference.configuration_apex import PUBLISHED_FACTS, ApexConfig
from modeling_apex.inference.configuration_fields_apex import PREDICTION_LEVELS
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.inference.report_apex import format_table
from modeling_apex.storage.output_folder import write_new_folder


@dataclass
class Conversion:
    """A converted model and where each of its tensors came from."""

    model: ApexModel
    encoder: PublishedWeights
    heads: PublishedWeights

    def format_summary(self) -> str:
        """Return a table of what went where: one line a part of the model, with renamed tensors counted."""
        rows = []
        for part, weights in (("encoder", self.encoder), ("heads", self.heads)):
            groups = Counter(".".join(name.split(".")[:2]) for name in weights.state_dict)
            stored = {new: old for old, new in weights.renamed.items()}
            for group, count in groups.items():
                names = [name for name in weights.state_dict if name.startswith(group + ".") or name == group]
                renamed = [
                    name for name in names if stored.get(name, name) not in (name, name.removeprefix("encoder."))
                ]
                origin = "stored" if all(name in stored for name in names) else "published constant"
                parameters = sum(weights.state_dict[name].numel() for name in names)
                rows.append([f"{part}: {group}", str(count), f"{parameters:,}", str(len(renamed)), origin])
        table = format_table(["part", "tensors", "numbers", "renamed", "origin"], rows, left_columns=(0, 4))
        hashes = [
            f"{part} {weights.source} {name} sha256 {digest}"
            for part, weights in (("encoder", self.encoder), ("heads", self.heads))
            for name, digest in weights.hashes.items()
        ]
        return "\n".join([table, "", *hashes])


def convert_checkpoint(encoder: str | os.PathLike[str], heads: str | os.PathLike[str]) -> Conversion:
    """
    Read both sources and build one model from them.

    Args:
        encoder (`str` or `os.PathLike`):
            MERT: a folder or a Hub id, 95M or 330M.
        heads (`str` or `os.PathLike`):
            APEX heads: `best_model.pt`, a folder, or a Hub id such as `amaai-lab/apex`.

    Returns:
        [`Conversion`]: the model in float32, ready to save.

    Raises:
        `FileNotFoundError`: If a source cannot be reached.
        `ValueError`: If a source holds what this model cannot represent, or the two do not fit together.
    """
    encoder_weights, head_weights = read_encoder(encoder), read_heads(heads)
    facts = head_weights.config
    provenance: dict[str, Any] = {name: facts[name] for name in PUBLISHED_FACTS if name in facts}
    provenance["encoder"] = {"source": name_public_source(encoder), "sha256": encoder_weights.hashes}
    provenance["heads"] = {"source": name_public_source(heads), "sha256": head_weights.hashes}
    level = facts.get("mode", facts.get("prediction_level", "song"))
    kept = ("layer_indices", "dropout_shared", "dropout_branch")
    if level not in PREDICTION_LEVELS:
        raise ValueError(f"{heads}: `mode` is {level!r}; expected {' or '.join(map(repr, PREDICTION_LEVELS))}.")
    config = ApexConfig(
        encoder_config=HubertConfig(**encoder_weights.config["encoder_config"]),
        sampling_rate=encoder_weights.config["sampling_rate"],
        segment_seconds=float(facts.get("segment_sec", 30)),
        prediction_level=level,
        provenance=provenance,
        **{name: facts[name] for name in kept if name in facts},
        **infer_head_config(head_weights.state_dict),
    )
    model = ApexModel(config)
    state_dict = {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for name, tensor in {**encoder_weights.state_dict, **head_weights.state_dict}.items()
    }
    try:
        model.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise ValueError(f"encoder {encoder} and heads {heads} do not fit together: {error}") from error
    damaged = [name for name, tensor in state_dict.items() if not torch.isfinite(tensor).all()]
    if damaged:
        raise ValueError(f"weights that are NaN or infinite: {', '.join(damaged)}.")
    return Conversion(model.eval(), encoder_weights, head_weights)


def save_conversion(conversion: Conversion, output: str | os.PathLike[str]) -> Path:
    """
    Write a converted model to a new or empty folder: `config.json`, `model.safetensors`, `preprocessor_config.json`.

    Raises:
        `FileExistsError`: If the folder holds anything.
        [`OutputInUseError`]: If another run is writing it.
    """
    with write_new_folder(output) as part:
        conversion.model.save_pretrained(part)
        ApexFeatureExtractor.from_config(conversion.model.config).save_pretrained(part)
    return Path(os.path.expanduser(output))


def name_public_source(source: str | os.PathLike[str]) -> str:
    """Name a source without the path of the machine that converted it."""
    path = Path(os.path.expanduser(source))
    return path.name if path.exists() else str(source)
