"""
Room 5 on a CPU: a HuBERT encoder, arranged for caches instead of for clarity, equal to the plain one within rounding.

What differs from transformers' `HubertModel`, which stays the reference (`pool_hidden_states` in `modeling_apex`):

- the convolutions are matrix products over frames that lie channels last, in tiles that stay in cache; the group norm
  of the first is folded into its weight, because the moments of a linear map follow from those of the samples;
- the positional convolution, 128 frames wide, is a product in the frequency domain;
- query, key and value come from one product, and attention works a few queries of one head at a time, so that their
  logits stay in cache, but where torch's fused attention is faster;
- weights are packed once (`packed_linear`);
- the chosen layers are averaged as they pass;
- of the zeros that pad the last segment, one frame is computed and counted as many times as it occurs. All frames that
  see nothing but the padding are the same vector, and away from the edges they stay the same through every layer, so
  this changes nothing but the time: `log M` on its logit and `M` in the mean make one token stand for M.

Shape legend: T samples, F frames, C channels of the front end, D hidden size, I intermediate size, L chosen layers.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from modeling_apex.engines.mapped_weights import page_out, trim_heap
from modeling_apex.engines.packed_linear import build_linear, has_fast_attention
from modeling_apex.inference.worker_threads_apex import map_in_workers

# How many frames of the front end and of each of its convolutions, queries of attention, and rows of the feed-forward
# layer are computed at a time: the largest numbers whose intermediate results stay in the cache of one core.
FRAMES_PER_TILE = 256
FRAMES_PER_CONVOLUTION = 1024
QUERIES_PER_BLOCK = 192
SHORT_SEQUENCE = 640
ROWS_PER_BLOCK = 512
FFT_LENGTH = 256
POSITION = "encoder.pos_conv_embed.conv"
# The frames that padding leaves are a multiple of this.
FRAMES_PER_LENGTH = 64
# What bounds memory, for as many segments as are encoded side by side.
PATCHES_PER_BLOCK = 1 << 14
MAX_HEADS_AT_ONCE = 4


def can_arrange(config: Any) -> bool:
    """Tell whether [`PackedEncoder`] computes what a HuBERT config describes: not the variants that no MERT is."""
    return (
        config.hidden_act == "gelu"
        and config.feat_extract_activation == "gelu"
        and config.feat_extract_norm in ("group", "layer")
        and not getattr(config, "conv_pos_batch_norm", False)
        and getattr(config, "adapter_attn_dim", None) is None
        and config.num_conv_pos_embeddings <= FFT_LENGTH // 2
    )


class PackedEncoder:
    """
    Encode segments to the time means of chosen layers.

    Args:
        weights (`Mapping[str, torch.FloatTensor]`):
            The encoder's state dict, with HuBERT's names.
        config (`HubertConfig`):
            Its config, one that [`can_arrange`] accepts.
        dtype (`torch.dtype`, defaults to `torch.float32`):
            What matrix products are computed in, float32 or bfloat16; norms, residuals and means are float32.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], config: Any, dtype: torch.dtype = torch.float32):
        self.is_pre_norm = config.do_stable_layer_norm
        self.front_end = _FrontEnd(weights, config, dtype)
        self.position = _PositionalConvolution(weights, config)
        self.norm = _LayerNorm(weights, "encoder.layer_norm", config.layer_norm_eps)
        self.layers = []
        for index in range(config.num_hidden_layers):
            name = f"encoder.layers.{index}"
            self.layers.append(_TransformerLayer(weights, name, config, dtype))
            # A linear layer of many inputs is kept in another form from here on: no need to hold it twice.
            page_out(weight for key, weight in weights.items() if key.startswith(f"{name}.") and weight.ndim > 1)
        trim_heap()

    def __call__(self, input_values: torch.Tensor, layer_indices: Iterable[int]) -> torch.Tensor:
        """
        Encode segments.

        Args:
            input_values (`torch.FloatTensor` of shape `(num_segments, num_samples)`):
                Normalised segments.
            layer_indices (`Iterable[int]`):
                Entries of the hidden states; 0 is the input of the first layer, negative ones count from the end.

        Returns:
            `torch.FloatTensor` of shape `(num_segments, num_chosen_layers, hidden_size)`: time means, in float32.
        """
        wanted = [index % (len(self.layers) + 1) for index in layer_indices]

        def encode(samples: torch.Tensor, check: Callable[[], None]) -> torch.Tensor:
            return self._encode(samples, wanted, check)  # (L, D)

        return torch.stack(map_in_workers(encode, list(input_values.float())))  # (N, L, D)

    def _encode(self, samples: torch.Tensor, wanted: list[int], check: Callable[[], None]) -> torch.Tensor:
        features, num_repeats, repeated = self.front_end(samples, self.position.width)  # (F, D)
        hidden = features + self.position(features)
        if not self.is_pre_norm:
            hidden = self.norm(hidden)
        bias = weights = None
        if num_repeats > 1:
            bias = hidden.new_zeros(len(hidden))
            bias[repeated] = math.log(num_repeats)
            weights = hidden.new_ones(len(hidden))
            weights[repeated] = num_repeats
            weights /= weights.sum()

        def average(states: torch.Tensor) -> torch.Tensor:
            return states.mean(0) if weights is None else weights @ states

        means = {0: average(hidden)} if 0 in wanted else {}
        for index, layer in enumerate(self.layers, start=1):
            check()
            hidden = layer(hidden, bias)
            if index == len(self.layers) and self.is_pre_norm:
                hidden = self.norm(hidden)
            if index in wanted:
                means[index] = average(hidden)  # (D,)
        return torch.stack([means[index] for index in wanted])  # (L, D)


