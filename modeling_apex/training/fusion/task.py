"""
Training of a spectrogram-fusion model: network, feature branch and heads together, by the loop that trains any model.

What comes in are songs with track features; what the loop sees is a task whose batches are a stretch of a few segments
of each song, drawn anew every epoch, and the songs' features. The probability of a hit is trained by its squared error
(Brier's score, which honest probabilities minimise), so that one loss, one selection and one kind of report serve both
heads. No layer looks across songs, so a batch can be shared by processes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeling_apex.corpus.song_source import SongSource, open_song_source
from modeling_apex.corpus.song_store import SongSplit, SongStore
from modeling_apex.inference.configuration_spectrogram_fusion_apex import SpectrogramFusionConfig
from modeling_apex.inference.heads_apex import POPULARITY_EXPONENT
from modeling_apex.inference.modeling_spectrogram_fusion_apex import SpectrogramFusionModel
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.fusion.data import (
    build_feature_rows,
    build_feature_specs,
    build_fusion_labels,
    open_fusion_store,
)
from modeling_apex.training.heads.task import (
    build_loss,
    build_sigma_group,
    compute_step_seed,
    draw_segments,
    gather_rows,
    name_songs,
    plan_batches,
    refuse_few_rows,
    share_rows,
)
from modeling_apex.training.losses import MultiTaskLoss, compute_squared_error_sums
from modeling_apex.training.train import TrainingResult, build_accelerator, run_training, seeded

PREDICTION_BATCH = 32  # songs scored at once; bounds memory, changes nothing
# Targets that are percentiles under the power transform of the paper, so that reports can turn them back.
PERCENTILE_TARGETS = ("score_streams", "score_likes")


class FusionModule(nn.Module):
    """All that is trained: the model and the loss's own weights."""

    def __init__(self, model: SpectrogramFusionModel, loss: MultiTaskLoss):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self, spectrograms: torch.Tensor, row_of_segment: torch.Tensor, features: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the sums of squared errors of each head, `(H,)`; see `score_spectrograms`."""
        scores = score_spectrograms(self.model, spectrograms, row_of_segment, features)
        return compute_squared_error_sums(scores, labels)


def score_spectrograms(
    model: SpectrogramFusionModel, spectrograms: torch.Tensor, row_of_segment: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """
    Score songs that are means of segments.

    Args:
        model ([`SpectrogramFusionModel`]):
            The model.
        spectrograms (`torch.FloatTensor` of shape `(num_segments, num_bands, num_frames)`):
            Segments, or stretches of them.
        row_of_segment (`torch.LongTensor` of shape `(num_segments,)`):
            Which song each belongs to.
        features (`torch.FloatTensor` of shape `(num_songs, num_features)`):
            Track features.

    Returns:
        `torch.FloatTensor` of shape `(num_songs, num_heads)`: scores in native units.
    """
    embeddings = features.new_zeros(len(features), model.config.hidden_size)
    if model.encoder is not None:
        encoded = model.encode_spectrograms(spectrograms)  # (N, D)
        counts = torch.bincount(row_of_segment, minlength=len(features)).unsqueeze(1)
        embeddings = embeddings.index_add(0, row_of_segment, encoded) / counts
    return model.compute_scores(embeddings, features if model.tabular is not None else None)


def predict_stored_songs(
    model: SpectrogramFusionModel,
    split: SongSplit,
    features: NDArray[np.float32],
    start: int = 0,
    stop: int | None = None,
) -> NDArray[np.float32]:
    """
    Score songs from their stored spectrograms, with the model in evaluation mode.

    Args:
        model ([`SpectrogramFusionModel`]):
            The model.
        split ([`SongSplit`]):
            The songs.
        features (`np.ndarray` of shape `(num_songs, num_features)`):
            Their track features, from `build_feature_rows`.
        start (`int`, defaults to 0):
            First song.
        stop (`int`, *optional*):
            Song before which to stop.

    Returns:
        `np.ndarray` of shape `(stop - start, num_heads)`, float32.
    """
    stop = split.num_songs if stop is None else stop
    scores = [np.zeros((0, len(model.config.heads)), np.float32)]
    with torch.inference_mode():
        for first in range(start, stop, PREDICTION_BATCH):
            last = min(first + PREDICTION_BATCH, stop)
            counts = np.diff(split.offsets[first : last + 1])
            spectrograms = np.array(split.segments[split.offsets[first] : split.offsets[last]])
            arrays = (spectrograms, np.repeat(np.arange(last - first), counts), features[first:last])
            predicted = score_spectrograms(model, *(torch.from_numpy(values).to(model.device) for values in arrays))
            scores.append(predicted.float().cpu().numpy())
    return np.concatenate(scores)


class FusionTask:
    """
    What the training loop needs to know of a spectrogram-fusion model.

    Args:
        store ([`SongStore`]):
            Spectrograms and songs, from `open_fusion_store`.
        model ([`SpectrogramFusionModel`]):
            What is trained.
        arguments ([`ApexTrainingArguments`]):
            Target, loss, batch size, segments a song, seed.
        accelerator (`accelerate.Accelerator`):
            Device and processes.

    Raises:
        `ValueError`: If a split is missing, or there are too few songs.
    """

    def __init__(
        self, store: SongStore, model: SpectrogramFusionModel, arguments: ApexTrainingArguments, accelerator: Any
    ):
        config: Any = model.config
        self.head_names = list(config.head_names)
        self._store = store
        self._arguments = arguments
        self._accelerator = accelerator
        self._training = store.get_split("train")
        self._features = {name: build_feature_rows(split, config.features) for name, split in store.splits.items()}
        labels = self.build_labels("train")
        self.loss = build_loss(arguments, config, labels)
        self.module: Any = FusionModule(model, self.loss)
        self._labels = torch.from_numpy(labels)
        refuse_few_rows(self._training.num_songs, accelerator.num_processes)
        self._epoch = 0
        self._batches: list[NDArray[np.int64]] = []

    def build_parameter_groups(self, arguments: ApexTrainingArguments) -> list[dict[str, Any]]:
        parameters = [parameter for parameter in self.module.model.parameters() if parameter.requires_grad]
        return [{"params": parameters, "lr": arguments.learning_rate}, *build_sigma_group(self.loss, arguments)]

    def plan_epoch(self, epoch: int) -> int:
        self._epoch = epoch
        num_songs = self._training.num_songs
        self._batches = plan_batches(num_songs, self._arguments.batch_size, self._arguments.seed, epoch)
        return len(self._batches)

    def compute_error_sums(self, module: nn.Module, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        songs = self._batches[batch]
        seed = compute_step_seed(self._arguments.seed, self._epoch, batch)
        drawn, first_frame = self._draw(songs, seed)
        start, stop = share_rows(len(songs), self._accelerator)
        rows = np.concatenate(drawn[start:stop])
        row_of_segment = np.repeat(np.arange(stop - start), [len(segments) for segments in drawn[start:stop]])
        labels = self._labels[songs]
        device = self._accelerator.device
        with seeded(compute_step_seed(seed, self._accelerator.process_index, 0)):  # dropout
            sums = module(
                self._load(rows, first_frame),
                torch.from_numpy(row_of_segment).to(device),
                torch.from_numpy(self._features["train"][songs[start:stop]]).to(device),
                labels[start:stop].to(device),
            )
        return sums, (~torch.isnan(labels)).sum(0).to(device)

    def _draw(self, songs: NDArray[np.int64], seed: int) -> tuple[list[NDArray[np.int64]], int]:
        """Choose segments of each song of the whole batch, and where the stretch begins; equal in all processes."""
        generator = np.random.default_rng(seed)
        drawn = draw_segments(self._training.offsets, songs, self._arguments.max_segments_per_song, generator)
        num_frames = self._training.segments.shape[-1]
        return drawn, int(generator.integers(0, num_frames - self._count_frames() + 1))

    def _count_frames(self) -> int:
        return round(self._training.segments.shape[-1] * self._arguments.crop_share)

    def _load(self, rows: NDArray[np.int64], first_frame: int) -> torch.Tensor:
        stretch = slice(first_frame, first_frame + self._count_frames())
        spectrograms: Any = self._training.segments  # (N, mels, frames), mapped
        return torch.from_numpy(np.array(spectrograms[rows, :, stretch])).to(self._accelerator.device)

    def describe_batch(self, batch: int) -> str:
        return f"songs {name_songs(self._training.songs['id'], self._batches[batch])}"

    def predict(self, split: str) -> NDArray[np.float32]:
        songs = self._store.get_split(split)
        start, stop = share_rows(songs.num_songs, self._accelerator)
        with self._accelerator.autocast():
            scores = predict_stored_songs(self.module.model, songs, self._features[split], start, stop)
        return gather_rows(scores, self._accelerator)

    def build_labels(self, split: str) -> NDArray[np.float32]:
        config: Any = self._arguments
        return build_fusion_labels(self._store.get_split(split), config.target_column, config.hit_threshold)

    def build_weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.model.state_dict().items()}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.module.model.load_state_dict(weights)


def build_fusion_config(
    split: SongSplit, arguments: ApexTrainingArguments, differences: Mapping[str, Any] | None = None
) -> SpectrogramFusionConfig:
    """
    Build the config of the model that a run will train: what the arguments say, and the features that the songs have.

    Args:
        split ([`SongSplit`]):
            The training songs.
        arguments ([`ApexTrainingArguments`]):
            Branches, threshold, target, whether leaking features are kept.
        differences (`Mapping`, *optional*):
            Fields of [`SpectrogramFusionConfig`] that differ from its defaults.

    Raises:
        `ValueError`: If the songs have no track feature and the model needs some.
    """
    features: list[dict[str, Any]] = []
    if arguments.branches != "audio":
        features = build_feature_specs(split, arguments.leaking_features, arguments.target_column)
        if not features:
            raise ValueError(
                "the songs have no track features that vary, so there is nothing to fuse. Build them from a table "
                "with features (python -m datasets_scripts.build spotify), or train with branches='audio'."
            )
    return SpectrogramFusionConfig(**{**_list_audio_fields(arguments), "features": features, **(differences or {})})


def _list_audio_fields(arguments: ApexTrainingArguments) -> dict[str, Any]:
    is_percentile = arguments.target_column in PERCENTILE_TARGETS
    return {
        "branches": arguments.branches,
        "hit_threshold": arguments.hit_threshold,
        "segment_seconds": arguments.segment_seconds,
        "popularity_exponent": POPULARITY_EXPONENT if is_percentile else None,
    }


def build_fusion_model(
    config: SpectrogramFusionConfig, split: SongSplit, labels: NDArray[np.float32], seed: int
) -> SpectrogramFusionModel:
    """
    Build the untrained model: band statistics of the training songs, heads that start at the mean label.

    Args:
        config ([`SpectrogramFusionConfig`]):
            Its config.
        split ([`SongSplit`]):
            The training songs.
        labels (`np.ndarray` of shape `(num_songs, 2)`):
            Their labels.
        seed (`int`):
            Seed of the initial weights.
    """
    with seeded(seed):
        model = SpectrogramFusionModel(config)
    with torch.no_grad():
        if model.encoder is not None:
            mean, std = compute_band_statistics(split)
            model.encoder.band_mean.copy_(torch.from_numpy(mean))
            model.encoder.band_std.copy_(torch.from_numpy(std))
        for column, head in enumerate(config.heads):
            share = float(np.clip(np.nanmean(labels[:, column]) / head["maximum"], 0.01, 0.99))
            model.scores.bias[column] = float(np.log(share / (1 - share)))
    return model


def compute_band_statistics(split: SongSplit) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Compute mean and standard deviation of each band over all frames of a split, a few segments at a time.

    Returns:
        `tuple[np.ndarray, np.ndarray]` of shape `(num_bands,)` each, float32. A band that never changes has spread 1.
    """
    num_bands = split.segments.shape[1]
    sums, squares, count = np.zeros(num_bands), np.zeros(num_bands), 0
    for start in range(0, split.num_segments, 256):
        rows = np.asarray(split.segments[start : start + 256], np.float64)
        sums += rows.sum((0, 2))
        squares += np.square(rows).sum((0, 2))
        count += rows.shape[0] * rows.shape[2]
    mean = sums / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0.0))
    return mean.astype(np.float32), np.where(std > 1e-4, std, 1.0).astype(np.float32)


