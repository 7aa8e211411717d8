"""
Training of trunk and heads on stored embeddings.

What comes in is a [`SongStore`] of embeddings and an [`ApexModel`] whose encoder made them; what the loop sees is a
task whose batches are gathered rows of columns on disk, shared out over the processes.
"""

import os
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeling_apex.corpus.embedding_manifest import build_expected_identity, refuse_other_identity
from modeling_apex.corpus.embedding_store import open_embedding_store, weigh_song_embeddings
from modeling_apex.corpus.song_store import Rows, SongStore
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.batches import name_songs
from modeling_apex.training.grouped_heads import BatchShare, GroupedHeads
from modeling_apex.training.losses import MultiTaskLoss, compute_squared_error_sums
from modeling_apex.training.processes import share_rows
from modeling_apex.training.task import TrainingInputs, TrainingTask
from modeling_apex.training.trained_model import build_trained_model, load_base_model

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


class HeadsTask(TrainingTask):
    """Heads on stored embeddings: a row is a song, or in the mode `"segment"` a segment. See [`TrainingTask`]."""

    def __init__(self, store: SongStore, model: Any, arguments: ApexTrainingArguments, accelerator: Any):
        super().__init__(store, model, arguments, accelerator)
        self.module = HeadsModule(GroupedHeads.from_model(model), self.loss)

    @property
    def _rows(self) -> Rows:
        return self.training.song_embeddings if self.arguments.mode == "song" else self.training.segments

    @cached_property
    def _row_indices(self) -> NDArray[np.int64]:
        """Which of the rows are learned from: all but the segments that count nothing."""
        if self.arguments.mode == "song":
            return np.arange(self.training.num_songs)
        return np.flatnonzero(self.training.weigh_segments(self.model.config))

    @cached_property
    def _row_songs(self) -> NDArray[np.int64]:
        if self.arguments.mode == "song":
            return self._row_indices
        return np.repeat(np.arange(self.training.num_songs), np.diff(self.training.offsets))[self._row_indices]

    @property
    def num_rows(self) -> int:
        return len(self._row_indices)

    def list_trained(self) -> list[tuple[float, list[nn.Module]]]:
        return [(self.arguments.learning_rate, [self.module.heads])]

    def load_batch(self, batch: int) -> tuple[torch.Tensor, torch.Tensor, BatchShare]:
        """
        Read a batch from disk.

        Returns:
            `tuple[torch.Tensor, torch.Tensor, BatchShare]`: this process's embeddings `(n', D)`, the labels of the
            whole batch `(n, H)`, and which of its rows these are.
        """
        rows = self._batches[batch]
        start, stop = share_rows(len(rows), self.accelerator)
        share = BatchShare(self.compute_step_seed(batch), len(rows), start)
        own_rows = self._row_indices[rows[start:stop]]
        return torch.from_numpy(self._rows[own_rows]), self._labels[self._row_songs[rows]], share

    def compute_error_sums(self, module: nn.Module, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.accelerator.device
        embeddings, labels, share = self.load_batch(batch)
        counts = (~torch.isnan(labels)).sum(0).to(device)
        own_labels = labels[share.start : share.start + len(embeddings)].to(device)
        return module(embeddings.to(device), own_labels, share), counts

    def describe_batch(self, batch: int) -> str:
        rows = self._batches[batch]
        damaged = rows[~np.isfinite(self._rows[self._row_indices[rows]]).all(1)]
        names = name_songs(self.training.songs["id"], self._row_songs[damaged if len(damaged) else rows])
        return f"embeddings not finite: {names}" if len(damaged) else f"songs {names}"

    def score_songs(self, split: str, start: int, stop: int) -> NDArray[np.float32]:
        songs, heads = self.store.get_split(split), self.module.heads
        if self.arguments.mode == "song":
            return _score_rows(heads, songs.song_embeddings, start, stop)
        offsets = songs.offsets[start : stop + 1]
        rows = _score_rows(heads, songs.segments, int(offsets[0]), int(offsets[-1]))
        if stop == start:
            return rows
        weights = songs.weigh_segments(self.model.config)[offsets[0] : offsets[-1], None].astype(np.float64)
        firsts = offsets[:-1] - offsets[0]
        sums = np.add.reduceat(rows * weights, firsts, axis=0)
        means: NDArray[np.float32] = (sums / np.add.reduceat(weights, firsts, axis=0)).astype(np.float32)
        return means

    def embed_songs(self, split: str) -> NDArray[np.float32]:
        return np.asarray(self.store.get_split(split).song_embeddings)

    def build_weights(self) -> dict[str, torch.Tensor]:
        return self.module.heads.build_named_tensors()

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.module.heads.load_named_tensors(weights)

    def describe_data(self) -> dict[str, Any]:
        # The model was held against the identity of the embeddings, so these are its weights.
        weights_sha256 = self.store.manifest["identity"]["weights_sha256"]
        return {"embeddings_manifest_sha256": self.store.manifest_sha256, "weights_sha256": weights_sha256}


def prepare_heads(inputs: TrainingInputs, accelerator: Any) -> HeadsTask:
    """
    Open stored embeddings, and build the model whose heads learn from them.

    Raises:
        `TypeError`: If the source is a dataset.
        `ValueError`: If embeddings, model and arguments do not fit together.
    """
    if not isinstance(inputs.source, (str, os.PathLike)):
        raise TypeError(
            f"heads learn from a folder of embeddings, got a {type(inputs.source).__name__}. Embed the songs first, "
            "or train from audio (train_encoder=True)."
        )
    with accelerator.main_process_first():
        store = open_embedding_store(inputs.source, inputs.cache_dir, songs=inputs.songs, rereads=inputs.rereads)
    base = load_base_model(store.manifest["model"] if inputs.model is None else inputs.model)
    identity = store.manifest["identity"]
    refuse_other_identity(str(store.folder), identity, build_expected_identity(base, identity))
    model = build_trained_model(base, inputs.arguments)
    with accelerator.main_process_first():
        store = weigh_song_embeddings(store, model.config, inputs.cache_dir)
    return HeadsTask(store, model, inputs.arguments, accelerator)


def _score_rows(heads: GroupedHeads, rows: Rows, start: int, stop: int) -> NDArray[np.float32]:
    device = heads.output_bias.device
    scores = [np.zeros((0, len(heads.head_names)), np.float32)]
    with torch.inference_mode():
        for first in range(start, stop, PREDICTION_BATCH):
            values = torch.from_numpy(rows[first : min(first + PREDICTION_BATCH, stop)]).to(device)
            scores.append(heads(values).float().cpu().numpy())
    return np.concatenate(scores)
