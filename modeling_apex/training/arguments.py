"""
What a training run can be told: one dataclass, three presets, and small JSON files of differences.

Standard library only, so that the command line answers `--help` without loading torch. The 24
published conditions (arXiv 2605.03395) are options here: mode x task x loss x trunk depth.
"""

import difflib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_args

TAILS = ("full", "weighted", "drop")
LOSSES = ("equal", "weighted", "uncertainty")


class Limit(NamedTuple):
    """What a number must be, in words that follow "must", and a test of it."""

    words: str
    holds: Callable[[Any], bool]


POSITIVE = Limit("be positive", lambda value: value > 0)
NOT_NEGATIVE = Limit("not be negative", lambda value: value >= 0)
AT_LEAST_ONE = Limit("be at least 1", lambda value: value >= 1)
A_BATCH = Limit("be at least 2, for batch norm", lambda value: value >= 2)
A_SHARE = Limit("be above 0 and at most 1", lambda value: 0 < value <= 1)
A_POPULARITY = Limit("be above 0 and at most 100", lambda value: 0 < value <= 100)
A_NAME = Limit("not be empty", bool)
A_SEED = Limit("be at least 0 and below 2**63", lambda value: 0 <= value < 2**63)

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
        # As published, a song of 30.1 s takes half its score from 0.1 s and the silence after it.
        "tail": "weighted",
    },
    # A network that learns from nothing on one song at a time: small batches, a high rate, few epochs.
    "fusion": {
        "model_type": "spectrogram-fusion",
        "loss": "equal",
        "standardize_targets": True,
        "selection": "spearman",
        "require_grouped_splits": True,
        "num_epochs": 8,
        "learning_rate": 2e-3,
        "weight_decay": 1e-2,
        "patience": 8,
        "max_segments_per_song": 1,
    },
}
DEFAULT_PRESETS: Mapping[str, str] = {"apex": "published", "spectrogram-fusion": "fusion"}

# The batch size of a run that names none, by what is trained: as published for heads, what memory holds from audio.
LARGEST_BATCHES: Mapping[str, int] = {"heads": 512, "encoder": 16, "fusion": 32}
# A small dataset gets smaller batches: at one step an epoch, heads end far behind a constant.
MINIMUM_NUM_STEPS = 24  # of the optimizer in an epoch
SMALLEST_BATCH = 8  # below, batch norm sees noise


def _option(group: str, default: Any, help_text: str, limit: Limit | Sequence[Any] | None = None) -> Any:
    """Declare an option: where `--help` shows it, what it is, and its choices or the limit of its values."""
    choices, limit = (None, limit) if isinstance(limit, Limit) else (limit, None)
    return field(default=default, metadata={"group": group, "help": help_text, "choices": choices, "limit": limit})


WHAT, STEPS, LOSS = "what is trained", "steps and learning rates", "loss and targets"
BEST, AUDIO = "validation and the best epoch", "learning from audio (--train-encoder, spectrogram-fusion)"
FUSION, RUN = "spectrogram-fusion (--model-type spectrogram-fusion)", "the run"


