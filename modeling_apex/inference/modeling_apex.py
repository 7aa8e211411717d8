"""
The APEX model: rooms 5 to 9, from segment features (or stored embeddings) to scores.

Shape legend: B songs, S segments, N real segments of all songs, T samples of a segment (720,000), F frames (2,249 for
30 s; 75 a second), L chosen layers (4), D hidden size (768), H scores (7).

The encoder is transformers' own HuBERT, which MERT-v1 is; it is built from `config.encoder_config`, and its code is
never fetched. Hidden states are averaged over time as they pass, so memory does not grow with the number of layers,
and segments pass in small groups, so it does not grow with the length of a song. The installed package hangs what
is faster, and what reads other layouts, into the class attributes that say so; beside a checkpoint they are `None`.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import HubertModel, PreTrainedModel
from transformers.utils import ModelOutput, logging

from .audio_limits_apex import INSTALL_PACKAGE
from .configuration_apex import ApexConfig
from .score_heads_apex import ScoreHeadsMixin, weigh_segments

logger = logging.get_logger(__name__)

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


@dataclass
class ApexOutput(ModelOutput):
    """Output of [`ApexModel`]: scores in native units, in the order of `config.heads`, and what they are made of."""

    loss: torch.Tensor | None = None  # (), where labels are given: see `compute_masked_squared_error`
    scores: torch.Tensor | None = None  # (B, H)
    song_embedding: torch.Tensor | None = None  # (B, D), the mean of the segment embeddings of each song
    segment_embeddings: torch.Tensor | None = None  # (B, S, D), zero where `segment_mask` is false
    segment_scores: torch.Tensor | None = None  # (B, S, H), of each segment on its own, where asked for


def pool_hidden_states(encoder: HubertModel, input_values: torch.Tensor, layer_indices: Iterable[int]) -> torch.Tensor:
    """
    Run a HuBERT encoder and average the chosen hidden states over time as they pass.

    Equal to `encoder(input_values, output_hidden_states=True).hidden_states[i].mean(1)` for each `i`, without keeping
    the others. In an encoder with `do_stable_layer_norm` (MERT-v1-330M), the last entry is the output of the final
    layer norm, as it was where MERT was published; transformers now lists the state before that norm. Layer drop and
    time masking, which belong to the encoder's pre-training, do not happen here.

    Args:
        encoder (`HubertModel`): The encoder.
        input_values (`torch.FloatTensor` of shape `(num_segments, num_samples)`): Normalised segments.
        layer_indices (`Iterable[int]`): Entries of the hidden states, as in `config.layer_indices`.

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
        hidden = layer(hidden)  # (N, F, D)
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
    # In the installed package: what checks a checkpoint and reads other layouts, before transformers builds a model.
    open_checkpoint: ClassVar[Callable[..., tuple[Any, dict[str, Any]]] | None] = None
    keep_weights: ClassVar[Callable[[Any], None] | None] = None  # and what keeps them, whatever becomes of the file

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

        Takes all arguments of `PreTrainedModel.from_pretrained` and, in the installed package, the published
        `amaai-lab/apex` layout, whose encoder is read from `config.mert_model_name`. `strict=False` is for surgery
        only: what is missing is then random.

        Raises:
            `RuntimeError`: If the checkpoint does not match the model.
            `ValueError`: If a weight file is damaged, or holds far more or less than its config describes.
            `OSError`: If there are no safetensors weights, or the published layout's encoder cannot be reached.
        """
        name, source = str(pretrained_model_name_or_path), pretrained_model_name_or_path
        config, kwargs = cls._load_config(source, config, kwargs)
        commit = _find_commit(name, kwargs)
        if cls.open_checkpoint is not None:
            source, kwargs = cls.open_checkpoint(cls, source, config, kwargs, strict)
        elif getattr(config, "mert_model_name", None):
            raise ValueError(
                f"{name}: names its encoder ({config.mert_model_name}) and does not contain it. The package "
                f"apex-music reads such a model: {INSTALL_PACKAGE}"
            )
        if source is not None and kwargs.get("state_dict") is None:
            kwargs["use_safetensors"] = True
        if strict:  # let transformers report misshapen weights, so that the error below can name them
            kwargs["ignore_mismatched_sizes"] = True
        try:
            model, info = super().from_pretrained(
                source, *model_args, config=config, output_loading_info=True, **kwargs
            )
        except OSError as error:
            if cls.open_checkpoint is not None:  # it found the weights in order, so this is something else
                raise
            raise OSError(
                f"{error} Only safetensors are loaded, since pickles can run code. `apex-music convert` makes them of "
                f"published pickles; it is in the package apex-music: {INSTALL_PACKAGE}"
            ) from error
        model.config._name_or_path, model.config._commit_hash = name, commit
        kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
        problems = {kind: sorted(map(str, info[kind])) for kind in kinds if info.get(kind)}
        if strict and problems:
            raise RuntimeError(
                f"{name}: the checkpoint does not match {cls.__name__}: {problems}. Load it "
                "with the config it was saved with, or make a checkpoint with `apex-music convert`."
            )
        model.apply_encoder_freeze()
        if cls.keep_weights is not None:
            cls.keep_weights(model)
        return (model, info) if output_loading_info else model

    @classmethod
    def _load_config(cls, source: Any, config: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the config, loaded if it is not yet, and the arguments that are left for the model."""
        if config is not None and not isinstance(config, (str, bytes)):
            return config, kwargs
        hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        config, kwargs = cls.config_class.from_pretrained(config or source, return_unused_kwargs=True, **kwargs)
        return config, {**kwargs, **hub_options}

    def apply_encoder_freeze(self) -> None:
        """Keep the encoder's parameters in or out of training, as `config.freeze_encoder` says."""


