"""
The APEX model: rooms 5 to 9, from segment features (or stored embeddings) to scores.

Shape legend: B songs, S segments, N real segments of all songs, T samples of a segment (720,000), F frames (2,249 for
30 s; 75 a second), L chosen layers (4), D hidden size (768), H scores (7).

The encoder is transformers' own HuBERT, which MERT-v1 is; it is built from `config.encoder_config`, and its code is
never fetched. Hidden states are averaged over time as they pass, so memory does not grow with the number of layers,
and segments pass in small groups, so it does not grow with the length of a song. On a CPU, where no gradient is
wanted, the same weights run through `packed_encoder_apex`, which is equal within rounding and faster.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import HubertConfig, HubertModel, PreTrainedModel
from transformers.utils import ModelOutput, cached_file

from .checkpoint_limits_apex import check_shard_names, check_weight_files, count_numbers
from .configuration_apex import ApexConfig

# As remote code, an entry file must name all that it needs, at any depth: early 5.x releases copy no more than that.
from .configuration_fields_apex import ApexFields  # noqa: F401
from .heads_apex import DEFAULT_HEADS  # noqa: F401
from .mapped_weights_apex import page_out  # noqa: F401
from .packed_encoder_apex import PackedEncoderCache
from .packed_linear_apex import build_linear  # noqa: F401
from .published_apex import read_encoder, read_heads
from .score_heads_apex import LinearBlock, ScoreBranch, ScoreHeadsMixin
from .worker_threads_apex import count_workers  # noqa: F401

__all__ = [
    "ApexModel",
    "ApexOutput",
    "ApexPreTrainedModel",
    "LinearBlock",
    "ScoreBranch",
    "compute_masked_squared_error",
    "pool_hidden_states",
]

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


@dataclass
class ApexOutput(ModelOutput):
    """
    Output of [`ApexModel`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` are given):
            Sum over the heads of the mean squared error, in squared native units; missing labels are left out.
        scores (`torch.FloatTensor` of shape `(batch_size, num_heads)`):
            Scores in native units, in the order of `config.heads`.
        song_embedding (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            Mean of the segment embeddings of each song.
        segment_embeddings (`torch.FloatTensor` of shape `(batch_size, num_segments, hidden_size)`):
            Embedding of each segment; zero where `segment_mask` is false.
        segment_scores (`torch.FloatTensor` of shape `(batch_size, num_segments, num_heads)`, *optional*, returned when
            `output_segment_scores=True`):
            Scores of each segment on its own; zero where `segment_mask` is false.
    """

    loss: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    song_embedding: torch.Tensor | None = None
    segment_embeddings: torch.Tensor | None = None
    segment_scores: torch.Tensor | None = None


def pool_hidden_states(encoder: HubertModel, input_values: torch.Tensor, layer_indices: Iterable[int]) -> torch.Tensor:
    """
    Run a HuBERT encoder and average the chosen hidden states over time as they pass.

    Equal to `encoder(input_values, output_hidden_states=True).hidden_states[i].mean(1)` for each `i`, without keeping
    the others. In an encoder with `do_stable_layer_norm` (MERT-v1-330M), the last entry is the output of the final
    layer norm, `last_hidden_state`, as in every transformers release that MERT was published for; newer releases list
    the state before that norm instead. Layer drop and time masking, which belong to the encoder's pre-training, do
    not happen here.

    Args:
        encoder (`HubertModel`):
            The encoder.
        input_values (`torch.FloatTensor` of shape `(num_segments, num_samples)`):
            Normalised segments.
        layer_indices (`Iterable[int]`):
            Entries of the hidden states; 0 is the input of the first layer, negative ones count from the end.

    Returns:
        `torch.FloatTensor` of shape `(num_segments, num_chosen_layers, hidden_size)`: time means, in float32 or finer.
    """
    stack = encoder.encoder
    num_layers = len(stack.layers)
    wanted = [index % (num_layers + 1) for index in layer_indices]
    is_pre_norm = encoder.config.do_stable_layer_norm
    pooled_dtype = torch.promote_types(input_values.dtype, torch.float32)

    features = encoder.feature_extractor(input_values).transpose(1, 2)  # (N, F, C)
    hidden = encoder.feature_projection(features)  # (N, F, D)
    hidden = hidden + stack.pos_conv_embed(hidden)
    hidden = stack.dropout(hidden if is_pre_norm else stack.layer_norm(hidden))

    means = {0: hidden.mean(1, dtype=pooled_dtype)} if 0 in wanted else {}
    for index, layer in enumerate(stack.layers, start=1):
        output = layer(hidden)
        hidden = output[0] if isinstance(output, tuple) else output  # (N, F, D); a tuple before transformers 5.17
        if index == num_layers and is_pre_norm:
            hidden = stack.layer_norm(hidden)
        if index in wanted:
            means[index] = hidden.mean(1, dtype=pooled_dtype)  # (N, D)
    return torch.stack([means[index] for index in wanted], dim=1)  # (N, L, D)


class ApexPreTrainedModel(PreTrainedModel):
    """Initialisation and strict loading, shared by what this package trains."""

    config_class = ApexConfig
    base_model_prefix = "apex"
    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _no_split_modules = ["HubertEncoderLayer", "HubertEncoderLayerStableLayerNorm"]  # noqa: RUF012
    # A score of 60 in bfloat16 is 60 plus or minus a quarter: the heads cost nothing and stay in float32.
    _keep_in_fp32_modules_strict = ["aggregator", "shared", r"branch_\w+"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Linear layers start as PyTorch starts them, which is what the heads were published with; the encoder, being a
        # model of transformers itself, starts by its own rules. Batch norm is left to transformers: its own
        # `reset_parameters` would also wipe running statistics that were just loaded.
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: Any = None,
        strict: bool = True,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        Load a checkpoint; every weight must be there and every stored weight must have a place.

        Takes all arguments of `PreTrainedModel.from_pretrained`, and the published `amaai-lab/apex` layout, whose
        encoder is read from `config.mert_model_name`.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A folder or a Hub id.
            strict (`bool`, defaults to `True`):
                Whether a missing, unexpected or misshapen weight is an error. `False` is for surgery only: what is
                missing is then random.

        Raises:
            `RuntimeError`: If the checkpoint does not match the model.
            `ValueError`: If a weight file is damaged, or holds far more or less than its config describes.
            `FileNotFoundError`: If there are no safetensors weights, or the published layout's encoder cannot be
                reached.
        """
        if config is None or isinstance(config, (str, bytes)):
            hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            source = config or pretrained_model_name_or_path
            config, kwargs = cls.config_class.from_pretrained(
                source, return_unused_kwargs=True, **{**kwargs, **hub_options}
            )
            kwargs.update(hub_options)
        name = str(pretrained_model_name_or_path)
        commit = _find_commit(name, kwargs)
        if getattr(config, "mert_model_name", None) and "state_dict" not in kwargs:
            config, kwargs = _read_published_layout(pretrained_model_name_or_path, config, kwargs)
            pretrained_model_name_or_path = None
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            _check_weights(pretrained_model_name_or_path, cls.count_numbers(config) if strict else None, kwargs)
            kwargs["use_safetensors"] = True
        if strict:  # let transformers report misshapen weights, so that the error below can name them
            kwargs["ignore_mismatched_sizes"] = True
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, config=config, output_loading_info=True, **kwargs
        )
        model.config._name_or_path, model.config._commit_hash = name, commit
        problems = {
            kind: sorted(map(str, info[kind]))
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
            if info.get(kind)
        }
        if strict and problems:
            raise RuntimeError(
                f"{name}: the checkpoint does not match {cls.__name__}: {problems}. Load it "
                "with the config it was saved with, or make a checkpoint with `apex-music convert`."
            )
        model.apply_encoder_freeze()
        return (model, info) if output_loading_info else model

    @classmethod
    def count_numbers(cls, config: Any) -> int:
        """Count the numbers that a checkpoint of `config` holds, without allocating them."""
        with torch.device("meta"):
            return sum(tensor.numel() for tensor in cls(config).state_dict().values())

    def apply_encoder_freeze(self) -> None:
        """Keep the encoder's parameters in or out of training, as `config.freeze_encoder` says."""


class ApexModel(ScoreHeadsMixin, ApexPreTrainedModel):
    """
    Score songs: HuBERT encoder, mix of layers, mean over segments, trunk, one branch a score.

    Args:
        config ([`ApexConfig`]):
            The configuration; `config.heads` decides which scores there are and in which order.
    """

    # What encodes segments `(n, T)` to pooled layers `(n, L, D)` instead of `encoder`, where no gradient is asked for.
    encoder_engine: Callable[[torch.Tensor], torch.Tensor] | None = None

    @classmethod
    def count_numbers(cls, config: Any) -> int:
        """Count the numbers that a checkpoint of `config` holds, by arithmetic."""
        return count_numbers(config)

    def __init__(self, config: ApexConfig):
        super().__init__(config)
        self.encoder = HubertModel(config.encoder_config)
        self._packed_encoders = PackedEncoderCache()
        self.build_heads(config)
        self.post_init()
        self.apply_encoder_freeze()

    def apply_encoder_freeze(self) -> None:
        self.encoder.requires_grad_(not self.config.freeze_encoder)
        self.train(self.training)

    def train(self, mode: bool = True) -> "ApexModel":
        """Set training mode; a frozen encoder stays in evaluation mode, or its dropout would disturb the features."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.encoder.eval()
        return self

    def _encode(self, segments: torch.Tensor) -> torch.Tensor:
        """Pool the chosen layers of segments `(n, T)` the fastest way that gives what is wanted: gradients or not."""
        if not torch.is_grad_enabled():
            if self.encoder_engine is not None:
                return self.encoder_engine(segments)
            packed = self._packed_encoders.get(self.encoder) if segments.device.type == "cpu" else None
            if packed is not None:
                return packed(segments, self.config.layer_indices)
        # One 30 s segment already fills a CPU's caches, and on this path nothing bounds what several would take.
        group = self.segments_per_pass or (1 if segments.device.type == "cpu" else len(segments))
        pooled = [
            pool_hidden_states(self.encoder, some.to(self.encoder.dtype), self.config.layer_indices)
            for some in segments.split(group)
        ]
        return torch.cat(pooled)

    def forward(
        self,
        input_values: torch.FloatTensor | None = None,
        segment_mask: torch.BoolTensor | None = None,
        segment_embeddings: torch.FloatTensor | None = None,
        labels: torch.FloatTensor | None = None,
        output_segment_scores: bool = False,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ApexOutput | tuple[torch.Tensor, ...]:
        """
        Score songs from their segments, or from segment embeddings that were stored before.

        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_segments, num_samples)` or
                `(batch_size, num_samples)`, *optional*):
                Output of [`ApexFeatureExtractor`]. Give this or `segment_embeddings`.
            segment_mask (`torch.BoolTensor` of shape `(batch_size, num_segments)`, *optional*):
                True for real segments; masked ones are not encoded. Defaults to all true.
            segment_embeddings (`torch.FloatTensor` of shape `(batch_size, num_segments, hidden_size)`, *optional*):
                Stored embeddings, as in [`ApexOutput`].
            labels (`torch.FloatTensor` of shape `(batch_size, num_heads)`, *optional*):
                Labels in native units; NaN where a label is missing.
            output_segment_scores (`bool`, defaults to `False`):
                Whether to score each segment on its own as well.
            return_dict (`bool`, *optional*):
                Whether to return an [`ApexOutput`] (the default) or a tuple.

        Raises:
            `ValueError`: If the inputs are missing, doubled or misshapen, or a song has no segment.
            `FloatingPointError`: If the encoder or a head yields NaN or infinity.
        """
        embeddings, mask = self._gather_segments(input_values, segment_mask, segment_embeddings)  # (N, D), (B, S)
        song = self.score_songs(embeddings, mask, output_segment_scores=output_segment_scores)
        output = ApexOutput(
            loss=None if labels is None else compute_masked_squared_error(song.scores, labels), **song._asdict()
        )
        return output if return_dict in (None, True) else output.to_tuple()


def compute_masked_squared_error(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Sum over the heads of the mean squared error, over the labels that are there.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_heads)`):
            Scores in native units.
        labels (`torch.FloatTensor` of shape `(batch_size, num_heads)`):
            Labels in native units; NaN where a label is missing.

    Returns:
        `torch.FloatTensor` of shape `()`.

    Raises:
        `ValueError`: If the shapes differ.
    """
    if labels.shape != scores.shape:
        raise ValueError(
            f"`labels` are {tuple(labels.shape)} but the scores are {tuple(scores.shape)}; give one column a head, in "
            "the order of `config.heads`, with NaN where a label is missing."
        )
    labels = labels.to(scores)
    is_present = ~torch.isnan(labels)
    errors = torch.where(is_present, scores - labels.nan_to_num(), 0.0).square()
    return (errors.sum(0) / is_present.sum(0).clamp(min=1)).sum()


