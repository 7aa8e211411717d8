"""
Read what others published: MERT's checkpoints and the APEX heads, in their own layouts.

What comes in is a folder, a file or a Hub id; what leaves is a strict state dict under this package's names and the
`HubertConfig` fields of the encoder. Pickles are opened by `pickles`, so nothing in them can run. Nothing is guessed:
what HuBERT cannot represent, and any key without a known place, is refused.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import cached_file

from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.checkpoints.limits import check_weight_files
from modeling_apex.checkpoints.pickles import load_pickle
from modeling_apex.inference.heads_apex import DEFAULT_HEADS
from modeling_apex.model_names import choose_hub_options
from modeling_apex.storage.output_folder import load_fields

# The published aggregator was never trained or saved: the authors build `Conv1d(4, 1, 1)` right after
# `torch.manual_seed(42)`, so these five numbers are part of the published computation (arXiv 2605.03395, public code).
PUBLISHED_AGGREGATOR_WEIGHT = (0.3822692632675171, 0.4150039553642273, -0.11713624000549316, 0.45930564403533936)
PUBLISHED_AGGREGATOR_BIAS = -0.10955178737640381
PUBLISHED_SEED = 42

ENCODER_MODEL_TYPES = ("mert_model", "hubert")
ENCODER_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
HEAD_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "best_model.pt", "models/best_model.pt")

# Weight norm of the positional convolution: its old parameter names and today's.
ENCODER_RENAMES = {
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}
HEAD_KEY = re.compile(
    r"(?:module\.)?(shared\.\d+\.block\.[01]\..+|branch_\w+\.branch\..+|aggregator\.(?:weight|bias))"
)
CONFIG_FIELDS_NOT_HUBERT = (
    *("_name_or_path", "architectures", "auto_map", "model_type", "transformers_version"),
    *("dtype", "tokenizer_class", "torch_dtype"),
)


@dataclass
class PublishedWeights:
    """Weights read from one source: renamed tensors, what each came from, and the facts around them."""

    source: str
    state_dict: dict[str, torch.Tensor]
    renamed: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


def read_encoder(source: str | os.PathLike[str], **hub_options: Any) -> PublishedWeights:
    """
    Read a MERT or HuBERT checkpoint.

    Args:
        source (`str` or `os.PathLike`):
            A folder or a Hub id that holds `config.json` and `model.safetensors` or `pytorch_model.bin`.
        hub_options:
            `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, as in `from_pretrained`.

    Returns:
        [`PublishedWeights`]: tensors under `HubertModel`'s names; `config` holds `HubertConfig` fields.

    Raises:
        `FileNotFoundError`: If the source cannot be reached or lacks a file.
        `ValueError`: If the encoder is something that HuBERT cannot represent.
    """
    config_path = _find_file(source, ("config.json",), "encoder", hub_options)
    fields = load_fields(config_path, "Download the encoder again.")
    model_type = fields.get("model_type")
    if model_type not in ENCODER_MODEL_TYPES:
        raise ValueError(
            f"{source}: model_type {model_type!r} is not an encoder that this package runs; expected "
            f"{' or '.join(map(repr, ENCODER_MODEL_TYPES))}."
        )
    if fields.get("feature_extractor_cqt"):
        raise ValueError(f"{source}: the encoder has a CQT front end (`feature_extractor_cqt`), which HuBERT lacks.")
    if fields.get("deepnorm"):
        raise ValueError(f"{source}: the encoder uses deepnorm, which HuBERT cannot represent.")
    sampling_rate = fields.get("sample_rate", fields.get("sampling_rate", 24_000))
    # Layer drop and time masking belong to the encoder's own pre-training; see `configuration_apex`.
    hubert_fields = {name: value for name, value in fields.items() if name not in CONFIG_FIELDS_NOT_HUBERT}
    hubert_fields.update(layerdrop=0.0, apply_spec_augment=False)
    weights_path = _find_file(source, ENCODER_WEIGHT_FILES, "encoder", hub_options)
    tensors = read_tensors(weights_path)
    prefix = "hubert." if all(name.startswith("hubert.") for name in tensors) else ""
    bare = {name: name.removeprefix(prefix) for name in tensors}
    renamed = {name: "encoder." + ENCODER_RENAMES.get(plain, plain) for name, plain in bare.items()}
    return PublishedWeights(
        source=str(source),
        state_dict={renamed[name]: tensor for name, tensor in tensors.items()},
        renamed=renamed,
        config={"encoder_config": hubert_fields, "sampling_rate": sampling_rate},
        hashes={file.name: compute_file_hash(file) for file in (config_path, weights_path)},
    )


def read_heads(source: str | os.PathLike[str], **hub_options: Any) -> PublishedWeights:
    """
    Read published APEX heads: the authors' pickle, or a folder or Hub id in the published layout.

    Args:
        source (`str` or `os.PathLike`):
            `best_model.pt`, a folder, or a Hub id such as `amaai-lab/apex`.
        hub_options:
            As for [`read_encoder`].

    Returns:
        [`PublishedWeights`]: tensors under [`ApexModel`]'s names, the aggregator always among them; `config` holds the
        fields of `config.json`, or the facts stored in the pickle.

    Raises:
        `FileNotFoundError`: If the source cannot be reached or lacks its weights.
        `ValueError`: If a key has no known place, or the aggregator is neither stored nor the published one.
    """
    path = Path(os.path.expanduser(source))
    config: dict[str, Any] = {}
    hashes = {}
    if path.is_file():
        weights_path = path
    else:
        weights_path = _find_file(source, HEAD_WEIGHT_FILES, "heads", hub_options)
        # The published config stands beside the weights; a bare `best_model.pt` in a folder has none.
        with contextlib.suppress(FileNotFoundError):
            config_path = _find_file(source, ("config.json",), "heads", hub_options)
            config = load_fields(config_path, "Download the heads again.")
            hashes["config.json"] = compute_file_hash(config_path)
    hashes[weights_path.name] = compute_file_hash(weights_path)
    tensors, facts = split_head_checkpoint(read_pickle_or_safetensors(weights_path), str(weights_path))
    renamed = {name: match[1] for name in tensors if (match := HEAD_KEY.fullmatch(name))}
    if misplaced := [name for name in tensors if name not in renamed]:
        raise ValueError(
            f"{weights_path}: key {misplaced[0]!r} does not belong in an APEX checkpoint; expected shared.*, "
            "branch_<score>.* and aggregator.*."
        )
    state_dict = {renamed[name]: tensor for name, tensor in tensors.items()}
    config = {**facts, **config}
    if "aggregator.weight" not in state_dict:
        state_dict.update(build_published_aggregator(config, str(weights_path)))
    return PublishedWeights(str(source), state_dict, renamed, config, hashes)


def split_head_checkpoint(content: Mapping[str, Any], name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Separate the tensors of an APEX checkpoint from the training facts beside them; the optimizer's are dropped."""
    state = content.get("model_state", content)
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{name}: `model_state` holds no weights.")
    # `mert.*`: the encoder as the authors' own class would have stored it; it is always read from MERT itself.
    tensors = {key: value for key, value in state.items() if not key.startswith("mert.")}
    _refuse_other_values(tensors, name, "this is not an APEX checkpoint")
    facts = {
        key: content[key]
        for key in ("epoch", "val_loss", "mode", "task", "shared", "loss")
        if content is not state and isinstance(content.get(key), (str, int, float))
    }
    return tensors, facts


def build_published_aggregator(config: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """Return the aggregator that the published heads were trained behind, where a checkpoint does not store it."""
    seed = config.get("seed", PUBLISHED_SEED)
    num_layers = len(config.get("layer_indices", PUBLISHED_AGGREGATOR_WEIGHT))
    if seed != PUBLISHED_SEED or num_layers != len(PUBLISHED_AGGREGATOR_WEIGHT):
        raise ValueError(
            f"{name} does not store its aggregator, and only the published one (seed {PUBLISHED_SEED}, "
            f"{len(PUBLISHED_AGGREGATOR_WEIGHT)} layers) is known; this one has seed {seed} and {num_layers} layers."
        )
    return {
        "aggregator.weight": torch.tensor(PUBLISHED_AGGREGATOR_WEIGHT).reshape(1, -1, 1),
        "aggregator.bias": torch.tensor([PUBLISHED_AGGREGATOR_BIAS]),
    }


def infer_head_config(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """
    Derive `heads`, `shared_dims`, `branch_dims` and `input_dim` from the weights, under [`ApexModel`]'s names.

    A checkpoint of the task "popularity" holds only the first two of the published heads.

    Raises:
        `ValueError`: If a branch belongs to no known head, or there is no trunk.
    """
    branches = {match[1] for name in state_dict if (match := re.match(r"branch_(\w+?)\.branch\.", name))}
    known = [head["name"] for head in DEFAULT_HEADS]
    unknown = sorted(branches - set(known))
    if unknown:
        raise ValueError(f"branches {unknown} belong to no known head; known heads: {', '.join(known)}.")
    if not branches or "shared.0.block.0.weight" not in state_dict:
        raise ValueError("the checkpoint holds no trunk (`shared.*`) or no branches (`branch_<score>.*`).")
    heads = [dict(head) for head in DEFAULT_HEADS if head["name"] in branches]

    def widths(prefix: str) -> list[int]:
        found: list[int] = []
        while (weight := state_dict.get(f"{prefix}.{len(found)}.block.0.weight")) is not None:
            found.append(weight.shape[0])
        return found

    return {
        "heads": heads,
        "shared_dims": widths("shared"),
        "branch_dims": widths(f"branch_{heads[0]['name']}.branch"),
        "input_dim": state_dict["shared.0.block.0.weight"].shape[1],
    }


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict from safetensors or from a pickle; everything in it must be a tensor."""
    content = read_pickle_or_safetensors(path)
    _refuse_other_values(content, f"{path}", "expected a plain state dict")
    return content


def _refuse_other_values(content: Mapping[str, Any], name: str, advice: str) -> None:
    if not_tensors := [key for key, value in content.items() if not isinstance(value, torch.Tensor)]:
        raise ValueError(f"{name}: {not_tensors[0]!r} is not a tensor; {advice}.")


def read_pickle_or_safetensors(path: Path) -> dict[str, Any]:
    """Read a weights file; a pickle can yield tensors and plain values only, never run code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        check_weight_files([path])
        return load_file(path)
    return load_pickle(path)


def _find_file(source: str | os.PathLike[str], names: tuple[str, ...], what: str, hub_options: dict[str, Any]) -> Path:
    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        for name in names:
            if (folder / name).is_file():
                return folder / name
        present = ", ".join(sorted(item.name for item in folder.iterdir())) or "nothing"
        raise FileNotFoundError(f"{folder}: the {what} folder holds none of {', '.join(names)} (found: {present}).")
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise FileNotFoundError(f"{source}: no such folder, and not a Hub id of the form owner/name.")
    errors = []
    for name in names:
        try:
            found = cached_file(str(source), name, **choose_hub_options(str(source), hub_options, names))
        except OSError as error:
            errors.append(error)
        else:
            return Path(found)
    raise FileNotFoundError(
        f"{source}: cannot get the {what} ({', '.join(names)}) from the Hub: {errors[0]} "
        f"To work offline, run `hf download {source}` once while connected, or pass a local folder."
    ) from errors[0]
