"""
One object that other programs call for a number: how good a waveform is, as a model of this package hears it.

What comes in are waveforms and their rate; what leaves is one reward each and the scores that it is made of, on the
device of the input, and with `differentiable=True` with a gradient to the samples. A reward that is optimised is
gamed: what rises then is the score, and less and less what it stood for.
"""

import functools
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from modeling_apex.arena.preference import load_preference_head
from modeling_apex.inference.score_heads_apex import place_rows
from modeling_apex.loading import load_model
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.rewards.waveforms import check_samples, cut_segments, list_waveforms, pad_rows, resample

STANDARDISATIONS = ("group", "reference")
SONG_ERRORS = (ValueError, FloatingPointError)
NORMAL = torch.distributions.Normal(0.0, 1.0)


@dataclass(frozen=True)
class RewardOutput:
    """What a call of [`SongReward`] returns."""

    rewards: torch.Tensor  # (B,), NaN where a song could not be scored
    components: dict[str, torch.Tensor]  # (B,) by the name of a score, in its native units
    errors: list[str | None]  # (B,), why a song could not be scored

    def tolist(self) -> list[float]:
        """Return the rewards as numbers."""
        numbers: list[float] = self.rewards.detach().cpu().tolist()
        return numbers


class SongReward:
    """
    Score waveforms as a reward.

    Args:
        model (`str`, `os.PathLike` or [`ApexModel`], *optional*):
            A Hub id, a folder, or a loaded model, which is put in evaluation mode and frozen. Defaults to the embedded
            demonstration model.
        score (`str` or `Mapping[str, float]`, defaults to `"musicality"`):
            The score that is the reward; or weights of several, each as a share of its range, or standardised; or
            `"preference"`: the strength by the model's preference head, in logits.
        standardise (`str`, *optional*):
            `"reference"`: each score by its place among the songs of the model's reference set, as a standard normal
            deviate. `"group"`: the reward against the mean and the standard deviation of its group, which is a call or
            what `groups` says; songs of one generator lie close together.
        max_seconds (`float`, *optional*):
            Score only the first seconds of each song. By default the whole.
        on_error (`str`, defaults to `"raise"`):
            `"nan"` gives NaN and the reason in `errors` for a song that cannot be scored.
        differentiable (`bool`, defaults to `False`):
            Whether rewards carry a gradient to the samples. Layers are then computed twice instead of kept.
        dtype (`str` or `torch.dtype`, defaults to `"float32"`), hub_options:
            As in [`load_pipeline`]; the dtype is the encoder's.

    Raises:
        `ValueError`: If the model has no such score, head, or reference set, or an option has no such value.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        score: str | Mapping[str, float] = "musicality",
        standardise: str | None = None,
        max_seconds: float | None = None,
        on_error: Literal["raise", "nan"] = "raise",
        differentiable: bool = False,
        dtype: "str | torch.dtype" = "float32",
        **hub_options: Any,
    ):
        if on_error not in ("raise", "nan"):
            raise ValueError(f"`on_error` must be 'raise' or 'nan', got {on_error!r}.")
        if standardise not in (None, *STANDARDISATIONS):
            raise ValueError(f"`standardise` must be None, {' or '.join(STANDARDISATIONS)}, got {standardise!r}.")
        if max_seconds is not None and not 0 < max_seconds < math.inf:
            raise ValueError(f"`max_seconds` must be positive, got {max_seconds!r}.")
        source = EMBEDDED_MODEL if model is None else model
        loaded = load_model(source, dtype=dtype, **hub_options) if isinstance(source, (str, os.PathLike)) else source
        self.model = loaded.eval().requires_grad_(False)
        self.score, self.standardise, self.max_seconds = score, standardise, max_seconds
        self.on_error, self.differentiable = on_error, differentiable
        self._weights = self._choose_weights(source)
        if standardise == "reference" and not self.model.config.reference.get("percentile_tables"):
            raise ValueError(
                "this model has no reference set to standardise by. `apex-music calibrate MODEL SONGS` gives it one."
            )
        if differentiable:
            _checkpoint_layers(self.model)

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | Sequence[int],
        *,
        lengths: Any = None,
        groups: Sequence[Hashable] | None = None,
    ) -> RewardOutput:
        """
        Score one song, a list of songs, or a padded batch.

        Args:
            audio (`np.ndarray`, `torch.Tensor`, or a list of them):
                Floats in [-1, 1]: `(num_samples,)`, `(num_channels, num_samples)` or `(num_samples, num_channels)`;
                a list of these; `(batch_size, num_channels, num_samples)`; or `(batch_size, num_samples)` with
                `lengths`.
                Tensors decide the device: the model moves to where they lie.
            sampling_rate (`int` or `Sequence[int]`): Their rate, in hertz, or the rate of each.
            lengths (`Sequence[int]`, *optional*): Samples of each song of a padded batch.
            groups (`Sequence`, *optional*): With `standardise="group"`, what each song belongs to, such as its prompt.

        Returns:
            [`RewardOutput`]

        Raises:
            `TypeError`, `ValueError`: If the input is no audio, or, with `on_error="raise"`, a song cannot be scored.
        """
        songs = list_waveforms(audio, lengths)
        rates = list(sampling_rate) if isinstance(sampling_rate, Sequence) else [sampling_rate] * len(songs)
        if len(rates) != len(songs):
            raise ValueError(
                f"`sampling_rate` must be one number, or one per song: {len(rates)} for {len(songs)} songs."
            )
        if groups is not None and len(groups) != len(songs):
            raise ValueError(f"`groups` must name one group a song: {len(groups)} for {len(songs)} songs.")
        device = songs[0].device if songs and _lies_on_a_device(audio) else self.model.device
        if device != self.model.device:
            self.model.to(device)
        with torch.set_grad_enabled(self.differentiable):
            scores, errors = self._score_songs([song.to(device) for song in songs], rates)  # (B, H)
            rewards = self._combine(scores)
            if self.standardise == "group":
                rewards = _standardise_by_group(rewards, groups)
        columns = scores.unbind(1)
        return RewardOutput(rewards, dict(zip(self.model.config.head_names, columns, strict=True)), errors)

    def _choose_weights(self, source: Any) -> torch.Tensor:
        """Return what each score counts, `(H,)`."""
        names, score = list(self.model.config.head_names), self.score
        if score == "preference":
            name = source if isinstance(source, (str, os.PathLike)) else source.config.name_or_path
            head = load_preference_head(name)
            if head is None:
                raise ValueError(
                    f"{name} has no preference head. `apex-music arena --save-head-to` fits one on battles."
                )
            score = head.weights
        weights = {score: 1.0} if isinstance(score, str) else dict(score)
        if unknown := sorted(set(weights) - set(names)):
            raise ValueError(f"this model has no score {', '.join(unknown)}; it has {', '.join(names)}.")
        if not weights or not all(math.isfinite(weight) for weight in weights.values()):
            raise ValueError(f"`score` must weigh at least one score by a finite number, got {weights}.")
        return torch.tensor([float(weights.get(name, 0.0)) for name in names])

    def _score_songs(
        self, songs: Sequence[torch.Tensor], rates: Sequence[int]
    ) -> tuple[torch.Tensor, list[str | None]]:
        config = self.model.config
        errors: list[str | None] = [None] * len(songs)
        segments, counts = [], []
        for row, (song, rate) in enumerate(zip(songs, rates, strict=True)):
            try:
                cut, lengths = self._prepare(song, rate)
            except SONG_ERRORS as error:
                if self.on_error == "raise":
                    raise type(error)(f"song {row}: {error}") from error
                errors[row] = str(error)
                continue
            segments.append(cut)
            counts.append(lengths)
        # Not a constant: what is gathered below must carry the graph of the songs that could be scored.
        scores = torch.full((len(songs), len(config.head_names)), math.nan, device=self.model.device)
        if not segments:
            return scores, errors
        scored = [row for row, error in enumerate(errors) if error is None]
        real = pad_rows(counts, self.model.device)  # (B, S)
        per_segment = place_rows(self._encode(torch.cat(segments)), real > 0)  # (B, S, D)
        output = self.model(segment_embeddings=per_segment, segment_mask=real > 0, num_real_samples=real)
        return scores.index_copy(0, torch.tensor(scored, device=scores.device), output.scores.float()), errors

    def _prepare(self, song: torch.Tensor, rate: int) -> tuple[torch.Tensor, list[int]]:
        """Bring a song to the segments that a file with the same samples becomes."""
        config = self.model.config
        check_samples(song)
        if self.max_seconds is not None:
            song = song[: round(self.max_seconds * rate)]
        waveform = resample(song, rate, config.sampling_rate)
        if len(waveform) < config.minimum_num_samples:
            raise ValueError(
                f"lasts {len(waveform)} samples at {config.sampling_rate} Hz, but at least "
                f"{config.minimum_num_samples} are needed."
            )
        return cut_segments(waveform, config.segment_num_samples)

    def _encode(self, segments: torch.Tensor) -> torch.Tensor:
        if not self.differentiable:
            embeddings: torch.Tensor = self.model.compute_segment_embeddings(segments)
            return embeddings
        # A frozen encoder is computed without gradients elsewhere; here its weights are frozen and its input is not.
        aggregator = self.model.aggregator
        pooled = (self.model._encode(segment).to(aggregator.weight.dtype) for segment in segments.split(1))
        return torch.cat([aggregator(layers).squeeze(1) for layers in pooled])

    def _combine(self, scores: torch.Tensor) -> torch.Tensor:
        """Weigh scores `(B, H)`: `(B,)`."""
        config, weights = self.model.config, self._weights.to(scores)
        if self.standardise == "reference":
            tables = config.reference["percentile_tables"]
            columns = [
                _to_normal_deviate(column, tables[name])
                for name, column in zip(config.head_names, scores.unbind(1), strict=True)
            ]
            return torch.stack(columns, 1) @ weights
        if isinstance(self.score, str):  # one score, or logits of the preference head, in native units
            return scores @ weights
        lowest, highest = (
            torch.tensor([head[end] for head in config.heads]).to(scores) for end in ("minimum", "maximum")
        )
        return ((scores - lowest) / (highest - lowest)) @ weights


def _lies_on_a_device(audio: Any) -> bool:
    return torch.is_tensor(audio) or (isinstance(audio, (list, tuple)) and any(map(torch.is_tensor, audio)))


def _standardise_by_group(rewards: torch.Tensor, groups: Sequence[Hashable] | None) -> torch.Tensor:
    """Subtract the mean of each group and divide by its standard deviation; a group without spread gets zeros."""
    labels = list(groups) if groups is not None else [None] * len(rewards)
    places = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    member = torch.tensor([places[label] for label in labels], device=rewards.device)
    standardised = rewards
    for place in places.values():
        rows = ((member == place) & ~rewards.isnan()).nonzero().squeeze(1)
        if not len(rows):
            continue
        values = rewards[rows]
        deviation = values.detach().std(correction=0)
        scale = deviation.where(deviation > 0, 1.0)
        standardised = standardised.index_copy(0, rows, (values - values.mean()) / scale)
    return standardised


def _to_normal_deviate(scores: torch.Tensor, table: Sequence[float]) -> torch.Tensor:
    """Turn scores into standard normal deviates of their place in a table of quantiles, linear between them."""
    quantiles = torch.tensor(table).to(scores)
    # Equal neighbours would divide by nothing.
    quantiles = quantiles + torch.arange(len(table), device=scores.device) * 1e-6
    last = len(table) - 1
    right = torch.searchsorted(quantiles, scores.detach().contiguous()).clamp(1, last)
    left = right - 1
    share = (scores - quantiles[left]) / (quantiles[right] - quantiles[left])
    place = ((left + share) / last).clamp(0.5 / last, 1 - 0.5 / last)
    deviates: torch.Tensor = NORMAL.icdf(place)
    return deviates


def _checkpoint_layers(model: Any) -> None:
    """Compute layers once more on the way back instead of keeping what is in them, which takes most of the memory."""
    for module in model.encoder.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.gradient_checkpointing = True
            module._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
            module.training = True  # of the layer alone: its dropout, a child, stays in evaluation mode