class _LayerNorm:
    def __init__(self, weights: Mapping[str, torch.Tensor], name: str, epsilon: float):
        # Copied, here and below: a view of a mapped checkpoint would change with its file.
        self.weight = weights[f"{name}.weight"].float().clone()
        self.bias = weights[f"{name}.bias"].float().clone()
        self.epsilon = epsilon

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.epsilon)


class _FrontEnd:
    """From samples `(T,)` to projected features `(F, D)`, in tiles of output frames."""

    def __init__(self, weights: Mapping[str, torch.Tensor], config: Any, dtype: torch.dtype):
        self.dtype = dtype
        self.kernels, self.strides = list(config.conv_kernel), list(config.conv_stride)
        self.has_group_norm = config.feat_extract_norm == "group"
        prefixes = [f"feature_extractor.conv_layers.{index}" for index in range(len(self.kernels))]
        matrices = [weights[f"{name}.conv.weight"].float().transpose(1, 2).flatten(1) for name in prefixes]  # (C, k*C)
        biases = [weights[f"{name}.conv.bias"].float().clone() if config.conv_bias else None for name in prefixes]
        self.first_matrix, self.first_bias = matrices[0].clone(), biases[0]
        self.convolutions = [
            build_linear(matrix.to(dtype, copy=True), bias)
            for matrix, bias in zip(matrices[1:], biases[1:], strict=True)
        ]
        if self.has_group_norm:
            self.first_norm = _LayerNorm(weights, f"{prefixes[0]}.layer_norm", 1e-5)
        else:
            self.norms = [_LayerNorm(weights, f"{name}.layer_norm", 1e-5) for name in prefixes]
        self.projection_norm = (
            _LayerNorm(weights, "feature_projection.layer_norm", config.layer_norm_eps)
            if config.feat_proj_layer_norm
            else None
        )
        self.hidden_size = config.hidden_size
        name = "feature_projection.projection"
        bias = weights[f"{name}.bias"].float().clone()
        self.projection = build_linear(weights[f"{name}.weight"].to(dtype, copy=True), bias)

    def __call__(self, samples: torch.Tensor, context: int) -> tuple[torch.Tensor, int, int]:
        """Return features, how many frames one of them stands for, and which one that is."""
        if self.has_group_norm:
            # The norm removes a constant offset anyway; without it, little is lost to rounding in the folded form.
            samples = samples - samples.mean(dtype=torch.float64).float()
        hop = math.prod(self.strides)
        num_frames = len(samples)
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            num_frames = (num_frames - kernel) // stride + 1
        # From this frame on, nothing but the constant end of the segment is seen.
        num_distinct = min(-(-_count_before_constant_end(samples) // hop), num_frames)
        # Up to one of few lengths: oneDNN keeps the code that it made for every shape, and songs end anywhere.
        num_distinct = -(-(num_distinct + context) // FRAMES_PER_LENGTH) * FRAMES_PER_LENGTH - context
        num_computed = num_frames
        if num_frames - num_distinct > context:
            num_computed = num_distinct + 1
        first = self._build_first(samples)
        features = samples.new_empty(num_computed, self.hidden_size)  # (F, D)
        for start in range(0, num_computed, FRAMES_PER_TILE):
            tile = features[start : start + FRAMES_PER_TILE]
            tile.copy_(self._project(self._convolve(samples, first, len(self.convolutions), start, start + len(tile))))
        if num_computed == num_frames:
            return features, 1, 0
        # The positional convolution sees `context` frames: with that many copies of the constant frame, the one in the
        # middle is what every frame away from both edges is.
        features = torch.cat([features, features[-1:].expand(context - 1, -1)])
        return features, num_frames - len(features) + 1, num_distinct + context // 2

    def _build_first(self, samples: torch.Tensor) -> Callable[..., torch.Tensor]:
        """Fold the group norm over the whole segment into the first convolution."""
        if not self.has_group_norm:
            return build_linear(self.first_matrix, self.first_bias)
        kernel, stride = self.kernels[0], self.strides[0]
        patches = samples.unfold(0, kernel, stride)
        # Variances come from differences of large sums, so the moments are taken in float64.
        blocks = patches.split(PATCHES_PER_BLOCK)
        mean = sum(block.double().sum(0) for block in blocks) / len(patches)
        centered = (block.double() - mean for block in blocks)
        covariance = sum(block.T @ block for block in centered) / len(patches)
        matrix = self.first_matrix.double()
        variance = ((matrix @ covariance) * matrix).sum(1)  # (C,)
        scale = self.first_norm.weight.double() / (variance + self.first_norm.epsilon).sqrt()
        # A bias of the convolution would be removed by the norm, so it does not appear.
        bias = self.first_norm.bias.double() - scale * (matrix @ mean)
        return build_linear((matrix * scale[:, None]).float(), bias.float())

    def _convolve(
        self, samples: torch.Tensor, first: Callable[..., torch.Tensor], index: int, start: int, stop: int
    ) -> torch.Tensor:
        """Return frames `start` to `stop` of a convolution, `(F, C)`, each block from the frames that it sees."""
        kernel, stride = self.kernels[index], self.strides[index]
        if index == 0:
            patches = samples[start * stride :].as_strided((stop - start, kernel), (stride, 1))
            return self._activate(first, patches, 0)
        num_blocks = max(1, round((stop - start) / FRAMES_PER_CONVOLUTION))
        edges = [start + (stop - start) * number // num_blocks for number in range(num_blocks + 1)]
        blocks = []
        for begin, end in itertools.pairwise(edges):
            frames = self._convolve(samples, first, index - 1, begin * stride, (end - 1) * stride + kernel)
            width = frames.shape[1]
            patches = frames.as_strided((end - begin, kernel * width), (stride * width, 1))
            blocks.append(self._activate(self.convolutions[index - 1], patches, index))
        return blocks[0] if num_blocks == 1 else torch.cat(blocks)

    def _activate(self, convolution: Callable[..., torch.Tensor], patches: torch.Tensor, index: int) -> torch.Tensor:
        if self.has_group_norm:
            return convolution(patches, gelu=True).to(self.dtype)
        return F.gelu(self.norms[index](convolution(patches).float())).to(self.dtype)

    def _project(self, frames: torch.Tensor) -> torch.Tensor:
        if self.projection_norm is not None:
            frames = self.projection_norm(frames.float())
        return self.projection(frames.to(self.dtype)).float()


def _count_before_constant_end(samples: torch.Tensor) -> int:
    """Count the samples before the run of equal samples that a segment ends with."""
    differs = (samples != samples[-1]).flip(0)
    return len(samples) - int(differs.byte().argmax()) if bool(differs.any()) else 0


def restore_positional_weight(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the weight `(D, D / G, k)` of the positional convolution, kept as magnitude and direction, in float64."""
    magnitude = weights[f"{POSITION}.parametrizations.weight.original0"].double()
    direction = weights[f"{POSITION}.parametrizations.weight.original1"].double()
    weight: torch.Tensor = magnitude * direction / direction.norm(dim=(0, 1), keepdim=True)
    return weight


class _PositionalConvolution:
    """The grouped convolution over time, by overlap-save in the frequency domain, and its GELU."""

    def __init__(self, weights: Mapping[str, torch.Tensor], config: Any):
        weight = restore_positional_weight(weights)
        self.width = weight.shape[-1]
        self.num_groups = config.num_conv_pos_embedding_groups
        self.bias = weights[f"{POSITION}.bias"].float().clone()
        spectrum = torch.fft.rfft(weight.flip(-1), n=FFT_LENGTH)  # convolution is correlation with the mirror image
        size = weight.shape[1]
        # (groups, frequencies, inputs, outputs)
        self.spectra = (
            spectrum.view(self.num_groups, size, size, -1).permute(0, 3, 2, 1).to(torch.complex64).contiguous()
        )

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the embedding of positions, of the shape of `hidden` `(F, D)`."""
        num_frames, size = hidden.shape
        step = FFT_LENGTH - self.width + 1
        num_blocks = -(-num_frames // step)
        # An even width makes one frame too many; HuBERT drops the last.
        padded = F.pad(hidden, (0, 0, self.width // 2, num_blocks * step + self.width - 1 - num_frames))
        blocks = padded.T.unfold(1, FFT_LENGTH, step)[:, :num_blocks]  # (D, blocks, n)
        convolved = hidden.new_empty(num_blocks, step, size)
        # Group by group, because what lies between the transforms is several times as large as `hidden`.
        for inputs, spectrum, outputs in zip(
            blocks.chunk(self.num_groups), self.spectra, convolved.chunk(self.num_groups, dim=2), strict=True
        ):
            spectra = torch.fft.rfft(inputs).permute(2, 1, 0)  # (frequencies, blocks, D / G)
            product = torch.bmm(spectra, spectrum).permute(1, 2, 0)  # (blocks, D / G, frequencies)
            outputs.copy_(torch.fft.irfft(product, n=FFT_LENGTH)[:, :, self.width - 1 :].transpose(1, 2))
        return F.gelu(convolved.view(-1, size)[:num_frames] + self.bias)


class _TransformerLayer:
    """Attention and feed-forward layer, with the norm after (MERT-v1-95M) or before (330M) each."""

    def __init__(self, weights: Mapping[str, torch.Tensor], name: str, config: Any, dtype: torch.dtype):
        def build(*parts: str, rows: slice = slice(None), scale: float = 1.0) -> Callable[..., torch.Tensor]:
            matrices = [weights[f"{name}.{part}.weight"][rows].float() for part in parts]
            biases = [weights[f"{name}.{part}.bias"][rows].float() for part in parts]
            matrices[0], biases[0] = matrices[0] * scale, biases[0] * scale
            return build_linear(torch.cat(matrices).to(dtype), torch.cat(biases))

        self.dtype = dtype
        self.is_pre_norm = config.do_stable_layer_norm
        num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // num_heads
        num_at_once = max(number for number in range(1, MAX_HEADS_AT_ONCE + 1) if num_heads % number == 0)
        self.width = num_at_once * self.head_size
        parts = [f"attention.{letter}_proj" for letter in "qkv"]
        self.query_key_value = [
            build(*parts, rows=slice(start, start + self.width), scale=self.head_size**-0.5)
            for start in range(0, config.hidden_size, self.width)
        ]
        self.output = build("attention.out_proj")
        self.widen = build("feed_forward.intermediate_dense")
        self.narrow = build("feed_forward.output_dense")
        self.first_norm = _LayerNorm(weights, f"{name}.layer_norm", config.layer_norm_eps)
        self.second_norm = _LayerNorm(weights, f"{name}.final_layer_norm", config.layer_norm_eps)

    def __call__(self, hidden: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Map `hidden` `(F, D)`; `bias` `(F,)` is added to the logits of each key."""
        context = self._attend(self.first_norm(hidden) if self.is_pre_norm else hidden, bias)
        hidden = self._add(self.output, context, hidden)
        if not self.is_pre_norm:
            hidden = self.first_norm(hidden)
        for block in hidden.split(ROWS_PER_BLOCK):
            block.copy_(self._feed_forward(block))
        return hidden

    def _add(self, linear: Callable[..., torch.Tensor], inputs: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        if self.dtype == torch.float32:
            return linear(inputs, residual=residual)
        return linear(inputs).float().add_(residual)

    def _feed_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        inputs = self.second_norm(hidden) if self.is_pre_norm else hidden
        hidden = self._add(self.narrow, self.widen(inputs.to(self.dtype), gelu=True), hidden)
        return hidden if self.is_pre_norm else self.second_norm(hidden)

    def _attend(self, hidden: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        hidden = hidden.to(self.dtype)
        context = torch.empty_like(hidden)
        for linear, some in zip(self.query_key_value, context.split(self.width, 1), strict=True):
            query, key, value = linear(hidden).view(len(hidden), 3, -1, self.head_size).unbind(1)
            self._attend_heads(query, key, value, bias, some.view(len(hidden), -1, self.head_size))
        return context

    def _attend_heads(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        context: torch.Tensor,
    ) -> None:
        """Attend with some heads: `query`, `key`, `value` and the result `context` are `(F, heads, D / heads)`."""
        num_frames, num_heads, _ = query.shape
        if num_frames <= SHORT_SEQUENCE or has_fast_attention():  # short: the logits of all queries fit in cache
            query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
            mask = None if bias is None else bias.to(self.dtype)[None, None, None]
            attended = F.scaled_dot_product_attention(query, key, value, mask, scale=1.0)[0]
            context.copy_(attended.transpose(0, 1))
            return
        for head in range(num_heads):
            compare = build_linear(key[:, head].contiguous(), bias)
            gather = build_linear(value[:, head].T.contiguous())
            blocks = query[:, head].contiguous().split(QUERIES_PER_BLOCK)
            for block, attended in zip(blocks, context[:, head].split(QUERIES_PER_BLOCK), strict=True):
                logits = compare(block)  # (queries, F)
                attended.copy_(gather(torch.softmax(logits, -1, out=logits)))
                del logits  # so that the next ones take the same memory, which is in cache