class ApexModel(ScoreHeadsMixin, ApexPreTrainedModel):
    """Score songs: HuBERT encoder, mix of layers, mean over segments, trunk, one branch for each of `config.heads`."""

    # What encodes segments `(n, T)` to pooled layers `(n, L, D)` instead of `encoder`, where no gradient is asked for.
    encoder_engine: Callable[[torch.Tensor], torch.Tensor] | None = None

    # In the installed package: what chooses that for a model that has none, or `None` for the encoder itself.
    choose_encoder: ClassVar[Callable[[Any], Callable[[torch.Tensor], torch.Tensor] | None] | None] = None

    def __init__(self, config: ApexConfig):
        super().__init__(config)
        self.encoder = HubertModel(config.encoder_config)
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
        is_on_cpu = segments.device.type == "cpu"
        if not torch.is_grad_enabled():
            encode = self.encoder_engine
            if encode is None and is_on_cpu and self.choose_encoder is not None:
                encode = self.choose_encoder()
            if encode is not None:
                return encode(segments)
            if self.choose_encoder is None:
                logger.warning_once(f"The package apex-music gives the same scores faster: {INSTALL_PACKAGE}")
        # One 30 s segment already fills a CPU's caches, and on this path nothing bounds what several would take.
        group = self.segments_per_pass or (1 if is_on_cpu else len(segments))
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
        num_real_samples: torch.LongTensor | None = None,
        tail: str | None = None,
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
            num_real_samples (`torch.LongTensor` of shape `(batch_size, num_segments)`), tail (`str`, *optional*):
                Samples of each segment before its padding, and what the last one counts, instead of `config.tail`.
            output_segment_scores (`bool`), return_dict (`bool`):
                Whether to score each segment on its own as well, and to return an [`ApexOutput`] (the default).

        Raises:
            `ValueError`: If the inputs are missing, given twice or of a wrong shape, or a song has no segment.
            `FloatingPointError`: If the encoder or a head yields NaN or infinity.
        """
        embeddings, mask = self._gather_segments(input_values, segment_mask, segment_embeddings)  # (N, D), (B, S)
        weights = weigh_segments(mask, num_real_samples, self.config, tail)  # (B, S)
        song = self.score_songs(embeddings, mask, weights, output_segment_scores)
        output = ApexOutput(
            loss=None if labels is None else compute_masked_squared_error(song.scores, labels), **song._asdict()
        )
        return output if return_dict in (None, True) else output.to_tuple()


def compute_masked_squared_error(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Sum over the heads of the mean squared error, over the labels that are there: `()`.

    Args:
        scores (`torch.FloatTensor` of shape `(batch_size, num_heads)`): Scores in native units.
        labels (`torch.FloatTensor` of the same shape): Labels in native units; NaN where a label is missing.

    Raises:
        `ValueError`: If the shapes differ.
    """
    if labels.shape != scores.shape:
        raise ValueError(
            f"`labels` are {tuple(labels.shape)} but the scores are {tuple(scores.shape)}; give one column per head, "
            "in the order of `config.heads`, with NaN where a label is missing."
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
