"""
Training of the whole model from audio: encoder, layer mix, trunk and heads.

What comes in are songs; what the loop sees is a task whose batches are a few segments of each song, drawn anew every
epoch. Heads, losses, selection and resuming are those of training on stored embeddings; the encoder's dropout is
seeded by seed, epoch, batch and process, so that here too a resumed run repeats the uninterrupted one.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeling_apex.corpus.song_store import SongStore
from modeling_apex.corpus.waveform_store import open_waveform_store
from modeling_apex.engines.model_hashes import compute_weights_hash
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.batches import average_segments, compute_step_seed, draw_segments, seeded
from modeling_apex.training.encoder.start import load_starting_model
from modeling_apex.training.grouped_heads import BatchShare, GroupedHeads
from modeling_apex.training.losses import MultiTaskLoss, compute_squared_error_sums
from modeling_apex.training.processes import gather_rows, share_rows
from modeling_apex.training.task import TrainingInputs, TrainingTask
from modeling_apex.training.trained_model import build_trained_model

SEGMENTS_PER_PASS = 8


class EndToEndModule(nn.Module):
    """All that is trained from audio: encoder and layer mix of an [`ApexModel`], grouped heads, and the loss."""

    def __init__(self, model: ApexModel, loss: MultiTaskLoss):
        super().__init__()
        self.heads = GroupedHeads.from_model(model)
        self.encoder = model.encoder
        self.aggregator = model.aggregator
        self.loss = loss
        self._model = [model]  # in a list, so that its own heads are no part of this module

    def encode(self, segments: torch.Tensor) -> torch.Tensor:
        """Return embeddings `(N, D)` of segments `(N, T)`."""
        return self._model[0].compute_segment_embeddings(segments)

    def forward(
        self,
        segments: torch.Tensor,
        row_of_segment: torch.Tensor,
        weights: torch.Tensor,
        labels: torch.Tensor,
        share: BatchShare,
    ) -> torch.Tensor:
        """
        Compute the errors of rows that are means of segments.

        Args:
            segments (`torch.FloatTensor` of shape `(num_segments, num_samples)`):
                Normalised segments.
            row_of_segment (`torch.LongTensor` of shape `(num_segments,)`):
                Which row each segment belongs to: its song, or itself.
            weights (`torch.FloatTensor` of shape `(num_segments,)`):
                What each counts in the mean.
            labels (`torch.FloatTensor` of shape `(num_rows, num_heads)`):
                Labels of the rows.
            share ([`BatchShare`]):
                Which rows of the batch these are.

        Returns:
            `torch.FloatTensor` of shape `(num_heads,)`: sums of squared errors.
        """
        embeddings = average_segments(self.encode(segments), row_of_segment, len(labels), weights)  # (B, D)
        return compute_squared_error_sums(self.heads(embeddings, share), labels)


class EndToEndTask(TrainingTask):
    """A model that learns from audio, with its encoder: a batch is a few segments a song. See [`TrainingTask`]."""

    def __init__(self, store: SongStore, model: ApexModel, arguments: ApexTrainingArguments, accelerator: Any):
        super().__init__(store, model, arguments, accelerator)
        self._starts_from = compute_weights_hash(model)  # before it learns
        model.segments_per_pass = SEGMENTS_PER_PASS
        if arguments.gradient_checkpointing:
            model.encoder.gradient_checkpointing_enable()
        self.module = EndToEndModule(model, self.loss)
        self._weights = {name: split.weigh_segments(model.config) for name, split in store.splits.items()}
        freeze_unused_layers(model)

    def list_trained(self) -> list[tuple[float, list[nn.Module]]]:
        return [
            (self.arguments.learning_rate, [self.module.heads]),
            (self.arguments.encoder_learning_rate, [self.module.encoder, self.module.aggregator]),
        ]

    def compute_error_sums(self, module: nn.Module, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        songs = self._batches[batch]
        seed = self.compute_step_seed(batch)
        generator = np.random.default_rng(seed)  # draws the whole batch, equal in all processes
        weights = self._weights["train"]
        drawn = draw_segments(self.training.offsets, songs, self.arguments.max_segments_per_song, generator, weights)
        song_of_segment = np.repeat(np.arange(len(songs)), [len(rows) for rows in drawn])
        if self.arguments.mode == "song":
            row_of_segment, labels = song_of_segment, self._labels[songs]
        else:
            row_of_segment, labels = np.arange(len(song_of_segment)), self._labels[songs[song_of_segment]]
        start, stop = share_rows(len(songs), self.accelerator)
        own_rows = torch.from_numpy(row_of_segment[(song_of_segment >= start) & (song_of_segment < stop)])
        first, last = int(own_rows[0]), int(own_rows[-1])
        rows, device = np.concatenate(drawn[start:stop]), self.accelerator.device
        own_labels, share = labels[first : last + 1].to(device), BatchShare(seed, len(labels), first)
        with seeded(compute_step_seed(seed, self.accelerator.process_index, 0)):  # dropout
            own_weights = torch.from_numpy(weights[rows]).to(device)
            sums = module(self._load_segments(rows), (own_rows - first).to(device), own_weights, own_labels, share)
        return sums, (~torch.isnan(labels)).sum(0).to(device)

    def _load_segments(self, rows: NDArray[np.int64], split: str = "train") -> torch.Tensor:
        segments = self.store.get_split(split).segments[rows]
        return torch.from_numpy(segments.astype(np.float32)).to(self.accelerator.device)

    def _encode_song(self, split: str, song: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings of the segments of a song, `(S, D)`, and what each counts, `(S, 1)`."""
        first, last = self.store.get_split(split).offsets[song : song + 2]
        encoded = [self.module.encode(self._load_segments(rows, split)) for rows in _split_rows(first, last)]
        weights = torch.from_numpy(self._weights[split][first:last]).to(encoded[0].device)
        return torch.cat(encoded).float(), weights.unsqueeze(1)

    def embed_songs(self, split: str) -> NDArray[np.float32]:
        start, stop = share_rows(self.store.get_split(split).num_songs, self.accelerator)
        embeddings = np.zeros((stop - start, self.model.config.hidden_size), np.float32)
        with torch.no_grad(), self.accelerator.autocast():
            for row, song in enumerate(range(start, stop)):
                of_segments, weights = self._encode_song(split, song)
                embeddings[row] = ((of_segments * weights).sum(0) / weights.sum()).cpu().numpy()
        return gather_rows(embeddings)

    def score_songs(self, split: str, start: int, stop: int) -> NDArray[np.float32]:
        scores = np.zeros((stop - start, len(self.head_names)), np.float32)
        with torch.no_grad(), self.accelerator.autocast():
            for row, song in enumerate(range(start, stop)):
                embeddings, weights = self._encode_song(split, song)
                if self.arguments.mode == "song":
                    embeddings = (embeddings * weights).sum(0, keepdim=True) / weights.sum()
                    weights = weights.new_ones(1, 1)
                of_rows = self.module.heads(embeddings).float()
                scores[row] = ((of_rows * weights).sum(0) / weights.sum()).cpu().numpy()
        return scores

    def build_weights(self) -> dict[str, torch.Tensor]:
        return {**self.model.state_dict(), **self.module.heads.build_named_tensors()}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.module.heads.load_named_tensors(weights)
        self.model.load_state_dict(weights)  # its encoder and layer mix are those of the module

    def describe_data(self) -> dict[str, Any]:
        return {"waveforms_sha256": self.store.manifest_sha256, "weights_sha256": self._starts_from}


