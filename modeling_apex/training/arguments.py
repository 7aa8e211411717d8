"""
What a training run can be told: one dataclass, two presets, and small JSON files of differences.

Standard library only, so that the command line answers `--help` without loading torch. The 24
published conditions (arXiv 2605.03395) are options here: mode x task x loss x trunk depth.
"""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

LOSSES = ("equal", "weighted", "uncertainty")
CHOICES: Mapping[str, Sequence[Any]] = {
    "model_type": ("apex", "spectrogram-fusion"),
    "branches": ("fused", "audio", "features"),
    "leaking_features": ("drop", "keep"),
    "mode": ("song", "segment"),
    "task": ("popularity", "full"),
    "loss": LOSSES,
    "num_shared_layers": (2, 3),
    "selection": ("loss", "spearman"),
    "mixed_precision": ("no", "fp16", "bf16"),
    "initial_heads": ("new", "model"),
    "report_to": ("auto", "none", "tensorboard", "trackio"),
}

# What differs from the defaults, which are the published hyper-parameters.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "published": {},
    "improved": {
        # Errors in units of each label's own variance: a head counts by how well it does, not by its range.
        "standardize_targets": True,
        # At the published rate a log sigma can move by about 0.26 in a whole run, far from where it wants to be.
        "sigma_learning_rate": 1e-2,
        "learning_rate": 1e-3,
        # Published selection uses a loss that holds the learned sigmas; a rank correlation none of them can move.
        "selection": "spearman",
        "require_grouped_splits": True,
    },
    # A network that learns from nothing on one song at a time: small batches, a high rate, few epochs.
    "fusion": {
        "model_type": "spectrogram-fusion",
        "loss": "equal",
        "standardize_targets": True,
        "selection": "spearman",
        "require_grouped_splits": True,
        "num_epochs": 8,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "weight_decay": 1e-2,
        "patience": 8,
        "max_segments_per_song": 1,
    },
}
DEFAULT_PRESETS: Mapping[str, str] = {"apex": "published", "spectrogram-fusion": "fusion"}


