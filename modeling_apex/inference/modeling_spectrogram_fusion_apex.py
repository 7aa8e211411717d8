"""
The spectrogram-fusion model: from segment features and track features to popularity and the probability of a hit.

After *Predicting Music Track Popularity by Convolutional Neural Networks on Spotify Features and Spectrogram of Audio
Waveform* (arXiv 2505.07280): a convolutional network on the spectrogram, fused late with structured features.

Shape legend: B songs, S segments, N real segments of all songs, T samples of a segment, F frames, M bands of the
spectrogram, C channels, D embedding of a segment, K track features, H scores (2).

No layer looks across songs (group norm and layer norm in place of batch norm), so a song's scores do not depend on its
company, in training too.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from .configuration_spectrogram_fusion_apex import SpectrogramFusionConfig
from .modeling_apex import ApexPreTrainedModel, compute_masked_squared_error
from .score_heads_apex import average_over_segments, gather_segments, place_rows, weigh_segments
from .spectrogram_apex import compute_log_spectrogram

CHANNELS_PER_GROUP = 8  # of group norm


@dataclass
class SpectrogramFusionOutput(ModelOutput):
    """
    Output of [`SpectrogramFusionModel`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` are given):
            Sum over the heads of the mean squared error, in squared native units; missing labels are left out.
        scores (`torch.FloatTensor` of shape `(batch_size, num_heads)`):
            Popularity, 0 to 100, and the probability of a hit, 0 to 1.
        song_embedding (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            Mean of the segment embeddings of each song; it knows nothing of the track features.
        segment_embeddings (`torch.FloatTensor` of shape `(batch_size, num_segments, hidden_size)`):
            Embedding of each segment; zero where `segment_mask` is false.
        segment_scores (`torch.FloatTensor` of shape `(batch_size, num_segments, num_heads)`, *optional*):
            With `output_segment_scores=True`, scores of each segment on its own, with the song's features; zero where
            `segment_mask` is false.
    """

    loss: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    song_embedding: torch.Tensor | None = None
    segment_embeddings: torch.Tensor | None = None
    segment_scores: torch.Tensor | None = None


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, halving time and frequency: `(N, C, M, F)` to `(N, C', M / 2, F / 2)`."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.first = nn.Conv2d(num_inputs, num_outputs, 3, stride=2, padding=1, bias=False)
        self.first_norm = _build_norm(num_outputs)
        self.second = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.second_norm = _build_norm(num_outputs)
        self.shortcut = nn.Conv2d(num_inputs, num_outputs, 1, stride=2, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.first_norm(self.first(inputs)))
        return F.relu(self.second_norm(self.second(hidden)) + self.shortcut(inputs))


class AttentionPooling(nn.Module):
    """Mean and spread over time, weighted by what each moment is worth: `(N, C, F)` to `(N, 2 C)`."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.hidden = nn.Linear(num_channels, num_channels // 2 + 1)
        self.weight = nn.Linear(num_channels // 2 + 1, 1, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        moments = inputs.transpose(1, 2)  # (N, F, C)
        weights = torch.softmax(self.weight(torch.tanh(self.hidden(moments))), dim=1)  # (N, F, 1)
        mean = (weights * moments).sum(1)  # (N, C)
        variance = (weights * (moments - mean.unsqueeze(1)).square()).sum(1)
        return torch.cat([mean, torch.sqrt(variance + 1e-5)], dim=-1)


class SpectrogramEncoder(nn.Module):
    """
    The audio branch: spectrograms `(N, M, F)` to embeddings `(N, D)`.

    Bands are brought to zero mean and unit variance by stored statistics of the training songs.
    """

    band_mean: torch.Tensor
    band_std: torch.Tensor

    def __init__(self, config: SpectrogramFusionConfig):
        super().__init__()
        self.register_buffer("band_mean", torch.zeros(config.num_bands))
        self.register_buffer("band_std", torch.ones(config.num_bands))
        self.stem = nn.Conv2d(1, config.channels[0], 3, stride=2, padding=1, bias=False)
        self.stem_norm = _build_norm(config.channels[0])
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after) for before, after in itertools.pairwise(config.channels)
        )
        num_rows = config.num_bands
        for _ in config.channels:
            num_rows = -(-num_rows // 2)
        # Bands are kept apart until here: a spectrogram, unlike a picture, has no two rows that mean the same.
        self.join_bands = nn.Conv1d(config.channels[-1] * num_rows, config.channels[-1], 1)
        self.pooling = AttentionPooling(config.channels[-1])
        self.projection = nn.Linear(2 * config.channels[-1], config.hidden_size)

    def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
        values = (spectrograms - self.band_mean.unsqueeze(-1)) / self.band_std.unsqueeze(-1)
        hidden = F.relu(self.stem_norm(self.stem(values.to(self.stem.weight.dtype).unsqueeze(1))))  # (N, C, M/2, F/2)
        for block in self.blocks:
            hidden = block(hidden)
        moments = F.relu(self.join_bands(hidden.flatten(1, 2)))  # (N, C, F / 2^n)
        embeddings: torch.Tensor = self.projection(self.pooling(moments))
        return embeddings


class FeatureEncoder(nn.Module):
    """
    The feature branch: rows of track features `(B, K)` to `(B, feature_dims[-1])`.

    Numeric values are transformed and normalised by the statistics that the config holds; each goes in with a second
    number that says whether it is missing. Categories are embedded, with an entry of their own for a missing value and
    one for a category that training never saw.
    """

    def __init__(self, config: SpectrogramFusionConfig):
        super().__init__()
        self.features = [dict(feature) for feature in config.features]
        categorical = [feature for feature in self.features if feature["kind"] == "categorical"]
        self.categories = nn.ModuleList(
            nn.Embedding(len(feature["categories"]) + 2, config.category_size) for feature in categorical
        )
        num_inputs = 2 * (len(self.features) - len(categorical)) + config.category_size * len(categorical)
        widths = [num_inputs, *config.feature_dims]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(config.dropout))
                for before, after in itertools.pairwise(widths)
            )
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        embeddings = iter(self.categories)
        columns = []
        for values, feature in zip(features.unbind(1), self.features, strict=True):
            is_missing = torch.isnan(values)
            if feature["kind"] == "categorical":
                # Entry 0 is a missing value, entry 1 an unseen category (stored as -1), the others are the config's.
                columns.append(next(embeddings)(torch.where(is_missing, 0.0, values + 2.0).long()))
                continue
            known = values.nan_to_num()
            known = torch.log1p(known) if feature["transform"] == "log1p" else known
            normalised = (known - feature["mean"]) / feature["std"]
            columns.append(torch.stack([torch.where(is_missing, 0.0, normalised), is_missing.float()], dim=-1))
        outputs: torch.Tensor = self.layers(torch.cat(columns, dim=-1))
        return outputs


class SpectrogramFusionModel(ApexPreTrainedModel):
    """
    Score songs: spectrogram, residual network, attention over time, mean over segments, fused with track features.

    Args:
        config ([`SpectrogramFusionConfig`]): The configuration; `config.branches` decides what the model listens to.
    """

    config_class: Any = SpectrogramFusionConfig
    base_model_prefix = "spectrogram_fusion"
    supports_gradient_checkpointing = False
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = False
    _no_split_modules = ["ResidualBlock"]  # noqa: RUF012
    # Statistics and track features span orders of magnitude, and these parts cost nothing: they stay in float32.
    _keep_in_fp32_modules_strict = ["band_mean", "band_std", "tabular", "fusion", "scores"]  # noqa: RUF012

    # How many segments the network sees at once; changes memory and speed, never scores.
    segments_per_pass: int | None = None

    def __init__(self, config: SpectrogramFusionConfig):
        super().__init__(config)
        self.encoder: Any = SpectrogramEncoder(config) if config.has_audio else None
        self.tabular: Any = FeatureEncoder(config) if config.features else None
        width = (config.hidden_size if config.has_audio else 0) + (config.feature_dims[-1] if config.features else 0)
        self.fusion = nn.Sequential(
            nn.Linear(width, config.fusion_size),
            nn.LayerNorm(config.fusion_size),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.scores = nn.Linear(config.fusion_size, len(config.heads))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Everything starts as PyTorch starts it; transformers' normal of 0.02 would start convolutions far too small.
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)):
            module.reset_parameters()
        elif not isinstance(module, SpectrogramEncoder):
            super()._init_weights(module)

    def encode_features(self, songs: list[dict[str, Any]]) -> torch.Tensor:
        """
        Turn the named features of songs into the model's `features`.

        Args:
            songs (`list[dict]`): Values by feature name, one dict per song; what is absent is missing.

        Returns:
            `torch.FloatTensor` of shape `(num_songs, num_features)`, on the model's device.

        Raises:
            `ValueError`: If a name is unknown; the message lists those there are.
        """
        rows = [self.config.encode_features(song) for song in songs]
        return torch.tensor(rows, dtype=torch.float32, device=self.device).reshape(
            len(rows), len(self.config.features)
        )

    def compute_spectrograms(self, input_values: torch.Tensor) -> torch.Tensor:
        """Compute the spectrograms `(N, M, F)` of normalised segments `(N, T)`; see `compute_log_spectrogram`."""
        return compute_log_spectrogram(input_values, self.config)

    def compute_segment_embeddings(self, input_values: torch.Tensor) -> torch.Tensor:
        """
        Encode segments.

        Args:
            input_values (`torch.FloatTensor` of shape `(num_segments, num_samples)`): Normalised segments.

        Returns:
            `torch.FloatTensor` of shape `(num_segments, hidden_size)`; zeros where the model does not hear the song.

        Raises:
            `FloatingPointError`: If the network yields NaN or infinity.
        """
        if self.encoder is None:
            return input_values.new_zeros(len(input_values), self.config.hidden_size, dtype=torch.float32)
        group = self.segments_per_pass or (8 if input_values.device.type == "cpu" else 64)
        return torch.cat(
            [self.encode_spectrograms(self.compute_spectrograms(part)) for part in input_values.split(group)]
        )

    def encode_spectrograms(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Encode spectrograms `(N, M, F)`, also shorter ones than a segment's, to embeddings `(N, D)`."""
        embeddings: torch.Tensor = self.encoder(spectrograms).float()
        if not torch.isfinite(embeddings).all():
            raise FloatingPointError(
                "the network yields NaN or infinity. Check that the input is finite and normalised; in half "
                "precision, try dtype=torch.float32."
            )
        return embeddings

    def compute_scores(self, embeddings: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        """
        Fuse embeddings with track features and score them.

        Args:
            embeddings (`torch.FloatTensor` of shape `(num_rows, hidden_size)`): Song or segment embeddings.
            features (`torch.FloatTensor` of shape `(num_rows, num_features)`, *optional*):
                Rows of `encode_features`; all missing by default.

        Returns:
            `torch.FloatTensor` of shape `(num_rows, num_heads)`: popularity and the probability of a hit.
        """
        parts = [embeddings] if self.encoder is not None else []
        if self.tabular is not None:
            parts.append(self.tabular(self._complete_features(features, embeddings)))
        shares = torch.sigmoid(self.scores(self.fusion(torch.cat(parts, dim=-1))))  # (B, H)
        maxima = shares.new_tensor([head["maximum"] for head in self.config.heads])
        return shares * maxima

    def forward(
        self,
        input_values: torch.FloatTensor | None = None,
        segment_mask: torch.BoolTensor | None = None,
        features: torch.FloatTensor | None = None,
        segment_embeddings: torch.FloatTensor | None = None,
        labels: torch.FloatTensor | None = None,
        output_segment_scores: bool = False,
        num_real_samples: torch.LongTensor | None = None,
        tail: str | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SpectrogramFusionOutput | tuple[torch.Tensor, ...]:
        """
        Score songs from their segments, or from segment embeddings that were stored before, and their features.

        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_segments, num_samples)` or
                `(batch_size, num_samples)`, *optional*):
                Output of [`ApexFeatureExtractor`]. Give this, `segment_embeddings`, or `features` alone.
            segment_mask (`torch.BoolTensor` of shape `(batch_size, num_segments)`, *optional*):
                True for real segments. Defaults to all true.
            features (`torch.FloatTensor` of shape `(batch_size, num_features)`, *optional*):
                Track features, from `encode_features`; NaN is missing. All are by default: a score of the audio alone.
            segment_embeddings (`torch.FloatTensor` of shape `(batch_size, num_segments, hidden_size)`, *optional*):
                Stored embeddings.
            labels (`torch.FloatTensor` of shape `(batch_size, num_heads)`, *optional*):
                Popularity, and 1 for a hit and 0 for none; NaN where a label is missing.
            num_real_samples, tail, output_segment_scores, return_dict: As for [`ApexModel`].

        Raises:
            `ValueError`: If the inputs are missing, given twice or of a wrong shape, or a song has no segment.
            `FloatingPointError`: If the network yields NaN or infinity.
        """
        if input_values is None and segment_embeddings is None and self.encoder is None:
            if features is None:
                raise ValueError("a model of the features alone needs `features`.")
            empty = features.new_zeros(len(features), 1, self.config.hidden_size)
            embeddings, mask = self._gather_segments(None, segment_mask, empty)  # (N, D), (B, S)
        else:
            embeddings, mask = self._gather_segments(input_values, segment_mask, segment_embeddings)
        rows_of_features = self._check_features(features, len(mask))
        per_segment = place_rows(embeddings, mask)  # (B, S, D)
        song_embedding = average_over_segments(per_segment, weigh_segments(mask, num_real_samples, self.config, tail))
        scores = self.compute_scores(song_embedding, rows_of_features)  # (B, H)
        if not torch.isfinite(scores).all():
            raise FloatingPointError("a head yields NaN or infinity; check the track features and the checkpoint.")
        segment_scores = None
        if output_segment_scores:
            of_song = torch.repeat_interleave(torch.arange(len(mask), device=mask.device), mask.sum(1))
            of_segment = None if rows_of_features is None else rows_of_features[of_song]
            segment_scores = place_rows(self.compute_scores(embeddings, of_segment), mask)  # (B, S, H)
        output = SpectrogramFusionOutput(
            loss=None if labels is None else compute_masked_squared_error(scores, labels),
            scores=scores,
            song_embedding=song_embedding,
            segment_embeddings=per_segment,
            segment_scores=segment_scores,
        )
        return output if return_dict in (None, True) else output.to_tuple()

    def _check_features(self, features: torch.Tensor | None, num_songs: int) -> torch.Tensor | None:
        if features is None:
            return None
        if self.tabular is None:
            raise ValueError("this model hears the audio alone and takes no `features`: leave them out.")
        expected = (num_songs, len(self.config.features))
        if tuple(features.shape) != expected:
            raise ValueError(
                f"`features` are {tuple(features.shape)}, expected {expected}: one row per song, one column per "
                f"feature, in the order {', '.join(self.config.feature_names)}. `encode_features` makes them."
            )
        return features

    def _complete_features(self, features: torch.Tensor | None, embeddings: torch.Tensor) -> torch.Tensor:
        """Return features that are there, or all missing; in training, some songs of a fused model lose theirs."""
        if features is None:
            return embeddings.new_full((len(embeddings), len(self.config.features)), torch.nan)
        features = features.to(embeddings.device, torch.float32)
        if self.training and self.encoder is not None and self.config.feature_dropout > 0:
            is_lost = torch.rand(len(features), 1, device=features.device) < self.config.feature_dropout
            features = torch.where(is_lost, torch.nan, features)
        return features

    def _gather_segments(
        self,
        input_values: torch.Tensor | None,
        segment_mask: torch.Tensor | None,
        segment_embeddings: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings of all real segments, `(N, D)`, and the mask `(B, S)` that says whose they are."""
        real, mask = gather_segments(input_values, segment_mask, segment_embeddings, self.config.hidden_size)
        if segment_embeddings is None and real.shape[-1] < self.config.fft_size:
            raise ValueError(
                f"segments have {real.shape[-1]} samples, fewer than the {self.config.fft_size} of one frame."
            )
        return (self.compute_segment_embeddings(real) if segment_embeddings is None else real.float()), mask


def _build_norm(num_channels: int) -> nn.GroupNorm:
    num_groups = num_channels // CHANNELS_PER_GROUP if num_channels % CHANNELS_PER_GROUP == 0 else 1
    return nn.GroupNorm(max(num_groups, 1), num_channels)
