"""
The SongEval model: from a whole song to its aesthetic scores, as ASLP-lab/SongEval computes them.

The first layers of MuQ (a conformer over a subsampled log-mel spectrogram) and a head of four attention layers, in
plain torch: neither package of the authors is needed, and memory stays linear in the length of the song. Everything
spans the song (attention, mean and maximum over time), so songs are neither cut nor padded: those of equal length can
share a batch, others go one by one. What no token sees beyond a few frames runs in blocks, with the same results.

Shape legend: B songs of equal length, N samples, M mel bands (128), F frames (100 a second), C channels (512), T
tokens (25 a second), D width of a token (1024), H scores (5).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_songeval_apex import SongEvalConfig
from .modeling_apex import ApexOutput, ApexPreTrainedModel
from .songeval_mel_apex import compute_log_mel
from .whole_song_apex import WholeSongStream, open_whole_song

FRAMES_PER_BLOCK = 400  # of the subsampling; a multiple of the four frames of a token
HALO_FRAMES = 12  # a token sees nine frames each way; rounded up to whole tokens
TOKENS_PER_BLOCK = 1024  # of the feed-forward layers


class SubsamplingBlock(nn.Module):
    """Two convolutions beside a third, halving time and frequency: `(B, C, M, F)` to `(B, C', M / 2, F / 2)`."""

    def __init__(self, num_inputs: int, num_outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.conv3 = nn.Conv2d(num_inputs, num_outputs, 3, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(num_outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inputs)))))
        return F.relu(hidden + self.bn3(self.conv3(inputs)))


class Subsampling(nn.Module):
    """From a spectrogram `(B, M, F)` to tokens `(B, F / 4, D)`."""

    def __init__(self, config: SongEvalConfig):
        super().__init__()
        channels = config.subsampling_channels
        self.blocks = nn.ModuleList([SubsamplingBlock(1, channels), SubsamplingBlock(channels, channels)])
        self.projection = nn.Linear(channels * -(-config.num_mel_bands // 4), config.encoder_size)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Subsample each song in blocks that see as far beyond their edges as a token does."""
        songs = [torch.cat([*self._iterate_blocks(song)], dim=1) for song in mel.split(1)]
        return torch.cat(songs)  # (B, T, D)

    def _iterate_blocks(self, mel: torch.Tensor) -> Iterator[torch.Tensor]:
        num_frames = mel.shape[-1]
        for start in range(0, num_frames, FRAMES_PER_BLOCK):
            low = max(0, start - HALO_FRAMES)
            tokens = self.compute_tokens(mel[..., low : start + FRAMES_PER_BLOCK + HALO_FRAMES])
            num_tokens = -(-min(FRAMES_PER_BLOCK, num_frames - start) // 4)
            yield tokens[:, (start - low) // 4 :][:, :num_tokens]

    def compute_tokens(self, mel: torch.Tensor) -> torch.Tensor:
        """Subsample a spectrogram at once."""
        hidden = mel.unsqueeze(1)  # (B, 1, M, F)
        for block in self.blocks:
            hidden = block(hidden)
        tokens: torch.Tensor = self.projection(hidden.flatten(1, 2).transpose(1, 2))  # channels before bands
        return tokens


class FeedForward(nn.Module):
    """Two linear layers with SiLU between them, a block of tokens at a time."""

    def __init__(self, config: SongEvalConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.encoder_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.encoder_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return map_blocks(lambda some: self.output_dense(F.silu(self.intermediate_dense(some))), tokens)


class RotaryAttention(nn.Module):
    """Attention over the whole song; the rotation comes before the projections, and values are not rotated."""

    def __init__(self, config: SongEvalConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (
            nn.Linear(config.encoder_size, config.encoder_size) for _ in range(4)
        )

    def forward(self, tokens: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        # Elsewhere queries and keys are rotated. MuQ rotates what they are projected from, as transformers does.
        rotated = rotate(tokens, *angles, self.num_heads)
        mixed: torch.Tensor = self.linear_out(
            attend(self.linear_q(rotated), self.linear_k(rotated), self.linear_v(tokens), self.num_heads)
        )
        return mixed


class ConvolutionModule(nn.Module):
    """The conformer's convolution: gate, depthwise kernel over time, batch norm, SiLU."""

    def __init__(self, config: SongEvalConfig):
        super().__init__()
        size, kernel = config.encoder_size, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(size)
        self.pointwise_conv1 = nn.Conv1d(size, 2 * size, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=size, bias=False)
        self.batch_norm = nn.BatchNorm1d(size)
        self.pointwise_conv2 = nn.Conv1d(size, size, 1, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = F.glu(self.pointwise_conv1(self.layer_norm(tokens).transpose(1, 2)), dim=1)  # (B, D, T)
        hidden = F.silu(self.batch_norm(self.depthwise_conv(hidden)))
        outputs: torch.Tensor = self.pointwise_conv2(hidden).transpose(1, 2)
        return outputs


class ConformerLayer(nn.Module):
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer: `(B, T, D)` to the same."""

    def __init__(self, config: SongEvalConfig):
        super().__init__()
        self.ffn1_layer_norm = nn.LayerNorm(config.encoder_size)
        self.ffn1 = FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.encoder_size)
        self.self_attn = RotaryAttention(config)
        self.conv_module = ConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(config.encoder_size)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.encoder_size)

    def forward(self, tokens: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        tokens = self.ffn1(self.ffn1_layer_norm(tokens)) * 0.5 + tokens
        tokens = self.self_attn(self.self_attn_layer_norm(tokens), angles) + tokens
        tokens = tokens + self.conv_module(tokens)
        tokens = self.ffn2(self.ffn2_layer_norm(tokens)) * 0.5 + tokens
        normed: torch.Tensor = self.final_layer_norm(tokens)
        return normed


class SongEvalEncoder(nn.Module):
    """MuQ as far as SongEval reads it: spectrograms `(B, M, F)` to the output of its sixth layer, `(B, T, D)`."""

    def __init__(self, config: SongEvalConfig):
        super().__init__()
        self.config = config
        self.subsampling = Subsampling(config)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.subsampling(mel.to(self.subsampling.projection.weight.dtype))
        angles = compute_angles(tokens, self.config.num_attention_heads, self.config.rotary_embedding_base)
        for layer in self.layers:
            tokens = layer(tokens, angles)
        return tokens


class HeadAttention(nn.Module):
    """One attention layer of the head, with queries, keys and values projected together and no residual."""

    def __init__(self, config: SongEvalConfig):
        super().__init__()
        size = config.encoder_size
        self.num_heads = config.num_head_attention_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * size))
        self.out_proj = nn.Linear(size, size)

    def reset_parameters(self) -> None:
        """Start as `torch.nn.MultiheadAttention` starts."""
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = F.linear(tokens, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        mixed: torch.Tensor = self.out_proj(attend(query, key, value, self.num_heads))
        return mixed


class SongEvalHead(nn.Module):
    """From tokens `(B, T, D)` to the song embedding `(B, 2 D)`, and from there to the scores `(B, H)`."""

    def __init__(self, config: SongEvalConfig):
        super().__init__()
        size = config.encoder_size
        self.heads = [dict(head) for head in config.heads]
        self.expansion = nn.Linear(size, config.head_intermediate_size)
        self.reduction = nn.Linear(config.head_intermediate_size, size)
        self.attention = nn.ModuleList(HeadAttention(config) for _ in range(config.num_head_layers))
        self.output = nn.Linear(2 * size, len(config.heads))

    def embed_song(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean over time of the attended tokens, beside the maximum of those that went in: `(B, 2 D)`."""
        tokens = map_blocks(lambda some: self.reduction(F.relu(self.expansion(some))), tokens)
        maximum = tokens.amax(1)
        for layer in self.attention:
            tokens = layer(tokens)
        return torch.cat([tokens.mean(1), maximum], dim=-1)

    def score_song(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Scores `(B, H)` of song embeddings; from 1 to 5, as published, this is `2 tanh + 3`."""
        minimum, maximum = (
            embeddings.new_tensor([head[end] for head in self.heads]) for end in ("minimum", "maximum")
        )
        return torch.tanh(self.output(embeddings)) * ((maximum - minimum) / 2) + (maximum + minimum) / 2


class SongEvalModel(ApexPreTrainedModel):
    """
    Score whole songs: log-mel spectrogram, subsampling, conformer, attention head.

    The model stays in evaluation mode, as the statistics of its batch norms are part of the published computation, and
    belongs in float32: MuQ's authors warn of NaN in anything coarser.

    Args:
        config ([`SongEvalConfig`]):
            The configuration; `config.heads` decides which scores there are and in which order.
    """

    config_class: Any = SongEvalConfig
    base_model_prefix = "songeval"
    supports_gradient_checkpointing = False
    _supports_flash_attn = _supports_flex_attn = False
    _no_split_modules = ["ConformerLayer", "SubsamplingBlock"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["head"]  # noqa: RUF012
    embedding_parts = ("encoder.", "head.")  # the weights that a song embedding depends on, and those beside them

    def __init__(self, config: SongEvalConfig):
        super().__init__(config)
        self.encoder = SongEvalEncoder(config)
        self.head = SongEvalHead(config)
        self.post_init()
        self.eval()

    def train(self, mode: bool = True) -> "SongEvalModel":
        """Stay in evaluation mode, whatever is asked for."""
        super().train(False)
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Everything starts as PyTorch starts it; transformers' normal of 0.02 would start convolutions far too small.
        if isinstance(module, (HeadAttention, nn.Conv2d)):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def open_song(self, source: Any, **options: Any) -> WholeSongStream:
        """Open a song as this model hears it, which is what [`SongScorer`] asks; `options` as `open_whole_song`."""
        lengths = {name: getattr(self.config, name) for name in ("max_song_seconds", "minimum_num_samples")}
        return open_whole_song(source, target_rate=self.config.sampling_rate, **lengths, **options)

    def compute_segment_embeddings(self, input_values: torch.Tensor) -> torch.Tensor:
        """
        Embed songs of equal length; a song is one segment here.

        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`):
                Mono audio at `config.sampling_rate`, whole songs, not normalised.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, hidden_size)`.

        Raises:
            `TypeError`: If the samples are not floats.
            `ValueError`: If the shape is another one, the songs are too short or too long, or samples are NaN.
            `FloatingPointError`: If the model yields NaN or infinity.
        """
        self._check_songs(input_values)
        tokens = self.encoder(compute_log_mel(input_values, self.config))  # (B, T, D)
        embeddings: torch.Tensor = self.head.embed_song(tokens.to(self.head.output.weight.dtype))
        if not torch.isfinite(embeddings).all():
            raise FloatingPointError(
                "the model yields NaN or infinity. Check the checkpoint; in half precision, try dtype=torch.float32."
            )
        return embeddings

    def forward(
        self,
        input_values: torch.FloatTensor | None = None,
        segment_embeddings: torch.FloatTensor | None = None,
        output_segment_scores: bool = False,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ApexOutput | tuple[torch.Tensor, ...]:
        """
        Score songs of equal length, or song embeddings that were stored before.

        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`, *optional*):
                Mono audio at `config.sampling_rate`, whole songs, not normalised. Give this or `segment_embeddings`.
            segment_embeddings (`torch.FloatTensor` of shape `(batch_size, 1, hidden_size)`, *optional*):
                What [`compute_segment_embeddings`] returned; a song is one segment.
            output_segment_scores (`bool`, defaults to `False`):
                Whether to return the scores as those of the one segment too.
            return_dict (`bool`, *optional*):
                Whether to return an [`ApexOutput`] (the default) or a tuple.

        Raises:
            `TypeError`, `ValueError`, `FloatingPointError`: As [`compute_segment_embeddings`], or if both or neither
                of the inputs are given, or embeddings have another shape.
        """
        if (input_values is None) == (segment_embeddings is None):
            raise ValueError("give either `input_values` or `segment_embeddings`, and not both.")
        if segment_embeddings is None:
            assert input_values is not None  # one of the two is there
            embeddings = self.compute_segment_embeddings(input_values)  # (B, 2 D)
        elif segment_embeddings.shape[1:] != (1, self.config.hidden_size):
            raise ValueError(
                f"`segment_embeddings` are {tuple(segment_embeddings.shape)}, but this model's are (batch_size, 1, "
                f"{self.config.hidden_size}): a song is one segment. Scores of parts are not scores of the song."
            )
        else:
            embeddings = segment_embeddings[:, 0].to(self.head.output.weight.dtype)
        scores = self.head.score_song(embeddings)
        output = ApexOutput(
            scores=scores,
            song_embedding=embeddings,
            segment_embeddings=embeddings[:, None],
            segment_scores=scores[:, None] if output_segment_scores else None,
        )
        return output if return_dict in (None, True) else output.to_tuple()

    def _check_songs(self, waveform: torch.Tensor) -> None:
        """Refuse by name what the published computation would crash on, turn into NaN or take all memory for."""
        config = self.config
        if waveform.ndim != 2:
            raise ValueError(
                f"expected `(batch_size, num_samples)`, got the shape {tuple(waveform.shape)}. Songs of equal length "
                "go together, others one by one: padding changes their scores."
            )
        if not waveform.is_floating_point():
            raise TypeError(f"samples must be floats in [-1, 1], got {waveform.dtype}; divide 16-bit ones by 32768.")
        num_samples = waveform.shape[1]
        if num_samples < config.minimum_num_samples:
            raise ValueError(
                f"a song of {num_samples} samples is too short: one frame of the spectrogram needs at least "
                f"{config.minimum_num_samples}. Pass a longer song."
            )
        if num_samples > config.max_num_samples:
            raise ValueError(
                f"a song of {num_samples / config.sampling_rate:.1f} s is too long: the longest that this model "
                f"scores lasts {config.max_song_seconds:g} s, and it cuts none. Cut it yourself, or raise "
                "`config.max_song_seconds`, which costs memory and time."
            )
        damaged = (~torch.isfinite(waveform)).any(1).nonzero().flatten().tolist()
        if damaged:
            raise ValueError(
                f"songs {damaged} of the batch hold samples that are NaN or infinite; one such sample would make "
                "every score NaN. Render the song again, or clean it with torch.nan_to_num if that is what you mean."
            )


def map_blocks(function: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Apply a function that sees each token alone to `(B, T, D)`, a block of tokens at a time."""
    return torch.cat([function(some) for some in tokens.split(TOKENS_PER_BLOCK, dim=1)], dim=1)


def compute_angles(tokens: torch.Tensor, num_heads: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Compute the rotary tables for tokens `(B, T, D)`.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: cosines and sines of shape `(T, 1, D / num_heads)`. The angles are float32
        whatever the tokens are, as published.
    """
    size, device = tokens.shape[-1] // num_heads, tokens.device
    frequencies = 1.0 / (base ** (torch.arange(0, size, 2, device=device).float() / size))
    angles = torch.arange(tokens.shape[1], device=device).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
    return angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype)


def rotate(tokens: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Turn the halves of each head's part of `(B, T, D)` by the angles of its place."""
    parts = tokens.unflatten(-1, (num_heads, -1))  # (B, T, heads, D / heads)
    first, second = parts.chunk(2, dim=-1)
    turned: torch.Tensor = parts * cosines + torch.cat([-second, first], dim=-1) * sines
    return turned.flatten(2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Scaled dot-product attention of `(B, T, D)` over all tokens, without a matrix of all pairs."""
    query, key, value = (some.unflatten(-1, (num_heads, -1)).transpose(1, 2) for some in (query, key, value))
    mixed: torch.Tensor = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return mixed