@dataclass(frozen=True)
class ApexTrainingArguments:
    """
    Options of a training run; the defaults are the published.

    Each field's metadata has its `group` and `help` for the command line, and its `choices` or `limit`.

    Raises:
        `ValueError`: If a value is out of range, or two do not go together.
        `TypeError`: If a value has the wrong type.
    """

    mode: str = _option(WHAT, "song", "score the mean of a song's segments, or each segment", ("song", "segment"))
    task: str = _option(WHAT, "full", "popularity: its heads alone; full: every head", ("popularity", "full"))
    model_type: str = _option(WHAT, "apex", "APEX's heads, or another network", ("apex", "spectrogram-fusion"))
    train_encoder: bool = _option(WHAT, False, "train the encoder as well, end to end from audio")
    tail: str = _option(
        WHAT, "full", "what a padded last segment counts: in full, by its seconds, or nothing if short", TAILS
    )
    num_shared_layers: int = _option(WHAT, 2, "depth of the trunk that all heads share", (2, 3))
    initial_heads: str = _option(WHAT, "new", "start from random heads, or from those of the model", ("new", "model"))
    num_epochs: int = _option(
        STEPS, 50, "passes over the training songs; with --resume more than before extends a run", AT_LEAST_ONE
    )
    batch_size: int | None = _option(
        STEPS,
        None,
        "songs (or segments) of a batch, over all processes together (default: 512, with --train-encoder 16, of "
        "spectrogram-fusion 32, or fewer where an epoch would have fewer than 24 steps)",
        A_BATCH,
    )
    gradient_accumulation_steps: int = _option(STEPS, 1, "batches that one optimizer step sums up", AT_LEAST_ONE)
    learning_rate: float = _option(STEPS, 1e-4, "peak learning rate; falls to zero along a cosine", POSITIVE)
    weight_decay: float = _option(STEPS, 1e-4, "weight decay of AdamW", NOT_NEGATIVE)
    max_grad_norm: float = _option(STEPS, 1.0, "norm that gradients are clipped to", POSITIVE)
    loss: str = _option(LOSS, "uncertainty", "how the heads' errors add up", LOSSES)
    standardize_targets: bool = _option(LOSS, False, "divide each head's error by the variance of its training labels")
    popularity_weight: float = _option(LOSS, 5.0, "weight of popularity in the weighted loss", POSITIVE)
    sigma_learning_rate: float | None = _option(LOSS, None, "learning rate of learned sigmas, if different", POSITIVE)
    selection: str = _option(BEST, "loss", "pick the best epoch by loss, or by mean Spearman", ("loss", "spearman"))
    patience: int = _option(BEST, 20, "epochs without a better one before training stops", AT_LEAST_ONE)
    require_grouped_splits: bool = _option(BEST, False, "refuse a group that is both in train and in validation")
    max_segments_per_song: int = _option(AUDIO, 2, "segments of a song per step, drawn at random", AT_LEAST_ONE)
    encoder_learning_rate: float = _option(AUDIO, 1e-5, "learning rate of encoder and layer mix", POSITIVE)
    gradient_checkpointing: bool = _option(AUDIO, False, "save memory in the encoder at the cost of time")
    branches: str = _option(FUSION, "fused", "what to learn from, both or one", ("fused", "audio", "features"))
    leaking_features: str = _option(FUSION, "drop", "features computed from a track's success", ("drop", "keep"))
    target_column: str = _option(FUSION, "popularity", "column of the popularity, 0 to 100", A_NAME)
    hit_threshold: float = _option(FUSION, 50.0, "popularity from which a track is a hit", A_POPULARITY)
    segment_seconds: float = _option(FUSION, 10.0, "length of a segment, in seconds", POSITIVE)
    crop_share: float = _option(FUSION, 0.3, "share of a segment that a step hears", A_SHARE)
    mixed_precision: str = _option(RUN, "no", "precision of matrix products", ("no", "fp16", "bf16"))
    seed: int = _option(RUN, 42, "seed of initial weights, order of songs, and dropout", A_SEED)
    report_to: str = _option(RUN, "auto", "tracker; auto: all installed", ("auto", "none", "tensorboard", "trackio"))

    def __post_init__(self) -> None:
        for option in fields(self):
            _check_value(option, getattr(self, option.name))
        if self.model_type == "spectrogram-fusion" and (self.train_encoder or self.mode != "song"):
            raise ValueError(
                "a spectrogram-fusion model always learns from audio and scores whole songs: leave out train_encoder "
                "and mode."
            )

    @property
    def trained(self) -> str:
        """What is trained: `"heads"`, `"encoder"` (with its heads) or `"fusion"`."""
        if self.model_type == "spectrogram-fusion":
            return "fusion"
        return "encoder" if self.train_encoder else "heads"


def choose_batch_size(arguments: ApexTrainingArguments, num_rows: int) -> int:
    """
    Choose the batch size of a run: the one that is named, or one that gives an epoch at least `MINIMUM_NUM_STEPS`.

    Args:
        arguments ([`ApexTrainingArguments`]):
            The run; its `gradient_accumulation_steps` make several batches one step.
        num_rows (`int`):
            Songs, or segments, of an epoch.

    Returns:
        `int`: never more than `LARGEST_BATCHES` says, nor less than `SMALLEST_BATCH`, unless it is named.
    """
    if arguments.batch_size is not None:
        return arguments.batch_size
    fitting = num_rows // (MINIMUM_NUM_STEPS * arguments.gradient_accumulation_steps)
    return min(LARGEST_BATCHES[arguments.trained], max(SMALLEST_BATCH, fitting))


def get_kind(option: Field) -> type:
    """Return the type of an option's values, besides `None`."""
    kind: type = option.type if isinstance(option.type, type) else get_args(option.type)[0]
    return kind


KIND_WORDS: Mapping[type, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def _check_value(option: Field, value: Any) -> None:
    kind, choices, limit = get_kind(option), option.metadata["choices"], option.metadata["limit"]
    if choices is not None and value not in choices:
        raise ValueError(f"`{option.name}` must be one of {', '.join(map(str, choices))}, got {value!r}.")
    if value is None and option.default is None:
        return
    is_kind = isinstance(value, (int, float) if kind is float else kind)
    if not is_kind or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"`{option.name}` must be {KIND_WORDS[kind]}, got {value!r}.")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"`{option.name}` must be a finite number, got {value}.")
    if limit is not None and not limit.holds(value):
        raise ValueError(f"`{option.name}` must {limit.words}, got {value!r}.")


def build_arguments(preset: str = "published", **differences: Any) -> ApexTrainingArguments:
    """
    Build the arguments of a run from a preset and what differs from it.

    Args:
        preset (`str`, defaults to `"published"`):
            `"published"`: the hyper-parameters of arXiv 2605.03395. `"improved"`: standardised targets, a learning
            rate of their own for the sigmas, selection by rank correlation, grouped splits, padded
            segments weighted by their seconds. `"fusion"`: a
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
