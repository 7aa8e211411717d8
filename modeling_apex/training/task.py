"""
What a training task is: what a run is given, what the loop asks, and what all tasks share.

A task lies in a folder of its own (`heads`, `encoder`, `fusion`) and says what one batch is and what it costs; `train`
has the table of them. No task imports another.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeling_apex.corpus.embedding_manifest import is_embeddings
from modeling_apex.corpus.song_source import SongSource, open_song_source
from modeling_apex.corpus.song_store import SongStore
from modeling_apex.training.arguments import ApexTrainingArguments, choose_batch_size
from modeling_apex.training.batches import compute_step_seed, name_songs, plan_batches, refuse_few_rows
from modeling_apex.training.losses import MultiTaskLoss
from modeling_apex.training.processes import gather_rows, share_rows


@dataclass(frozen=True)
class TrainingInputs:
    """What a run is given; see [`train`], whose arguments these are."""

    source: str | os.PathLike | SongSource
    output: str | os.PathLike
    arguments: ApexTrainingArguments
    model: Any = None
    config: Mapping[str, Any] | None = None
    songs: str | os.PathLike | SongSource | None = None
    rereads: bool = False
    cache_dir: str | os.PathLike | None = None

    def open_songs(self) -> SongSource:
        """
        Open the dataset of a task that learns from audio.

        Raises:
            `ValueError`: If it is a folder of embeddings.
        """
        if not isinstance(self.source, (str, os.PathLike)):
            return self.source
        if is_embeddings(Path(os.path.expanduser(self.source))):
            raise ValueError(
                f"{self.source}: a folder of embeddings, but `train_encoder` learns from audio, and so does a "
                "spectrogram-fusion model. Name the dataset of songs, or train heads with train_encoder=False."
            )
        return open_song_source(self.source)

    def describe_places(self) -> dict[str, str]:
        """Return where the embeddings lie that heads learn from, and the dataset of their labels, if it was named."""
        if self.arguments.trained != "heads" or not isinstance(self.source, (str, os.PathLike)):
            return {}
        places = {"embeddings": os.path.abspath(os.path.expanduser(self.source))}
        if isinstance(self.songs, (str, os.PathLike)):
            songs = os.path.expanduser(self.songs)
            places["songs"] = os.path.abspath(songs) if os.path.exists(songs) else songs
        return places

    def choose_cache(self, kind: str) -> Path:
        """Return where decoded songs are kept: `cache_dir`, or a folder beside the run that is named for `kind`."""
        return Path(self.cache_dir or Path(self.output).with_name(f"{Path(self.output).name}-{kind}"))


class TrainingTask(ABC):
    """
    What the training loop needs to know of a task.

    Args:
        store ([`SongStore`]):
            Songs, with the splits `train` and `validation`.
        model ([`ApexModel`] or [`SpectrogramFusionModel`]):
            What is trained; its config names the heads.
        arguments ([`ApexTrainingArguments`]):
            Loss, batch size, seed, and what the task itself asks for; a batch size that is not named is chosen.
        accelerator (`accelerate.Accelerator`):
            Device and processes.

    Raises:
        `ValueError`: If a split is missing, a head has no labels, or there are too few songs.
    """

    module: Any  # holds all that is trained, also `loss`; gives the squared error sums `(H,)` of this process's rows

    def __init__(self, store: SongStore, model: Any, arguments: ApexTrainingArguments, accelerator: Any):
        self.store = store
        self.model = model
        self.arguments = arguments
        self.accelerator = accelerator
        self.head_names: list[str] = list(model.config.head_names)
        self.training = store.get_split("train")
        labels = {split: self.build_labels(split) for split in ("train", "validation")}
        refuse_missing_labels(store, self.head_names, labels)
        self.loss = build_loss(arguments, model.config, labels["train"])
        self._labels = torch.from_numpy(labels["train"])
        refuse_few_rows(self.num_rows, accelerator.num_processes)
        self.arguments = replace(arguments, batch_size=choose_batch_size(arguments, self.num_rows))
        self._epoch = 0
        self._batches: list[NDArray[np.int64]] = []

    @abstractmethod
    def list_trained(self) -> list[tuple[float, list[nn.Module]]]:
        """Return what is trained besides the loss, by learning rate."""

    @abstractmethod
    def compute_error_sums(self, module: nn.Module, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Run this process's share of a batch.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]` of shape `(num_heads,)` each: the sums of squared errors of this
            process's rows, and the number of labels in the whole batch.
        """

    @abstractmethod
    def score_songs(self, split: str, start: int, stop: int) -> NDArray[np.float32]:
        """Score the songs of a split from `start` up to `stop`, `(stop - start, num_heads)`."""

    @abstractmethod
    def build_weights(self) -> dict[str, torch.Tensor]:
        """Return the trained weights under the names that checkpoints have."""

    @abstractmethod
    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Take weights that `build_weights` returned."""

    @abstractmethod
    def describe_data(self) -> dict[str, Any]:
        """Return what is learned from, by its hashes; a run resumes with the same or not at all."""

    @property
    def num_rows(self) -> int:
        """How many rows an epoch passes over; songs, unless the task says otherwise."""
        return self.training.num_songs

    def build_labels(self, split: str) -> NDArray[np.float32]:
        """Return the labels of a split, `(num_songs, num_heads)`."""
        return self.store.get_split(split).build_labels(self.head_names)

    def predict(self, split: str) -> NDArray[np.float32]:
        """Score all songs of a split, `(num_songs, num_heads)`, in every process."""
        start, stop = share_rows(self.store.get_split(split).num_songs, self.accelerator)
        return gather_rows(self.score_songs(split, start, stop))

    def embed_songs(self, split: str) -> NDArray[np.float32] | None:
        """Return the embeddings of all songs of a split, `(num_songs, hidden_size)`, if the task has them at hand."""
        return None

    def build_parameter_groups(self) -> list[dict[str, Any]]:
        """Return what the optimizer trains, with learning rates."""
        groups: list[dict[str, Any]] = []
        for rate, modules in self.list_trained():
            parameters = [value for module in modules for value in module.parameters() if value.requires_grad]
            groups.append({"params": parameters, "lr": rate})
        if self.loss.log_sigmas is not None:
            groups.append({"params": [self.loss.log_sigmas], "lr": self.arguments.learning_rate})
            if self.arguments.sigma_learning_rate is not None:
                # Decay would pull each sigma towards 1, which means nothing.
                groups[-1] |= {"lr": self.arguments.sigma_learning_rate, "weight_decay": 0.0}
        return groups

    def plan_epoch(self, epoch: int) -> int:
        """Fix the order of an epoch; return its number of batches."""
        self._epoch = epoch
        batch_size = choose_batch_size(self.arguments, self.num_rows)
        self._batches = plan_batches(self.num_rows, batch_size, self.arguments.seed, epoch)
        return len(self._batches)

    def compute_step_seed(self, batch: int) -> int:
        """Return the seed of a step of this epoch, equal in all processes."""
        return compute_step_seed(self.arguments.seed, self._epoch, batch)

    def describe_batch(self, batch: int) -> str:
        """Name some songs of a batch, for messages."""
        return f"songs {name_songs(self.training.songs['id'], self._batches[batch])}"


def build_loss(arguments: ApexTrainingArguments, config: Any, labels: NDArray[np.float32]) -> MultiTaskLoss:
    """
    Build the loss that the arguments name.

    Args:
        arguments ([`ApexTrainingArguments`]), config ([`ApexConfig`] or [`SpectrogramFusionConfig`]):
            Kind, weight, whether targets are standardised; the heads, with their groups.
        labels (`np.ndarray` of shape `(num_songs, num_heads)`):
            Training labels, for their variances.

    Raises:
        `ValueError`: If targets are to be standardised and a head's labels are all the same.
    """
    variances = None
    if arguments.standardize_targets:
        variances = np.nanvar(labels.astype(np.float64), axis=0).tolist()
        constant = [name for name, variance in zip(config.head_names, variances, strict=True) if not variance > 0]
        if constant:
            raise ValueError(
                f"all training labels of {', '.join(constant)} are the same, so they cannot be standardised. Leave "
                "the head out, or train with standardize_targets=False."
            )
    return MultiTaskLoss(
        arguments.loss,
        [head["group"] for head in config.heads],
        popularity_weight=arguments.popularity_weight,
        label_variances=variances,
    )


def refuse_missing_labels(
    store: SongStore, head_names: Sequence[str], labels: Mapping[str, NDArray[np.float32]]
) -> None:
    """
    Refuse to train a head that nothing teaches or measures.

    Raises:
        `ValueError`: If a head has no label in a split.
    """
    for split, columns in labels.items():
        empty = [name for name, column in zip(head_names, columns.T, strict=True) if np.isnan(column).all()]
        if empty:
            raise ValueError(
                f"{store.folder}: no labels for {', '.join(empty)} in the split {split!r}. Add the labels to the "
                "dataset, or train another task (task='popularity' needs popularity labels alone)."
            )
