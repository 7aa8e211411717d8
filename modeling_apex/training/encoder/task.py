"""
Training of the whole model from audio: encoder, layer mix, trunk and heads.

What comes in are songs; what the loop sees is a task whose batches are a few segments of each song, drawn anew every
epoch. Heads, losses, selection and resuming are those of training on stored embeddings; the encoder's dropout is
seeded by seed, epoch, batch and process, so that here too a resumed run repeats the uninterrupted one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modeling_apex.corpus.song_source import SongSource, open_song_source
from modeling_apex.corpus.song_store import SongStore
from modeling_apex.corpus.waveform_store import open_waveform_store
from modeling_apex.engines.model_hashes import compute_weights_hash
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.heads.grouped_heads import BatchShare, GroupedHeads
from modeling_apex.training.heads.task import (
    build_loss,
    build_sigma_group,
    compute_step_seed,
    draw_segments,
    gather_rows,
    name_songs,
    plan_batches,
    refuse_few_rows,
    refuse_missing_labels,
    share_rows,
)
from modeling_apex.training.losses import MultiTaskLoss, compute_squared_error_sums
from modeling_apex.training.train import (
    TrainingResult,
    build_accelerator,
    build_trained_model,
    load_base_model,
    run_training,
    seeded,
)

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
        self, segments: torch.Tensor, row_of_segment: torch.Tensor, labels: torch.Tensor, share: BatchShare
    ) -> torch.Tensor:
        """
        Compute the errors of rows that are means of segments.

        Args:
            segments (`torch.FloatTensor` of shape `(num_segments, num_samples)`):
                Normalised segments.
            row_of_segment (`torch.LongTensor` of shape `(num_segments,)`):
                Which row each segment belongs to: its song, or itself.
            labels (`torch.FloatTensor` of shape `(num_rows, num_heads)`):
                Labels of the rows.
            share ([`BatchShare`]):
                Which rows of the batch these are.

        Returns:
            `torch.FloatTensor` of shape `(num_heads,)`: sums of squared errors.
        """
        embeddings = self.encode(segments)  # (N, D)
        sums = embeddings.new_zeros(len(labels), embeddings.shape[1]).index_add(0, row_of_segment, embeddings)
        counts = torch.bincount(row_of_segment, minlength=len(labels)).unsqueeze(1)
        return compute_squared_error_sums(self.heads(sums / counts, share), labels)


class EndToEndTask:
    """
    What the training loop needs to know of a model that learns from audio.

    Args:
        store ([`SongStore`]):
            Decoded songs, from `open_waveform_store`.
        model ([`ApexModel`]):
            What is trained; `config.freeze_encoder` is false.
        arguments ([`ApexTrainingArguments`]):
            Mode, loss, batch size, segments a song, seed.
        accelerator (`accelerate.Accelerator`):
            Device and processes.

    Raises:
        `ValueError`: If a split is missing, a head has no labels, or there are too few songs.
    """

    def __init__(self, store: SongStore, model: ApexModel, arguments: ApexTrainingArguments, accelerator: Any):
        config: Any = model.config
        self.head_names = list(config.head_names)
        self._store = store
        self._arguments = arguments
        self._accelerator = accelerator
        self._training = store.get_split("train")
        refuse_missing_labels(store, self.head_names)
        labels = self._training.build_labels(self.head_names)
        self.loss = build_loss(arguments, config, labels)
        model.segments_per_pass = SEGMENTS_PER_PASS
        if arguments.gradient_checkpointing:
            model.encoder.gradient_checkpointing_enable()
        self.module: Any = EndToEndModule(model, self.loss)
        freeze_unused_layers(model)
        self._labels = torch.from_numpy(labels)
        refuse_few_rows(self._training.num_songs, accelerator.num_processes)
        self._epoch = 0
        self._batches: list[NDArray[np.int64]] = []

    def build_parameter_groups(self, arguments: ApexTrainingArguments) -> list[dict[str, Any]]:
        def select(*modules: nn.Module) -> list[nn.Parameter]:
            return [value for module in modules for value in module.parameters() if value.requires_grad]

        return [
            {"params": select(self.module.heads), "lr": arguments.learning_rate},
            {
                "params": select(self.module.encoder, self.module.aggregator),
                "lr": arguments.encoder_learning_rate,
            },
            *build_sigma_group(self.loss, arguments),
        ]

    def plan_epoch(self, epoch: int) -> int:
        self._epoch = epoch
        num_songs = self._training.num_songs
        self._batches = plan_batches(num_songs, self._arguments.batch_size, self._arguments.seed, epoch)
        return len(self._batches)

    def compute_error_sums(self, module: nn.Module, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        songs = self._batches[batch]
        seed = compute_step_seed(self._arguments.seed, self._epoch, batch)
        drawn = self._draw_segments(songs, seed)
        start, stop = share_rows(len(songs), self._accelerator)
        if self._arguments.mode == "song":
            labels = self._labels[songs]
            own_labels, num_rows, first_row = labels[start:stop], len(songs), start
            row_of_segment = np.repeat(np.arange(stop - start), [len(rows) for rows in drawn[start:stop]])
        else:
            sizes = [len(rows) for rows in drawn]
            labels = self._labels[np.repeat(songs, sizes)]
            first_row, last_row, num_rows = sum(sizes[:start]), sum(sizes[:stop]), len(labels)
            own_labels = labels[first_row:last_row]
            row_of_segment = np.arange(last_row - first_row)
        segments = self._load_segments(np.concatenate(drawn[start:stop]))
        device = self._accelerator.device
        counts = (~torch.isnan(labels)).sum(0).to(device)
        share = BatchShare(seed, num_rows, first_row)
        with self._seeded_dropout(seed):
            sums = module(segments, torch.from_numpy(row_of_segment).to(device), own_labels.to(device), share)
        return sums, counts

    def _draw_segments(self, songs: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
        """Choose the segments of each song of the whole batch, equal in all processes."""
        generator = np.random.default_rng(seed)
        return draw_segments(self._training.offsets, songs, self._arguments.max_segments_per_song, generator)

    def _load_segments(self, rows: NDArray[np.int64], split: str = "train") -> torch.Tensor:
        segments = self._store.get_split(split).segments[rows]
        return torch.from_numpy(segments.astype(np.float32)).to(self._accelerator.device)

    @contextmanager
    def _seeded_dropout(self, seed: int) -> Iterator[None]:
        with seeded(compute_step_seed(seed, self._accelerator.process_index, 0)):
            yield

    def describe_batch(self, batch: int) -> str:
        return f"songs {name_songs(self._training.songs['id'], self._batches[batch])}"

    def predict(self, split: str) -> NDArray[np.float32]:
        songs = self._store.get_split(split)
        start, stop = share_rows(songs.num_songs, self._accelerator)
        scores = np.zeros((stop - start, len(self.head_names)), np.float32)
        with torch.no_grad(), self._accelerator.autocast():
            for row, song in enumerate(range(start, stop)):
                embeddings = torch.cat(
                    [
                        self.module.encode(self._load_segments(rows, split))
                        for rows in _split_rows(songs.offsets[song], songs.offsets[song + 1])
                    ]
                ).float()
                if self._arguments.mode == "song":
                    embeddings = embeddings.mean(0, keepdim=True)
                scores[row] = self.module.heads(embeddings).mean(0).float().cpu().numpy()
        return gather_rows(scores, self._accelerator)

    def build_labels(self, split: str) -> NDArray[np.float32]:
        return self._store.get_split(split).build_labels(self.head_names)

    def build_weights(self) -> dict[str, torch.Tensor]:
        weights = self.module.heads.build_named_tensors()
        for part in ("encoder", "aggregator"):
            for name, tensor in getattr(self.module, part).state_dict().items():
                weights[f"{part}.{name}"] = tensor.detach().cpu().clone()
        return weights

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.module.heads.load_named_tensors(weights)
        for part in ("encoder", "aggregator"):
            prefix = f"{part}."
            own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            getattr(self.module, part).load_state_dict(own)


def train_end_to_end(
    source: str | os.PathLike | SongSource,
    output: str | os.PathLike,
    arguments: ApexTrainingArguments,
    *,
    model: str | os.PathLike | ApexModel,
    cache_dir: str | os.PathLike | None = None,
    num_decoders: int = 1,
    resume: bool = False,
    show_progress: bool = False,
) -> TrainingResult:
    """
    Train encoder and heads from audio.

    Args:
        source (`str`, `os.PathLike` or [`SongSource`]):
            A dataset of songs with the splits `train` and `validation`.
        output (`str` or `os.PathLike`):
            The run folder.
        arguments ([`ApexTrainingArguments`]):
            With `train_encoder=True`.
        model (`str`, `os.PathLike` or [`ApexModel`]):
            Where the encoder starts from, in float32.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where decoded songs are kept. Defaults to `<output>-waveforms` beside the run.
        num_decoders (`int`, defaults to 1):
            Threads that decode.
        resume (`bool`, defaults to `False`):
            Whether to go on with an interrupted run.
        show_progress (`bool`, defaults to `False`):
            Whether to show a progress bar.

    Returns:
        [`TrainingResult`]

    Raises:
        `ValueError`: If `arguments.train_encoder` is false, or dataset, model and arguments do not fit together.
        `FileExistsError`: If the run folder already holds a run.
        [`TrainingDivergedError`]: If the loss becomes NaN; the best epoch so far is saved first.
    """
    if not arguments.train_encoder:
        raise ValueError("`train_end_to_end` needs train_encoder=True; to train heads alone, embed and `train_heads`.")
    accelerator = build_accelerator(arguments, output)
    base = load_base_model(model)
    songs = open_song_source(source) if isinstance(source, (str, os.PathLike)) else source
    cache = cache_dir or Path(output).with_name(f"{Path(output).name}-waveforms")
    with accelerator.main_process_first():
        extractor = ApexFeatureExtractor.from_config(base.config)
        store = open_waveform_store(songs, cache, extractor, num_decoders=num_decoders)
    if arguments.require_grouped_splits:
        store.refuse_shared_groups()
    trained = build_trained_model(base, arguments)
    task = EndToEndTask(store, trained, arguments, accelerator)
    data = {
        "waveforms_sha256": store.manifest_sha256,
        "dataset_sha256": store.dataset_sha256,
        "weights_sha256": compute_weights_hash(base),
        "songs": {split: store.get_split(split).num_songs for split in ("train", "validation")},
    }
    options = {"resume": resume, "show_progress": show_progress}
    return run_training(task, trained, arguments, accelerator, output, data, **options)


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
