"""
Read a model's folder without importing transformers, which takes longer than scoring a song.

What comes in is a folder in this package's own format; what leaves is a [`PlainModel`], which computes by the same
code as `ApexModel` ([`ScoreHeadsMixin`], [`PackedEncoder`]) the same scores, bit for bit.

Only what is plain is read: on a CPU, float32, one file of weights in which each has the name, shape and type that the
config foretells. For anything else [`load_plain_model`] returns `None`, and `ApexModel.from_pretrained`, which knows
what to do or what to say, is called instead. Nothing is refused here, so no message exists twice.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from modeling_apex.engines.encoder_shapes import list_encoder_shapes
from modeling_apex.engines.mapped_weights import WatchedFiles
from modeling_apex.engines.packed_encoder import PackedEncoder, can_arrange
from modeling_apex.inference.configuration_fields_apex import ApexFields, list_fields, set_fields
from modeling_apex.inference.score_heads_apex import ScoreHeadsMixin, SongScores, weigh_segments

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
ENCODER_PREFIX = "encoder."
# What transformers writes into a config.json beside our own fields, and what does not change a score here.
FIELDS_OF_TRANSFORMERS = frozenset(
    {"architectures", "auto_map", "custom_pipelines", "dtype", "model_type", "transformers_version"}
)
# What folders of version 0.1 do not say; the defaults are what they mean.
LATER_FIELDS = frozenset({"tail", "tail_seconds", "reference"})
# What must be known of the encoder, and the type that it has in JSON.
ENCODER_FIELDS: Mapping[str, type] = {
    "conv_bias": bool,
    "conv_dim": list,
    "conv_kernel": list,
    "conv_pos_batch_norm": bool,
    "conv_stride": list,
    "do_stable_layer_norm": bool,
    "feat_extract_activation": str,
    "feat_extract_norm": str,
    "feat_proj_layer_norm": bool,
    "hidden_act": str,
    "hidden_size": int,
    "intermediate_size": int,
    "layer_norm_eps": float,
    "mask_feature_prob": float,
    "mask_time_prob": float,
    "num_attention_heads": int,
    "num_conv_pos_embedding_groups": int,
    "num_conv_pos_embeddings": int,
    "num_hidden_layers": int,
}
# Fields that choose another encoder than the one that is computed here.
ENCODER_VARIANTS = ("_attn_implementation", "adapter_attn_dim", "attn_implementation", "quantization_config")


class PlainModel(ScoreHeadsMixin, nn.Module):
    """
    An `ApexModel` for inference on a CPU: the same heads behind the packed encoder, which [`can_arrange`] accepts.

    It is born without weights, and can score from `load_weights` on.
    """

    device = torch.device("cpu")

    def __init__(self, config: ApexFields):
        super().__init__()
        self.config = config
        with torch.device("meta"):  # shapes and types, no memory
            self.build_heads(config)
        self.encoder_weights: dict[str, torch.Tensor] = {}
        self.weight_files: WatchedFiles | None = None
        self.eval()

    def list_weights(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """List shape and type of each entry of an `ApexModel`'s state dict, encoder and all."""
        heads = {name: (tuple(weight.shape), weight.dtype) for name, weight in super().state_dict().items()}
        encoder = list_encoder_shapes(self.config.encoder_config)
        return {**{f"{ENCODER_PREFIX}{name}": (shape, torch.float32) for name, shape in encoder.items()}, **heads}

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the weights that `list_weights` names; of the encoder's, what scores needs is packed, and so copied."""
        self.encoder_weights = {name: weight for name, weight in weights.items() if name.startswith(ENCODER_PREFIX)}
        # Copied: a file that is overwritten in mid-run must change no score.
        heads = {name: weight.clone() for name, weight in weights.items() if name not in self.encoder_weights}
        self.load_state_dict(heads, assign=True)
        encoder = {name.removeprefix(ENCODER_PREFIX): weight for name, weight in self.encoder_weights.items()}
        self.packed_encoder = PackedEncoder(encoder, self.config.encoder_config)

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """
        Return what an `ApexModel` of this folder returns: the weights as they were loaded, encoder and all.

        Raises:
            `ValueError`: If their file was changed since.
        """
        if self.weight_files is not None:
            self.weight_files.check()
        return {**self.encoder_weights, **super().state_dict(*arguments, **options)}

    def num_parameters(self) -> int:
        """Count the parameters, encoder and all."""
        return sum(weight.numel() for weight in (*self.encoder_weights.values(), *self.parameters()))

    def _encode(self, segments: torch.Tensor) -> torch.Tensor:
        return self.packed_encoder(segments, self.config.layer_indices)

    def forward(
        self,
        segment_embeddings: torch.Tensor,
        output_segment_scores: bool = False,
        num_real_samples: torch.Tensor | None = None,
        tail: str | None = None,
    ) -> SongScores:
        """Score songs from their segment embeddings `(B, S, D)`, as `ApexModel` does."""
        embeddings, mask = self._gather_segments(None, None, segment_embeddings)  # (N, D), (B, S)
        weights = weigh_segments(mask, num_real_samples, self.config, tail)  # (B, S)
        return self.score_songs(embeddings, mask, weights, output_segment_scores)


def load_plain_model(folder: str | os.PathLike[str], *, device: str | None = None) -> PlainModel | None:
    """
    Load a model without transformers, or return `None` where transformers is due.

    That is for a Hub id, a folder that is not plain, and any device but the CPU; an accelerator is the default.
    """
    name = os.path.expanduser(os.fspath(folder))
    folder = Path(name)
    if not folder.is_dir() or device not in (None, "cpu") or (device is None and torch.accelerator.is_available()):
        return None
    if (folder / "adapter_config.json").exists():  # transformers would put the adapter on top
        return None
    config: Any = _read_config(folder / CONFIG_FILE)
    weights = _read_weights(folder / WEIGHTS_FILE)
    if config is None or weights is None:
        return None
    config._name_or_path = name
    model = PlainModel(config)
    model.weight_files = WatchedFiles([folder / WEIGHTS_FILE])
    if {name: (tuple(weight.shape), weight.dtype) for name, weight in weights.items()} != model.list_weights():
        return None
    model.load_weights(weights)
    return model


def _read_config(path: Path) -> ApexFields | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or fields.get("model_type") != "apex" or fields.get("mert_model_name") is not None:
        return None
    names, own = set(fields), list_fields(ApexFields)
    if not set(own) - LATER_FIELDS <= names or names - set(own) - FIELDS_OF_TRANSFORMERS:
        return None
    encoder = _read_encoder_config(fields["encoder_config"])
    if encoder is None:
        return None
    config = ApexFields()
    try:
        set_fields(config, {**{name: fields[name] for name in own if name in fields}, "encoder_config": encoder})
        if config.validate_encoder is not None:
            config.validate_encoder()
    except (TypeError, ValueError):
        return None
    return config


def _read_encoder_config(fields: Any) -> SimpleNamespace | None:
    if not isinstance(fields, dict) or fields.get("model_type", "hubert") != "hubert":
        return None
    if any(fields.get(name) is not None for name in ENCODER_VARIANTS):
        return None
    if not all(_has_type(fields.get(name), kind) for name, kind in ENCODER_FIELDS.items()):
        return None
    # Sizes, and whether they fit together, are for `validate_encoder`.
    encoder = SimpleNamespace(**{name: fields[name] for name in ENCODER_FIELDS})
    return encoder if can_arrange(encoder) else None


def _has_type(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1  # none has more
    return type(value) is kind


def _read_weights(path: Path) -> dict[str, torch.Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != "pt":
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError):
        return None
