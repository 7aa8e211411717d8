"""
Rooms 6 to 9 without transformers: from the encoder's pooled layers to scores.

What comes in are segments or their stored embeddings `(B, S, D)`, with a mask; what leaves are scores in native units.
[`ScoreHeadsMixin`] holds what is the same for every encoder; `ApexModel` adds the encoder of transformers, training
and loading.

Shape legend: B songs, S segments, N real segments of all songs, T samples of a segment, L chosen layers, D hidden
size, C width of the trunk, H scores.
"""

import itertools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from .configuration_fields_apex import TAILS


class LinearBlock(nn.Module):
    """Linear, batch norm, GELU, dropout: the unit that trunk and branches are made of."""

    def __init__(self, num_inputs: int, num_outputs: int, dropout: float):
        super().__init__()
        self.block = nn.Sequential(
            nn.Linear(num_inputs, num_outputs), nn.BatchNorm1d(num_outputs), nn.GELU(), nn.Dropout(dropout)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.block(inputs)
        return outputs


class ScoreBranch(nn.Module):
    """One head: from the trunk's output `(B, C)` to one score `(B,)` within its range."""

    def __init__(self, num_inputs: int, widths: list[int], dropout: float, minimum: float, maximum: float):
        super().__init__()
        sizes = [num_inputs, *widths]
        blocks = [LinearBlock(before, after, dropout) for before, after in itertools.pairwise(sizes)]
        self.branch = nn.Sequential(*blocks, nn.Linear(sizes[-1], 1))
        self.minimum = minimum
        self.maximum = maximum

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.branch(inputs)).squeeze(-1) * (self.maximum - self.minimum) + self.minimum


class SongScores(NamedTuple):
    """What [`ScoreHeadsMixin.score_songs`] returns, as [`ApexOutput`] says."""

    scores: torch.Tensor
    song_embedding: torch.Tensor
    segment_embeddings: torch.Tensor
    segment_scores: torch.Tensor | None


class ScoreHeadsMixin:
    """
    Layer mix, trunk and branches of a model, and what they compute.

    A part of a `torch.nn.Module` that has a `config` and an `_encode`, which pools the chosen layers of segments.
    """

    config: Any
    # How many segments the encoder gets at once: by default 8 on an accelerator, and on a CPU one, or as many as the
    # installed package counts workers. Set it on the model; it changes memory and speed, never scores.
    segments_per_pass: int | None = None
    count_workers: ClassVar[Callable[[], int] | None] = None
    aggregator: nn.Conv1d
    shared: nn.Sequential

    def build_heads(self: Any, config: Any) -> None:
        """Add the modules that `config` describes."""
        self.aggregator = nn.Conv1d(len(config.layer_indices), 1, kernel_size=1)
        widths = [config.hidden_size, *config.shared_dims]
        self.shared = nn.Sequential(
            *(LinearBlock(before, after, config.dropout_shared) for before, after in itertools.pairwise(widths))
        )
        for head in config.heads:
            branch = ScoreBranch(
                widths[-1], config.branch_dims, config.dropout_branch, head["minimum"], head["maximum"]
            )
            self.add_module(f"branch_{head['name']}", branch)

    def compute_segment_embeddings(self, input_values: torch.Tensor) -> torch.Tensor:
        """
        Encode normalised segments `(N, T)` and mix the chosen layers (rooms 5 and 6): `(N, D)`.

        Raises:
            `FloatingPointError`: If the encoder yields NaN or infinity.
        """
        is_frozen, is_on_cpu = self.config.freeze_encoder, input_values.device.type == "cpu"
        count = type(self).count_workers if is_on_cpu else None
        group = self.segments_per_pass or (count() if count else 1 if is_on_cpu else 8)
        embeddings = []
        for segments in input_values.split(group):  # (n, T)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen):
                pooled = self._encode(segments)  # (n, L, D)
            if not torch.isfinite(pooled).all():
                raise FloatingPointError(
                    "the encoder yields NaN or infinity. Check that the input is finite and normalised; in half "
                    "precision, try dtype=torch.float32."
                )
            pooled = pooled.to(self.aggregator.weight.dtype)
            # A CPU's convolution rounds one row otherwise than two: one by one, company changes not a bit.
            embeddings += [self.aggregator(some).squeeze(1) for some in pooled.split(1 if is_on_cpu else len(pooled))]
        return torch.cat(embeddings)

    def _encode(self, segments: torch.Tensor) -> torch.Tensor:
        """Pool the chosen layers of segments `(n, T)` to `(n, L, D)`."""
        raise NotImplementedError(f"{type(self).__name__} has no encoder: it must define `_encode`.")

    def compute_scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Score song or segment embeddings `(N, D)` (rooms 8 and 9): `(N, H)`, in native units."""
        hidden = self.shared(embeddings)  # (B, C)
        return torch.stack([getattr(self, f"branch_{name}")(hidden) for name in self.config.head_names], dim=-1)

    def score_songs(
        self, embeddings: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor, output_segment_scores: bool = False
    ) -> SongScores:
        """
        Average the segments of each song and score them (rooms 7 to 9).

        Args:
            embeddings (`torch.FloatTensor` of shape `(num_segments, hidden_size)`): Of all real segments, in order.
            mask (`torch.BoolTensor` of shape `(batch_size, num_segments)`): True for real segments.
            weights (`torch.FloatTensor` of shape `(batch_size, num_segments)`): From [`weigh_segments`].
            output_segment_scores (`bool`, defaults to `False`): Whether to score each segment on its own as well.

        Raises:
            `FloatingPointError`: If a head yields NaN or infinity.
        """
        per_segment = place_rows(embeddings, mask)  # (B, S, D)
        song_embedding = average_over_segments(per_segment, weights)  # (B, D)

        is_per_segment = self.config.prediction_level == "segment"
        segment_scores = None
        if output_segment_scores or is_per_segment:
            segment_scores = place_rows(self.compute_scores(embeddings), mask)  # (B, S, H)
        if segment_scores is not None and is_per_segment:
            scores = average_over_segments(segment_scores, weights)  # (B, H)
        else:
            scores = self.compute_scores(song_embedding)  # (B, H)
        if not torch.isfinite(scores).all():
            raise FloatingPointError("a head yields NaN or infinity; the checkpoint's heads are damaged.")
        return SongScores(scores, song_embedding, per_segment, segment_scores if output_segment_scores else None)

    def _gather_segments(
        self,
        input_values: torch.Tensor | None,
        segment_mask: torch.Tensor | None,
        segment_embeddings: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings of all real segments, `(N, D)`, and the mask `(B, S)` that says whose they are."""
        real, mask = gather_segments(input_values, segment_mask, segment_embeddings, self.config.hidden_size)
        if segment_embeddings is None:
            return self.compute_segment_embeddings(real), mask
        return real.to(self.aggregator.weight.dtype), mask


