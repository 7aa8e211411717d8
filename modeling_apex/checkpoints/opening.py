"""
What the installed package does with a checkpoint before transformers builds a model for it.

What comes in is a source and its config; what leaves is what `from_pretrained` is to load: the checkpoint itself, once
the headers of its weight files were checked, or the weights of the published layout, read from two places into one
state dict. `registration` hangs [`open_checkpoint`] into the models; code that comes with a checkpoint has none of it.
"""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import HubertConfig
from transformers.utils import cached_file

from modeling_apex.checkpoints.limits import check_shard_names, check_weight_files, count_numbers
from modeling_apex.checkpoints.published import read_encoder, read_heads
from modeling_apex.storage.output_folder import load_fields

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


def open_checkpoint(
    model_class: Any, source: Any, config: Any, options: dict[str, Any], strict: bool
) -> tuple[Any, dict[str, Any]]:
    """
    Look at a checkpoint before it is loaded.

    Args:
        model_class (`type`), source (`str` or `os.PathLike`, *optional*):
            The class of the model, and a folder or a Hub id.
        config ([`ApexConfig`] or [`SpectrogramFusionConfig`]):
            The config; completed, where the published layout leaves the encoder to another place.
        options (`dict`), strict (`bool`):
            Other arguments of `from_pretrained`, and whether the weights must be those that the config describes.

    Returns:
        `tuple[Any, dict]`: the source that transformers loads, `None` where `options` hold the weights, and `options`.

    Raises:
        `ValueError`: If a weight file is damaged, or holds far more or less than its config describes.
        `FileNotFoundError`: If there are no safetensors weights, or the published layout's encoder cannot be reached.
    """
    if options.get("state_dict") is not None or source is None:
        return source, options
    if getattr(config, "mert_model_name", None):
        return None, _read_published_layout(source, config, options)
    _check_weights(source, _count_numbers(model_class, config) if strict else None, options)
    return source, options


def _count_numbers(model_class: Any, config: Any) -> int:
    """Count the numbers that a checkpoint of `config` holds, without allocating them."""
    if config.model_type == "apex":
        return count_numbers(config)  # by arithmetic
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in model_class(config).state_dict().values())


def _check_weights(source: Any, num_expected: int | None, options: dict[str, Any]) -> None:
    hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
    hub_options["_raise_exceptions_for_missing_entries"] = False
    variant = f".{options['variant']}" if options.get("variant") else ""

    def find(name: str) -> Path | None:
        found = cached_file(source, name, **hub_options)
        return None if found is None else Path(found)

    weights = find(f"model{variant}.safetensors")
    if weights is not None:
        check_weight_files([weights], num_expected)
        return
    index = find(f"model.safetensors.index{variant}.json")
    if index is None:
        where = "" if os.path.isdir(source) else ", or the Hub cannot be reached and the cache has none"
        raise FileNotFoundError(
            f"{source}: holds no model{variant}.safetensors{where}. Pickles (pytorch_model.bin and the like) can run "
            "code and are not loaded; `apex-music convert` makes safetensors of published ones."
        )
    names = check_shard_names(index, load_fields(index, "Download the model again.").get("weight_map"))
    shards = [find(name) for name in names]
    missing = [name for name, shard in zip(names, shards, strict=True) if shard is None]
    if missing:
        raise FileNotFoundError(f"{source}: {', '.join(missing[:5])} is missing; {index.name} names it.")
    check_weight_files([shard for shard in shards if shard is not None], num_expected)


def _read_published_layout(source: Any, config: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Turn the published layout (heads here, encoder elsewhere) into one state dict and a complete config."""
    hub_options = {name: options[name] for name in HUB_OPTIONS if name in options}
    heads = read_heads(source, **hub_options)
    # The revision and subfolder belong to the heads' repository, not to the encoder's.
    encoder_options = {name: value for name, value in hub_options.items() if name not in ("revision", "subfolder")}
    encoder = read_encoder(config.mert_model_name, **encoder_options)
    config.encoder_config = HubertConfig(**encoder.config["encoder_config"])
    config.validate_encoder()
    config.provenance = {
        **config.provenance,
        "encoder": {"source": encoder.source, "sha256": encoder.hashes},
        "heads": {"source": heads.source, "sha256": heads.hashes},
    }
    config.mert_model_name = config.input_dim = None
    taken = {*HUB_OPTIONS, "use_safetensors", "trust_remote_code"}
    rest = {name: value for name, value in options.items() if name not in taken}
    return {**rest, "state_dict": {**encoder.state_dict, **heads.state_dict}}
