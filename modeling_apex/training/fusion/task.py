"""
Training of a spectrogram-fusion model: network, feature branch and heads together, by the loop that trains any model.

What comes in are songs with track features; what the loop sees is a task whose batches are a stretch of a few segments
of each song, drawn anew every epoch, and the songs' features. The probability of a hit is trained by its squared error
(Brier's score, which honest probabilities minimise), so that one loss, one selection and one kind of report serve both
heads. No layer looks across songs, so a batch can be shared by processes.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeling_apex.corpus.song_store import SongSplit, SongStore
from modeling_apex.inference.modeling_spectrogram_fusion_apex import SpectrogramFusionModel
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.batches import average_segments, compute_step_seed, draw_segments, seeded
from modeling_apex.training.fusion.data import build_feature_rows, build_fusion_labels, open_fusion_store
from modeling_apex.training.fusion.model import build_front_end_config, build_fusion_config, build_fusion_model
from modeling_apex.training.losses import MultiTaskLoss, compute_squared_error_sums
from modeling_apex.training.processes import share_rows
from modeling_apex.training.task import TrainingInputs, TrainingTask

PREDICTION_BATCH = 32  # songs scored at once; bounds memory, changes nothing


class FusionModule(nn.Module):
    """All that is trained: the model and the loss's own weights."""

    def __init__(self, model: SpectrogramFusionModel, loss: MultiTaskLoss):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(
        self,
        spectrograms: torch.Tensor,
        row_of_segment: torch.Tensor,
        weights: torch.Tensor,
        features: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Return the sums of squared errors of each head, `(H,)`; see `score_spectrograms`."""
        scores = score_spectrograms(self.model, spectrograms, row_of_segment, weights, features)
        return compute_squared_error_sums(scores, labels)


def score_spectrograms(
    model: SpectrogramFusionModel,
    spectrograms: torch.Tensor,
    row_of_segment: torch.Tensor,
    weights: torch.Tensor,
    features: torch.Tensor,
) -> torch.Tensor:
    """
    Score songs that are means of segments.

    Args:
        model ([`SpectrogramFusionModel`]):
            In training or evaluation mode.
        spectrograms (`torch.FloatTensor` of shape `(num_segments, num_bands, num_frames)`):
            Segments, or stretches of them.
        row_of_segment (`torch.LongTensor` of shape `(num_segments,)`):
            Which song each belongs to.
        weights (`torch.FloatTensor` of shape `(num_segments,)`):
            What each counts in the mean of its song.
        features (`torch.FloatTensor` of shape `(num_songs, num_features)`):
            Track features.

    Returns:
        `torch.FloatTensor` of shape `(num_songs, num_heads)`: scores in native units.
    """
    embeddings = features.new_zeros(len(features), model.config.hidden_size)
    if model.encoder is not None:
        embeddings = model.encode_spectrograms(spectrograms)
        embeddings = average_segments(embeddings, row_of_segment, len(features), weights)
    return model.compute_scores(embeddings, features if model.tabular is not None else None)


def predict_stored_songs(
    model: SpectrogramFusionModel,
    split: SongSplit,
    features: NDArray[np.float32],
    start: int = 0,
    stop: int | None = None,
) -> NDArray[np.float32]:
    """
    Score songs from their stored spectrograms.

    Args:
        model ([`SpectrogramFusionModel`]):
            In evaluation mode.
        split ([`SongSplit`]), features (`np.ndarray` of shape `(num_songs, num_features)`):
            The songs, and their track features from `build_feature_rows`.
        start (`int`, defaults to 0), stop (`int`, *optional*):
            First song, and the song before which to stop.

    Returns:
        `np.ndarray` of shape `(stop - start, num_heads)`, float32.
    """
    stop = split.num_songs if stop is None else stop
    scores = [np.zeros((0, len(model.config.heads)), np.float32)]
    weights = split.weigh_segments(model.config)
    with torch.inference_mode():
        for first in range(start, stop, PREDICTION_BATCH):
            last = min(first + PREDICTION_BATCH, stop)
            counts = np.diff(split.offsets[first : last + 1])
            rows = slice(split.offsets[first], split.offsets[last])
            owners = np.repeat(np.arange(last - first), counts)
            arrays = (np.array(split.segments[rows]), owners, weights[rows], features[first:last])
            predicted = score_spectrograms(model, *(torch.from_numpy(values).to(model.device) for values in arrays))
            scores.append(predicted.float().cpu().numpy())
    return np.concatenate(scores)


class FusionTask(TrainingTask):
    """A spectrogram-fusion model: a batch is a stretch of a few segments a song. See [`TrainingTask`]."""

    def __init__(
        self, store: SongStore, model: SpectrogramFusionModel, arguments: ApexTrainingArguments, accelerator: Any
    ):
        super().__init__(store, model, arguments, accelerator)
        config: Any = model.config
        self._num_frames = round(self.training.segments.shape[-1] * arguments.crop_share)
        if config.has_audio and not self._num_frames:
            raise ValueError(
                f"`crop_share` {arguments.crop_share} leaves nothing of a segment, whose spectrogram has "
                f"{self.training.segments.shape[-1]} frames. Hear more of it, or longer segments (segment_seconds)."
            )
        self._features = {name: build_feature_rows(split, config.features) for name, split in store.splits.items()}
        self._weights = self.training.weigh_segments(config)
        self.module = FusionModule(model, self.loss)

    def list_trained(self) -> list[tuple[float, list[nn.Module]]]:
        return [(self.arguments.learning_rate, [self.module.model])]

    def compute_error_sums(self, module: nn.Module, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        songs = self._batches[batch]
        seed = self.compute_step_seed(batch)
        generator = np.random.default_rng(seed)  # draws the whole batch, equal in all processes
        weights = self._weights
        drawn = draw_segments(self.training.offsets, songs, self.arguments.max_segments_per_song, generator, weights)
        spectrograms: Any = self.training.segments  # (N, mels, frames), mapped
        first_frame = generator.integers(0, spectrograms.shape[-1] - self._num_frames + 1)
        start, stop = share_rows(len(songs), self.accelerator)
        rows, labels = np.concatenate(drawn[start:stop]), self._labels[songs]
        arrays = (
            np.array(spectrograms[rows, :, first_frame : first_frame + self._num_frames]),
            np.repeat(np.arange(stop - start), [len(segments) for segments in drawn[start:stop]]),
            weights[rows],
            self._features["train"][songs[start:stop]],
        )
        device = self.accelerator.device
        inputs = [torch.from_numpy(array).to(device) for array in arrays]
        with seeded(compute_step_seed(seed, self.accelerator.process_index, 0)):  # dropout
            sums = module(*inputs, labels[start:stop].to(device))
        return sums, (~torch.isnan(labels)).sum(0).to(device)

    def score_songs(self, split: str, start: int, stop: int) -> NDArray[np.float32]:
        songs = self.store.get_split(split)
        with self.accelerator.autocast():
            return predict_stored_songs(self.module.model, songs, self._features[split], start, stop)

    def build_labels(self, split: str) -> NDArray[np.float32]:
        arguments = self.arguments
        return build_fusion_labels(self.store.get_split(split), arguments.target_column, arguments.hit_threshold)

    def build_weights(self) -> dict[str, torch.Tensor]:
        return dict(self.module.model.state_dict())

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.module.model.load_state_dict(weights)

    def describe_data(self) -> dict[str, Any]:
        return {
            "spectrograms_sha256": self.store.manifest_sha256,
            "features": self.model.config.feature_names,
            "leaking_features": self.model.config.leaking_names,
        }


def prepare_fusion(inputs: TrainingInputs, accelerator: Any) -> FusionTask:
    """
    Open the songs of a dataset, as spectrograms with track features, and build the model that learns from them.

    Raises:
        `ValueError`: If no song has a popularity, or dataset and arguments do not fit together.
    """
    arguments, songs = inputs.arguments, inputs.open_songs()
    # The front end does not depend on the features, which are found in the songs that it opens.
    front_end = build_front_end_config(arguments, inputs.config)
    with accelerator.main_process_first():
        store = open_fusion_store(songs, inputs.choose_cache("spectrograms"), front_end, rereads=inputs.rereads)
    training, labels = store.get_split("train"), {}
    for name in ("train", "validation"):
        labels[name] = build_fusion_labels(store.get_split(name), arguments.target_column, arguments.hit_threshold)
        if np.isnan(labels[name]).all():
            raise ValueError(
                f"{store.folder}: no song of the split {name!r} has a `{arguments.target_column}` to learn from. "
                "Build the dataset from a table that states it."
            )
    config = build_fusion_config(training, arguments, inputs.config)
    model = build_fusion_model(config, training, labels["train"], arguments.seed)
    return FusionTask(store, model, arguments, accelerator)
