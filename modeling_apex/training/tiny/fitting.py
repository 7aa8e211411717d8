"""
How apex-tiny learns: an untrained model made for its songs, segments drawn from them, and one loop over epochs.

What comes in is a [`TinyRecipe`] and a [`SongTable`]; what leaves is a trained model and its losses.
"""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from modeling_apex.inference.feature_extraction_apex import normalize_segments
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.training.batches import average_segments
from modeling_apex.training.losses import compute_squared_error_sums
from modeling_apex.training.tiny.filterbank import equalize_bands, initialize_front_end
from modeling_apex.training.tiny.recipe import TinyRecipe
from modeling_apex.training.tiny.songs import FULL_SCALE, SAMPLING_RATE, SongTable

logger = logging.getLogger(__name__)


def draw_segments(
    table: SongTable, rows: NDArray, num_samples: int, padded_share: float, generator: np.random.Generator
) -> torch.Tensor:
    """
    Draw one segment of each song, prepared as the feature extractor prepares segments.

    Args:
        table ([`SongTable`]), rows (`np.ndarray` of shape `(batch_size,)`):
            Which songs.
        num_samples (`int`):
            Length of a segment, in samples.
        padded_share (`float`):
            Share of segments whose end is silence.
        generator (`np.random.Generator`):
            Source of places and lengths.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_samples)`: normalised segments.
    """
    segments = np.empty((len(rows), num_samples), np.float32)
    latest = table.waveforms.shape[1] - num_samples
    for place, row in enumerate(rows):
        start, length = generator.integers(0, latest + 1), num_samples
        if generator.random() < padded_share:
            length = int(num_samples * generator.uniform(0.2, 1.0))
        segments[place] = table.waveforms[row, start : start + num_samples] / np.float32(FULL_SCALE)
        segments[place, length:] = 0.0
    return torch.from_numpy(normalize_segments(segments))


def compute_loss(scores: torch.Tensor, labels: torch.Tensor, spreads: torch.Tensor) -> torch.Tensor:
    """
    Compute the mean over heads of the squared error in units of each label's spread, as a tensor of shape `()`.

    Scores, labels and spreads are as in [`compute_squared_error_sums`]; missing labels are left out.
    """
    counts = (~labels.isnan()).sum(0)
    return (compute_squared_error_sums(scores, labels, spreads) / counts.clamp(min=1)).mean()


def draw_tails(
    table: SongTable, rows: NDArray, num_samples: int, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Draw the padded last segment of each song: half of them music, half of them silence that somebody left at the end.

    Arguments are as for [`draw_segments`].

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: normalised segments `(num_songs, num_samples)`, and what share of each
        is real, `(num_songs,)`.
    """
    segments, shares = np.zeros((len(rows), num_samples), np.float32), np.empty(len(rows), np.float32)
    for place, row in enumerate(rows):
        start, length = generator.integers(0, table.waveforms.shape[1] - num_samples + 1), generator.uniform()
        shares[place] = max(length, 1 / num_samples)
        if generator.random() < 0.5:
            stop = int(num_samples * shares[place])
            segments[place, :stop] = table.waveforms[row, start : start + stop] / np.float32(FULL_SCALE)
    return torch.from_numpy(normalize_segments(segments)), torch.from_numpy(shares)


def draw_songs(
    table: SongTable, rows: NDArray, num_samples: int, recipe: TinyRecipe, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Draw a segment of each song, and of some a padded tail, which counts by what of it is real, as in use.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: segments `(N, num_samples)`, whose song each is, `(N,)`,
        and its weight, `(N,)`.
    """
    has_tail = generator.random(len(rows)) < recipe.tail_share
    alone, followed = np.flatnonzero(~has_tail), np.flatnonzero(has_tail)
    only = draw_segments(table, rows[alone], num_samples, recipe.padded_share, generator)
    first = draw_segments(table, rows[followed], num_samples, 0.0, generator)
    tails, shares = draw_tails(table, rows[followed], num_samples, generator)
    row_of_segment = torch.from_numpy(np.concatenate([alone, followed, followed]))
    return torch.cat([only, first, tails]), row_of_segment, torch.cat([torch.ones(len(rows)), shares])


@torch.no_grad()
def build_model(recipe: TinyRecipe, table: SongTable) -> ApexModel:
    """Build the untrained model: a filterbank front end made for the training songs, heads at their mean label."""
    torch.manual_seed(recipe.seed)
    model = ApexModel(recipe.build_config())
    initialize_front_end(model.encoder, SAMPLING_RATE)
    # The first layer only splits the waveform into two signs; gradients through it would double the cost of a step.
    model.encoder.feature_extractor.conv_layers[0].requires_grad_(False)
    rows = np.arange(min(64, len(table.waveforms)))
    generator = np.random.default_rng(recipe.seed)
    equalize_bands(model.encoder, draw_segments(table, rows, model.config.segment_num_samples, 0.0, generator))
    for head, mean in zip(model.config.heads, np.nanmean(table.labels, axis=0), strict=True):
        share = (mean - head["minimum"]) / (head["maximum"] - head["minimum"])
        model.get_submodule(f"branch_{head['name']}").branch[-1].bias.fill_(float(np.log(share / (1.0 - share))))
    return model


def train_model(model: ApexModel, table: SongTable, recipe: TinyRecipe) -> list[float]:
    """
    Train encoder and heads together, in place; the model leaves in evaluation mode.

    Returns:
        `list[float]`: mean loss of each epoch.

    Raises:
        `FloatingPointError`: If the loss is not finite.
    """
    generator = np.random.default_rng(recipe.seed + 1)
    torch.manual_seed(recipe.seed + 1)
    labels = torch.from_numpy(table.labels).float()
    spreads = torch.from_numpy(np.nanstd(table.labels, axis=0)).float()
    steps_per_epoch = max(len(labels) // recipe.batch_size, 1)
    num_steps = recipe.num_epochs * steps_per_epoch
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, round(recipe.warmup_share * num_steps), num_steps)
    model.segments_per_pass = 2 * recipe.batch_size
    losses = []
    for epoch in range(recipe.num_epochs):
        model.train()
        batches = np.array_split(
            generator.permutation(len(labels))[: steps_per_epoch * recipe.batch_size], steps_per_epoch
        )
        epoch_losses: list[float] = []
        for rows in tqdm(batches, desc=f"epoch {epoch + 1} of {recipe.num_epochs}", unit="step"):
            segments, *owners = draw_songs(table, rows, model.config.segment_num_samples, recipe, generator)
            embeddings = model.compute_segment_embeddings(segments)
            scores = model.compute_scores(average_segments(embeddings, owners[0], len(rows), owners[1]))
            loss = compute_loss(scores, labels[rows], spreads)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} in epoch {epoch + 1}, step {len(epoch_losses) + 1}. Lower the "
                    f"learning rate ({recipe.learning_rate}) and train again."
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            schedule.step()
            epoch_losses.append(loss.item())
        losses.append(float(np.mean(epoch_losses)))
        logger.info("Epoch %d of %d: loss %.4f.", epoch + 1, recipe.num_epochs, losses[-1])
    model.eval()
    return losses