def train_fusion(
    source: str | os.PathLike | SongSource,
    output: str | os.PathLike,
    arguments: ApexTrainingArguments,
    *,
    config: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike | None = None,
    num_decoders: int = 1,
    resume: bool = False,
    show_progress: bool = False,
) -> TrainingResult:
    """
    Train a spectrogram-fusion model.

    Args:
        source (`str`, `os.PathLike` or [`SongSource`]):
            A dataset of songs with the splits `train` and `validation`, as `datasets_scripts.build spotify` makes it.
        output (`str` or `os.PathLike`):
            The run folder.
        arguments ([`ApexTrainingArguments`]):
            With `model_type="spectrogram-fusion"`.
        config (`Mapping`, *optional*):
            Fields of [`SpectrogramFusionConfig`] that differ from its defaults.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where decoded songs and spectrograms are kept. Defaults to `<output>-spectrograms` beside the run.
        num_decoders (`int`, defaults to 1):
            Threads that decode.
        resume (`bool`, defaults to `False`):
            Whether to go on with an interrupted run.
        show_progress (`bool`, defaults to `False`):
            Whether to show a progress bar.

    Returns:
        [`TrainingResult`]

    Raises:
        `ValueError`: If the arguments are for another model type, or dataset and arguments do not fit together.
        `FileExistsError`: If the run folder already holds a run.
        [`TrainingDivergedError`]: If the loss becomes NaN; the best epoch so far is saved first.
    """
    if arguments.model_type != SpectrogramFusionConfig.model_type:
        raise ValueError(
            f"`train_fusion` trains model_type='{SpectrogramFusionConfig.model_type}', got "
            f"{arguments.model_type!r}; to train the heads of an APEX model use `train_heads`."
        )
    accelerator = build_accelerator(arguments, output)
    songs = open_song_source(source) if isinstance(source, (str, os.PathLike)) else source
    cache = cache_dir or Path(output).with_name(f"{Path(output).name}-spectrograms")
    # The front end does not depend on the features, which are found in the songs that it opens.
    front_end = build_front_end_config(arguments, config)
    with accelerator.main_process_first():
        store = open_fusion_store(songs, cache, front_end, num_decoders=num_decoders)
    if arguments.require_grouped_splits:
        store.refuse_shared_groups()
    training = store.get_split("train")
    refuse_missing_popularity(store, arguments)
    labels = build_fusion_labels(training, arguments.target_column, arguments.hit_threshold)
    model = build_fusion_model(build_fusion_config(training, arguments, config), training, labels, arguments.seed)
    task = FusionTask(store, model, arguments, accelerator)
    trained: Any = model
    data = {
        "spectrograms_sha256": store.manifest_sha256,
        "dataset_sha256": store.dataset_sha256,
        "features": trained.config.feature_names,
        "leaking_features": trained.config.leaking_names,
        "songs": {split: store.get_split(split).num_songs for split in ("train", "validation")},
    }
    options = {"resume": resume, "show_progress": show_progress}
    return run_training(task, trained, arguments, accelerator, output, data, **options)


def refuse_missing_popularity(store: SongStore, arguments: ApexTrainingArguments) -> None:
    """
    Refuse to train on what nothing teaches or measures.

    Raises:
        `ValueError`: If no song of `train` or of `validation` has a popularity.
    """
    for name in ("train", "validation"):
        labels = build_fusion_labels(store.get_split(name), arguments.target_column, arguments.hit_threshold)
        if np.isnan(labels).all():
            raise ValueError(
                f"{store.folder}: no song of the split {name!r} has a `{arguments.target_column}` to learn from. "
                "Build the dataset from a table that states it."
            )


def build_front_end_config(
    arguments: ApexTrainingArguments, differences: Mapping[str, Any] | None = None
) -> SpectrogramFusionConfig:
    """Build a config that knows the front end and whether there is audio, before any feature is known."""
    features = [{"name": "any", "kind": "categorical", "categories": ["any"], "is_leaking": False}]
    fields = _list_audio_fields(arguments) | {"features": [] if arguments.branches == "audio" else features}
    return SpectrogramFusionConfig(**{**fields, **(differences or {})})