def prepare_encoder(inputs: TrainingInputs, accelerator: Any) -> EndToEndTask:
    """
    Open the songs of a dataset, decoded, and build the model that learns from them.

    Raises:
        `FileNotFoundError`: If the dataset or the model that the encoder starts from is not there.
        `ValueError`: If dataset, model and arguments do not fit together.
    """
    songs = inputs.open_songs()
    base = load_starting_model(inputs.model, inputs.arguments)
    model = build_trained_model(base, inputs.arguments)
    with accelerator.main_process_first():
        extractor = ApexFeatureExtractor.from_config(base.config)
        store = open_waveform_store(
            songs, inputs.choose_cache("waveforms"), extractor, rereads=inputs.rereads, config=model.config
        )
    return EndToEndTask(store, model, inputs.arguments, accelerator)


def freeze_unused_layers(model: ApexModel) -> None:
    """Keep what no chosen hidden state depends on out of training: it would never see a gradient."""
    config: Any = model.config
    num_layers = config.encoder_config.num_hidden_layers
    last = max(index % (num_layers + 1) for index in config.layer_indices)
    encoder: Any = model.encoder
    for layer in encoder.encoder.layers[last:]:
        layer.requires_grad_(False)
    if config.encoder_config.do_stable_layer_norm and last < num_layers:
        encoder.encoder.layer_norm.requires_grad_(False)
    if getattr(encoder, "masked_spec_embed", None) is not None:
        encoder.masked_spec_embed.requires_grad_(False)  # of the encoder's pre-training


def _split_rows(first: int, last: int) -> list[NDArray[np.int64]]:
    rows = np.arange(first, last)
    return np.array_split(rows, -(-len(rows) // SEGMENTS_PER_PASS))