def _find_commit(name: str, options: dict[str, Any]) -> str | None:
    """Return the commit of a Hub model whose config was just loaded, read off the cache; None for a folder."""
    if os.path.isdir(name) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        name, "config.json", cache_dir=options.get("cache_dir"), revision=options.get("revision")
    )
    match = re.search(r"/snapshots/([0-9a-f]{40})/", Path(found).as_posix()) if isinstance(found, str) else None
    return match[1] if match else None


def _check_weights(source: Any, num_expected: int | None, options: dict[str, Any]) -> None:
    """Look at the weight files of a checkpoint, by their headers, before transformers builds a model for them."""
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
    names = check_shard_names(index, json.loads(index.read_text(encoding="utf-8")).get("weight_map"))
    shards = [find(name) for name in names]
    missing = [name for name, shard in zip(names, shards, strict=True) if shard is None]
    if missing:
        raise FileNotFoundError(f"{source}: {', '.join(missing[:5])} is missing; {index.name} names it.")
    check_weight_files([shard for shard in shards if shard is not None], num_expected)


def _read_published_layout(source: Any, config: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Turn the published layout (heads here, encoder elsewhere) into one state dict and a complete config."""
    hub_options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
    kwargs.pop("use_safetensors", None)
    kwargs.pop("trust_remote_code", None)
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
    kwargs["state_dict"] = {**encoder.state_dict, **heads.state_dict}
    return config, kwargs
