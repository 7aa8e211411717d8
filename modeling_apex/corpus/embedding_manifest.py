"""
What a folder of embeddings says about itself, and what must agree before embeddings are continued or trained on.

The identity names everything that the numbers depend on: the weights that made them, their precision, how the audio
was cut. Two embeddings with different identities never share a folder or a training run.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeling_apex.corpus.identity import list_differences
from modeling_apex.engines.model_hashes import compute_weights_hash
from modeling_apex.storage.output_folder import replace_text

MANIFEST_NAME = "manifest.json"
# What every manifest of embeddings has had, since 0.1.
FIELDS = ("identity", "is_complete", "source", "songs_per_shard")
# Of folders that were made before there were engines.
IDENTITY_DEFAULTS = {"engine": "torch", "precision": "float32"}
# What in an identity is a choice of the run, and not a fact of the model.
RUN_OPTIONS = ("dtype", "resampler", *IDENTITY_DEFAULTS)


def build_identity(
    model: Any, *, dtype: str, resampler: str, engine: str = "torch", precision: str = "float32"
) -> dict[str, Any]:
    """
    Describe what the embeddings of a model depend on.

    Args:
        model ([`ApexModel`]):
            The model, in float32.
        dtype (`str`), resampler (`str`), engine (`str`, defaults to `"torch"`), precision (`str`, defaults to
            `"float32"`): As in [`EmbeddingOptions`].

    Returns:
        `dict`: equal for embeddings that may be mixed.
    """
    config = model.config
    return {
        "weights_sha256": compute_weights_hash(model),
        "dtype": dtype,
        "engine": engine,
        "precision": precision,
        "resampler": resampler,
        "sampling_rate": config.sampling_rate,
        "segment_seconds": config.segment_seconds,
        "layer_indices": list(config.layer_indices),
        "hidden_size": config.hidden_size,
    }


def build_expected_identity(model: Any, identity: Mapping[str, Any]) -> dict[str, Any]:
    """
    Describe what embeddings of a model would depend on, had they been made as others were.

    Args:
        model ([`ApexModel`]):
            The model, in float32.
        identity (`dict`):
            That of the others: their precision, engine and resampler are taken over, and nothing else.

    Returns:
        `dict`: equal to `identity` if the model made those embeddings.
    """
    options = {name: identity.get(name, IDENTITY_DEFAULTS.get(name)) for name in RUN_OPTIONS}
    return build_identity(model, **options)


def refuse_other_identity(place: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """
    Refuse embeddings that were made in another way.

    Raises:
        `ValueError`: If any entry differs; the message names them all.
    """
    if differences := list_differences({**IDENTITY_DEFAULTS, **found}, expected):
        raise ValueError(
            f"{place}: holds embeddings of another model or precision ({'; '.join(differences)}). Use the model and "
            "options that made them, or embed into a new folder."
        )


def load_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Read the manifest of a folder of embeddings.

    Raises:
        `FileNotFoundError`: If the folder has none.
        `ValueError`: If what lies there is not the manifest of embeddings.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found. Make embeddings first: apex-music embed DATASET --output {folder}"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}). Embed the dataset again, into a new folder.") from error
    missing = [name for name in FIELDS if name not in manifest] if isinstance(manifest, dict) else list(FIELDS)
    if missing:
        raise ValueError(
            f"{path}: is not the manifest of embeddings (it lacks {', '.join(missing)}). A dataset of songs is "
            f"embedded first: apex-music embed {folder} --output EMBEDDINGS"
        )
    return manifest


def save_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either the old one or the new one, whole."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
