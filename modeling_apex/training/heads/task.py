"""
Training of trunk and heads on stored embeddings.

What comes in is an [`SongStore`] and an [`ApexModel`] whose encoder made it; what the loop sees is a task whose
batches are gathered rows of columns on disk, shared out over the processes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeling_apex.corpus.song_store import Rows, SongSplit, SongStore
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.grouped_heads import BatchShare, GroupedHeads
from modeling_apex.training.losses import MultiTaskLoss, compute_squared_error_sums

PREDICTION_BATCH = 8192  # rows scored at once; bounds memory, changes nothing


class HeadsModule(nn.Module):
    """All that is trained on stored embeddings: the heads and the loss's own weights."""

    def __init__(self, heads: GroupedHeads, loss: MultiTaskLoss):
        super().__init__()
        self.heads = heads
        self.loss = loss

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, share: BatchShare) -> torch.Tensor:
        """Return the sums of squared errors of each head, `(H,)`, over these rows."""
        return compute_squared_error_sums(self.heads(embeddings, share), labels)


class HeadsTask:
    """
    What the training loop needs to know of heads on stored embeddings.

    Args:
        store ([`SongStore`]):
            The embeddings.
        model ([`ApexModel`]):
            Where the initial weights come from; its config names the heads.
        arguments ([`ApexTrainingArguments`]):
            Mode, loss, batch size, seed.
        accelerator (`accelerate.Accelerator`):
            Device and processes.

    Raises:
        `ValueError`: If a split is missing, a head has no labels, or there are too few songs.
    """

    def __init__(self, store: SongStore, model: Any, arguments: ApexTrainingArguments, accelerator: Any):
        self.config: ApexConfig = model.config
        self.head_names = list(model.config.head_names)
        self._store = store
        self._arguments = arguments
        self._accelerator = accelerator
        training = store.get_split("train")
        labels = training.build_labels(self.head_names)
        refuse_missing_labels(store, self.head_names)
        self.loss = build_loss(arguments, self.config, labels)
        self.module: Any = HeadsModule(GroupedHeads.from_model(model), self.loss)
        if arguments.mode == "song":
            self._rows: Rows = training.song_embeddings
            self._row_songs = np.arange(training.num_songs)
        else:
            self._rows = training.segments
            self._row_songs = np.repeat(np.arange(training.num_songs), np.diff(training.offsets))
        self._labels = torch.from_numpy(labels)
        refuse_few_rows(len(self._rows), accelerator.num_processes)
        self._epoch = 0
        self._batches: list[NDArray[np.int64]] = []

    def build_parameter_groups(self, arguments: ApexTrainingArguments) -> list[dict[str, Any]]:
        parameters = [parameter for parameter in self.module.heads.parameters() if parameter.requires_grad]
        return [{"params": parameters, "lr": arguments.learning_rate}, *build_sigma_group(self.loss, arguments)]

    def plan_epoch(self, epoch: int) -> int:
        self._epoch = epoch
        self._batches = plan_batches(len(self._rows), self._arguments.batch_size, self._arguments.seed, epoch)
        return len(self._batches)

    def load_batch(self, batch: int) -> tuple[torch.Tensor, torch.Tensor, BatchShare]:
        """
        Read a batch from disk.

        Returns:
            `tuple[torch.Tensor, torch.Tensor, BatchShare]`: this process's embeddings `(n', D)`, the labels of the
            whole batch `(n, H)`, and which of its rows these are.
        """
        rows = self._batches[batch]
        start, stop = share_rows(len(rows), self._accelerator)
        share = BatchShare(compute_step_seed(self._arguments.seed, self._epoch, batch), len(rows), start)
        return torch.from_numpy(self._rows[rows[start:stop]]), self._labels[self._row_songs[rows]], share

    def compute_error_sums(self, module: nn.Module, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self._accelerator.device
        embeddings, labels, share = self.load_batch(batch)
        counts = (~torch.isnan(labels)).sum(0).to(device)
        own_labels = labels[share.start : share.start + len(embeddings)].to(device)
        return module(embeddings.to(device), own_labels, share), counts

    def describe_batch(self, batch: int) -> str:
        rows = self._batches[batch]
        damaged = rows[~np.isfinite(self._rows[rows]).all(1)]
        ids = self._store.get_split("train").songs["id"]
        if len(damaged):
            return f"embeddings not finite: {name_songs(ids, self._row_songs[damaged])}"
        return f"songs {name_songs(ids, self._row_songs[rows])}"

    def predict(self, split: str) -> NDArray[np.float32]:
        return predict_songs(self.module.heads, self._store.get_split(split), self._arguments.mode, self._accelerator)

    def build_labels(self, split: str) -> NDArray[np.float32]:
        return self._store.get_split(split).build_labels(self.head_names)

    def build_weights(self) -> dict[str, torch.Tensor]:
        return self.module.heads.build_named_tensors()

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.module.heads.load_named_tensors(weights)


def build_loss(arguments: ApexTrainingArguments, config: ApexConfig, labels: NDArray[np.float32]) -> MultiTaskLoss:
    """
    Build the loss that the arguments name.

    Args:
        arguments ([`ApexTrainingArguments`]):
            Kind, weight, whether targets are standardised.
        config ([`ApexConfig`]):
            Its heads name the groups.
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


def build_sigma_group(loss: MultiTaskLoss, arguments: ApexTrainingArguments) -> list[dict[str, Any]]:
    """Return the optimizer's group of the learned sigmas, if the loss has any."""
    if loss.log_sigmas is None:
        return []
    if arguments.sigma_learning_rate is None:
        return [{"params": [loss.log_sigmas], "lr": arguments.learning_rate}]
    # Decay would pull each sigma towards 1, which means nothing.
    return [{"params": [loss.log_sigmas], "lr": arguments.sigma_learning_rate, "weight_decay": 0.0}]


def refuse_missing_labels(store: SongStore, head_names: Sequence[str]) -> None:
    """
    Refuse to train a head that nothing teaches or measures.

    Raises:
        `ValueError`: If a head has no label in `train` or in `validation`.
    """
    for split in ("train", "validation"):
        labels = store.get_split(split).build_labels(head_names)
        empty = [name for name, column in zip(head_names, labels.T, strict=True) if np.isnan(column).all()]
        if empty:
            raise ValueError(
                f"{store.folder}: no labels for {', '.join(empty)} in the split {split!r}. Add the labels to the "
                "dataset and embed it again, or train another task (task='popularity' needs popularity labels alone)."
            )


def refuse_few_rows(num_rows: int, num_processes: int) -> None:
    """
    Refuse to train on fewer rows than batch norm and the processes need.

    Raises:
        `ValueError`: If there are fewer than two rows, or fewer than processes.
    """
    if num_rows < max(2, num_processes):
        raise ValueError(
            f"{num_rows} training rows for {num_processes} processes; at least {max(2, num_processes)} are needed."
        )


def plan_batches(num_rows: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """
    Shuffle rows into batches; the result depends on nothing but the arguments.

    The last batch is not cut short: batches differ by one row at most, so that batch norm never sees a single row.

    Returns:
        `list[np.ndarray]`: row numbers, in rising order within a batch, so that a disk reads forwards.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_rows)
    num_batches = max(1, min(-(-num_rows // batch_size), num_rows // 2))
    return [np.sort(batch) for batch in np.array_split(order, num_batches)]


def share_rows(num_rows: int, accelerator: Any) -> tuple[int, int]:
    """Return first and last row (exclusive) of this process's share."""
    index, num_processes = accelerator.process_index, accelerator.num_processes
    return index * num_rows // num_processes, (index + 1) * num_rows // num_processes


def compute_step_seed(seed: int, epoch: int, batch: int) -> int:
    """Derive the seed of one step from those of the run."""
    return int(np.random.SeedSequence([seed, epoch, batch]).generate_state(1)[0])


def predict_songs(heads: GroupedHeads, split: SongSplit, mode: str, accelerator: Any) -> NDArray[np.float32]:
    """
    Score all songs of a split, shared out over the processes.

    Args:
        heads ([`GroupedHeads`]):
            The heads, in evaluation mode.
        split ([`SongSplit`]):
            The songs.
        mode (`str`):
            `"song"`: score song embeddings. `"segment"`: score segments and average their scores.
        accelerator (`accelerate.Accelerator`):
            Device and processes.

    Returns:
        `np.ndarray` of shape `(num_songs, num_heads)`, in every process.
    """
    start, stop = share_rows(split.num_songs, accelerator)
    if mode == "song":
        scores = _score_rows(heads, split.song_embeddings, start, stop, accelerator.device)
    else:
        offsets = split.offsets[start : stop + 1]
        rows = _score_rows(heads, split.segments, int(offsets[0]), int(offsets[-1]), accelerator.device)
        sums = np.add.reduceat(rows.astype(np.float64), offsets[:-1] - offsets[0], axis=0) if stop > start else rows
        scores = (sums / np.diff(offsets)[:, None]).astype(np.float32)
    return gather_rows(scores, accelerator)


def draw_segments(
    offsets: NDArray[np.int64], songs: NDArray[np.int64], max_segments: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Choose at most `max_segments` segments of each song, as ascending row numbers; songs begin at `offsets`."""
    drawn = []
    for song in songs:
        rows = np.arange(offsets[song], offsets[song + 1])
        drawn.append(np.sort(generator.choice(rows, min(max_segments, len(rows)), replace=False)))
    return drawn


def gather_rows(rows: NDArray[np.float32], accelerator: Any) -> NDArray[np.float32]:
    """Join the rows of all processes, in their order, in every process."""
    if accelerator.num_processes == 1:
        return rows
    from accelerate.utils import gather_object

    return np.concatenate(gather_object([rows]))


def _score_rows(heads: GroupedHeads, rows: Rows, start: int, stop: int, device: Any) -> NDArray[np.float32]:
    scores = [np.zeros((0, len(heads.head_names)), np.float32)]
    with torch.inference_mode():
        for first in range(start, stop, PREDICTION_BATCH):
            values = torch.from_numpy(rows[first : min(first + PREDICTION_BATCH, stop)]).to(device)
            scores.append(heads(values).float().cpu().numpy())
    return np.concatenate(scores)


def name_songs(ids: Any, songs: NDArray[np.int64], limit: int = 5) -> str:
    """Return the ids of a few songs, and how many more there are, for messages."""
    unique = np.unique(songs)
    names = ", ".join(repr(ids[int(song)].as_py()) for song in unique[:limit])
    return names + (f" and {len(unique) - limit} more" if len(unique) > limit else "")