def weigh_tail(num_real_samples: Any, longest: Any, tail: str, minimum: float) -> Any:
    """
    Say what segments count in the mean of their song; tensors and arrays alike.

    Args:
        num_real_samples: Samples of each segment before its padding.
        longest: The most that a segment of the same song has, which only a last segment falls short of.
        tail (`str`), minimum (`float`): `config.tail`, and `config.tail_seconds` in samples.
    """
    if tail == "drop":
        return (num_real_samples >= minimum) | (num_real_samples == longest)
    return num_real_samples / longest if tail == "weighted" else num_real_samples > 0


def weigh_segments(
    mask: torch.Tensor, num_real_samples: torch.Tensor | None, config: Any, tail: str | None = None
) -> torch.Tensor:
    """
    Say what each segment counts in the mean of its song, `(B, S)`: nothing where `mask` is false.

    Args:
        mask (`torch.BoolTensor` of shape `(batch_size, num_segments)`): True for real segments.
        num_real_samples (`torch.LongTensor` of the same shape, *optional*): Samples before the padding; not needed
            where each song has one segment, nor where the tail counts in full.
        config ([`ApexConfig`] or [`SpectrogramFusionConfig`]), tail (`str`, *optional*): The rule; another for once.

    Raises:
        `ValueError`: If there is no such rule, or `num_real_samples` is missing, misshapen or not positive.
    """
    tail = tail or config.tail
    if tail not in TAILS:
        raise ValueError(f"`tail` must be one of {', '.join(map(repr, TAILS))}, got {tail!r}.")
    if num_real_samples is None:
        if tail != "full" and (mask.sum(1) > 1).any():
            raise ValueError(
                f"`num_real_samples` is missing: with tail={tail!r} a segment counts by how much of it is real. Pass "
                "what the feature extractor returns, or a tensor of samples for each segment."
            )
        num_real_samples = mask.long()
    lengths = num_real_samples.to(mask.device)
    if lengths.shape != mask.shape or not (lengths[mask] > 0).all():
        raise ValueError(
            f"`num_real_samples` must be positive for each real segment and of the shape {tuple(mask.shape)} of "
            f"`segment_mask`, got {tuple(lengths.shape)}, smallest {lengths.min()}."
        )
    lengths = lengths * mask
    minimum = config.tail_seconds * config.sampling_rate
    weights: torch.Tensor = weigh_tail(lengths, lengths.amax(1, keepdim=True), tail, minimum) * mask
    return weights.float()


def average_over_segments(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average what each segment has, `(B, S, width)`, over the segments of each song: `(B, width)`."""
    weights = weights.unsqueeze(-1)
    return (rows * weights).sum(1) / weights.sum(1)


def place_rows(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Put rows `(N, width)` of real segments where `mask` `(B, S)` is true, song by song, and zero elsewhere."""
    return rows.new_zeros(*mask.shape, rows.shape[-1]).masked_scatter(mask.unsqueeze(-1), rows)


def gather_segments(
    input_values: torch.Tensor | None,
    segment_mask: torch.Tensor | None,
    segment_embeddings: torch.Tensor | None,
    hidden_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the real segments of all songs, `(N, T)` or `(N, D)`, and the mask `(B, S)` that says whose they are."""
    if (input_values is None) == (segment_embeddings is None):
        raise ValueError("give either `input_values` or `segment_embeddings`, and not both.")
    inputs: Any = segment_embeddings  # (B, S, D)
    if input_values is not None:
        inputs = input_values.unsqueeze(1) if input_values.ndim == 2 else input_values  # (B, S, T)
    if inputs.ndim != 3:
        raise ValueError(
            f"expected `(batch_size, num_segments, length)`, got the shape {tuple(inputs.shape)}. Song embeddings "
            "go in as one segment: `segment_embeddings=embedding.unsqueeze(1)`."
        )
    if segment_embeddings is not None and inputs.shape[-1] != hidden_size:
        raise ValueError(
            f"`segment_embeddings` are {inputs.shape[-1]} wide, but this model's are {hidden_size}; "
            "they come from another encoder."
        )
    if segment_mask is None:
        mask = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    else:
        mask = segment_mask.to(inputs.device, torch.bool)
    if mask.shape != inputs.shape[:2]:
        raise ValueError(f"`segment_mask` is {tuple(mask.shape)} for segments of {tuple(inputs.shape[:2])}.")
    if not mask.any(1).all():
        raise ValueError("a song has no segment: a row of `segment_mask` is all false.")
    return inputs[mask], mask
