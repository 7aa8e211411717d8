"""
What a folder of embeddings says about itself, and what must agree before embeddings are continued or trained on.

The identity names everything that the numbers depend on: the weights that made them, their precision, how the audio
was cut. Two embeddings with different identities never share a folder or a training run.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from modeling_apex.output_folder import replace_text

MANIFEST_NAME = "manifest.json"
EMBEDDING_PARTS = ("encoder.", "aggregator.")  # the weights that embeddings depend on; the heads come after


def compute_weights_hash(model: nn.Module) -> str:
    """
    Hash the weights that embeddings depend on: those of the encoder and of the layer mix.

    Args:
        model ([`ApexModel`]):
            A model in float32, so that the same checkpoint has the same hash whatever precision it will run in.

    Returns:
        `str`: SHA-256 over names, shapes and values, hexadecimal.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(EMBEDDING_PARTS):
            values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            digest.update(f"{name}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def build_identity(model: Any, *, dtype: str, resampler: str) -> dict[str, Any]:
    """
    Describe what the embeddings of a model depend on.

    Args:
        model ([`ApexModel`]):
            The model, in float32.
        dtype (`str`):
            Precision that the encoder runs in, such as `"float32"`.
        resampler (`str`):
            `"sinc"` or `"soxr"`.

    Returns:
        `dict`: equal for embeddings that may be mixed.
    """
    config = model.config
    return {
        "weights_sha256": compute_weights_hash(model),
        "dtype": dtype,
        "resampler": resampler,
        "sampling_rate": config.sampling_rate,
        "segment_seconds": config.segment_seconds,
        "layer_indices": list(config.layer_indices),
        "hidden_size": config.hidden_size,
    }


def refuse_other_identity(place: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """
    Refuse embeddings that were made in another way.

    Raises:
        `ValueError`: If any entry differs; the message names them all.
    """
    differences = [
        f"{name} {found.get(name)!r} instead of {expected[name]!r}"
        for name in expected
        if found.get(name) != expected[name]
    ]
    if differences:
        raise ValueError(
            f"{place}: holds embeddings of another model or precision ({'; '.join(differences)}). Use the model and "
            "options that made them, or embed into a new folder."
        )


def load_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Read the manifest of a folder of embeddings.

    Raises:
        `FileNotFoundError`: If the folder has none.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found. Make embeddings first: apex-music embed DATASET --output {folder}"
        )
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def save_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either the old one or the new one, whole."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