def _describe(help_text: str, default: Any) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True)
class ApexTrainingArguments:
    """Options of a training run. Each field's `metadata["help"]` says what it is; the defaults are the published."""

    mode: str = _describe("song: score the mean of a song's segments; segment: score each segment", "song")
    task: str = _describe("popularity: its heads alone; full: every head", "full")
    loss: str = _describe("how the heads' errors add up", "uncertainty")
    num_shared_layers: int = _describe("depth of the trunk that all heads share", 2)
    num_epochs: int = _describe("passes over the training songs", 50)
    batch_size: int = _describe("songs (or segments) of one batch, over all processes together", 512)
    gradient_accumulation_steps: int = _describe("batches that one step of the optimizer sums up", 1)
    learning_rate: float = _describe("peak learning rate; falls to zero along a cosine", 1e-4)
    sigma_learning_rate: float | None = _describe("learning rate of the uncertainty loss's sigmas, if another", None)
    weight_decay: float = _describe("weight decay of AdamW", 1e-4)
    max_grad_norm: float = _describe("norm that gradients are clipped to", 1.0)
    patience: int = _describe("epochs without a better selection metric before training stops", 20)
    selection: str = _describe("what picks the best epoch: validation loss, or mean Spearman on validation", "loss")
    standardize_targets: bool = _describe("divide each head's error by the variance of its training labels", False)
    popularity_weight: float = _describe("weight of popularity in the weighted loss", 5.0)
    require_grouped_splits: bool = _describe("refuse a group that is both in train and in validation", False)
    initial_heads: str = _describe("new: start from random heads; model: go on from those of the model", "new")
    mixed_precision: str = _describe("precision of the products", "no")
    seed: int = _describe("seed of initial weights, order of songs, and dropout", 42)
    report_to: str = _describe("experiment tracker; auto: those that are installed", "auto")
    train_encoder: bool = _describe("train the encoder as well, end to end from audio", False)
    encoder_learning_rate: float = _describe("learning rate of encoder and layer mix, with train_encoder", 1e-5)
    max_segments_per_song: int = _describe("segments of a song per step, drawn anew, when learning from audio", 2)
    gradient_checkpointing: bool = _describe("trade time for memory in the encoder, with train_encoder", False)
    model_type: str = _describe("what to train: the heads of an APEX model, or a spectrogram-fusion model", "apex")
    branches: str = _describe("spectrogram-fusion: learn from audio and track features, or from one of them", "fused")
    leaking_features: str = _describe("spectrogram-fusion: features computed from how a track did", "drop")
    target_column: str = _describe("spectrogram-fusion: column of the popularity, 0 to 100", "popularity")
    hit_threshold: float = _describe("spectrogram-fusion: popularity from which a track is a hit", 50.0)
    segment_seconds: float = _describe("spectrogram-fusion: length of a segment, in seconds", 10.0)
    crop_share: float = _describe("spectrogram-fusion: share of a segment that a step hears", 0.3)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            choices = CHOICES.get(option.name)
            if choices is not None and value not in choices:
                raise ValueError(f"`{option.name}` must be one of {', '.join(map(str, choices))}, got {value!r}.")
            if isinstance(option.default, bool):
                if not isinstance(value, bool):
                    raise TypeError(f"`{option.name}` must be true or false, got {value!r}.")
            elif isinstance(option.default, int):
                if isinstance(value, bool) or not isinstance(value, int):
                    raise TypeError(f"`{option.name}` must be an integer, got {value!r}.")
            elif isinstance(option.default, float) and (
                isinstance(value, bool) or not isinstance(value, (int, float))
            ):
                raise TypeError(f"`{option.name}` must be a number, got {value!r}.")
        for name in ("num_epochs", "gradient_accumulation_steps", "patience", "max_segments_per_song"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.batch_size < 2:
            raise ValueError(f"`batch_size` must be at least 2, for batch norm, got {self.batch_size}.")
        for name in ("learning_rate", "encoder_learning_rate", "max_grad_norm", "popularity_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if not 0 < self.hit_threshold <= 100:
            raise ValueError(f"`hit_threshold` must be above 0 and at most 100, got {self.hit_threshold}.")
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"`crop_share` must be above 0 and at most 1, got {self.crop_share}.")
        if not self.segment_seconds > 0:
            raise ValueError(f"`segment_seconds` must be positive, got {self.segment_seconds}.")
        if self.model_type == "spectrogram-fusion" and (self.train_encoder or self.mode != "song"):
            raise ValueError(
                "a spectrogram-fusion model always learns from audio and scores whole songs: leave out train_encoder "
                "and mode."
            )
        if self.sigma_learning_rate is not None and not self.sigma_learning_rate > 0:
            raise ValueError(f"`sigma_learning_rate` must be positive, got {self.sigma_learning_rate}.")
        if self.weight_decay < 0:
            raise ValueError(f"`weight_decay` must not be negative, got {self.weight_decay}.")


def build_arguments(preset: str = "published", **differences: Any) -> ApexTrainingArguments:
    """
    Build the arguments of a run from a preset and what differs from it.

    Args:
        preset (`str`, defaults to `"published"`):
            `"published"`: the hyper-parameters of arXiv 2605.03395. `"improved"`: standardised targets, a learning
            rate of their own for the sigmas, selection by rank correlation, grouped splits. `"fusion"`: a
            spectrogram-fusion model.
        differences:
            Fields of [`ApexTrainingArguments`].

    Returns:
        [`ApexTrainingArguments`]

    Raises:
        `ValueError`: If the preset or a field is unknown, or a value makes no sense.
        `TypeError`: If a value has the wrong type.
    """
    if preset not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {preset!r}.")
    known = [option.name for option in fields(ApexTrainingArguments)]
    for name in differences:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}."
            raise ValueError(f"unknown training argument {name!r}{hint}")
    return ApexTrainingArguments(**{**PRESETS[preset], **differences})


def load_differences(path: str | os.PathLike) -> dict[str, Any]:
    """
    Read a JSON file of differences: an object of argument names and values, optionally with `preset`.

    Raises:
        `FileNotFoundError`: If there is no such file.
        `ValueError`: If it is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of training arguments.")
    try:
        differences = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(differences, dict):
        raise ValueError(f'{path}: expected a JSON object such as {{"learning_rate": 0.001}}, got {differences!r}.')
    return differences
