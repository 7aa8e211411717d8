"""
What a folder of embeddings says about itself, and what must agree before embeddings are continued or trained on.

The identity names everything that the numbers depend on: the weights that made them, their precision, how the audio
was cut. Two embeddings with different identities never share a folder or a training run.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex.corpus.identity import list_differences
from modeling_apex.corpus.song_files import find_folder
from modeling_apex.engines.model_hashes import compute_weights_hash
from modeling_apex.storage.file_names import check_file_name
from modeling_apex.storage.output_folder import load_json

MANIFEST_NAME = "manifest.json"
SHARD_NAME = re.compile(r".+-\d{5}\.parquet")  # and not `-of-`, as the shards of a dataset
FIELDS = {"model": str, "identity": dict, "source": dict, "songs_per_shard": int, "is_complete": bool}
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
        `ValueError`: If it is damaged, is not the manifest of embeddings, or holds a name that may not become a path.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found. Make embeddings first: apex-music embed DATASET --output {folder}"
        )
    remedy = f"Embed the songs into a new folder: apex-music embed {folder} --output FOLDER"
    manifest: Any = load_json(path, remedy)
    if problem := _find_problem(manifest):
        raise ValueError(f"{path}: not the manifest of a folder of embeddings, for it {problem}. {remedy}")
    for split in manifest["source"]["splits"]:
        check_file_name(split, f"{path}: the split")
    return dict(manifest)


def load_finished_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Read the manifest of a folder of embeddings that is finished.

    Raises:
        `FileNotFoundError`, `ValueError`: As `load_manifest` does; also if the embedding is unfinished.
    """
    manifest = load_manifest(folder)
    if not manifest["is_complete"]:
        raise ValueError(
            f"{folder}: this embedding is unfinished. Run the same `apex-music embed` again to finish it."
        )
    return manifest


def find_embeddings(names: Sequence[str]) -> Path | None:
    """Return the folder of embeddings that songs are given by, if they are; see [`find_folder`]."""
    return find_folder(names, is_embeddings, "stored embeddings")


def is_embeddings(folder: Path) -> bool:
    """Tell a folder of embeddings, by its manifest, from a dataset, which has one too."""
    try:
        content = json.loads((folder / MANIFEST_NAME).read_bytes())
    except OSError:  # no manifest, no folder
        return False
    except (ValueError, RecursionError):  # `load_manifest` says what is wrong with it
        return any(SHARD_NAME.fullmatch(path.name) for path in folder.glob("*.parquet"))
    return isinstance(content, dict) and {"identity", "songs_per_shard"} <= set(content)


def _find_problem(manifest: Any) -> str | None:
    """Say in words that follow "it" what a manifest lacks; `None` if it has all."""
    if not isinstance(manifest, dict):
        return "is not a JSON object"
    if wrong := [name for name, kind in FIELDS.items() if not isinstance(manifest.get(name), kind)]:
        return f"lacks {', '.join(wrong)}"
    source, identity = manifest["source"], manifest["identity"]
    counts = source.get("splits")
    if not isinstance(counts, dict) or not all(type(count) is int and count >= 0 for count in counts.values()):
        return "does not say how many songs each split has"
    if not all(isinstance(source.get(name), str) for name in ("name", "ids_sha256")):
        return "does not give the name and ids of its songs"
    sizes = (manifest["songs_per_shard"], identity.get("hidden_size"))
    return None if all(type(size) is int and size > 0 for size in sizes) else "has sizes that are not counts"
