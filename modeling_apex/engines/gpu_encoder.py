"""
Room 5 on a GPU: a HuBERT encoder, arranged for matrix units and memory, equal to the plain one within rounding.

What differs from transformers' `HubertModel`, which stays the reference (`pool_hidden_states` in `modeling_apex`):

- the convolutions work on frames that lie channels last, which is what matrix units read; cuDNN turns the plain layout
  over and back for each of them;
- the first convolution is one product with the patches of the samples, and the group norm after it is folded into its
  weight, because the moments of a linear map follow from those of the samples; that leaves one pass over the largest
  tensor of the model, where the plain way makes four;
- the positional convolution, 128 frames wide in 16 groups, is a product with a banded matrix for a few frames at a
  time, which matrix units take at their full rate, as they do not take cuDNN's grouped convolutions;
- query, key and value come from one product.

Shape legend: N segments, T samples, F frames, C channels of the front end, D hidden size, G groups, L chosen layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from modeling_apex.engines.packed_encoder import POSITION, restore_positional_weight

# Frames that one row of the banded matrix computes: fewer waste less on its zeros, more repeat less of the input.
FRAMES_PER_BAND = 16
# Columns of the patches of the first convolution are filled up to a multiple of this, so that matrix units take them.
COLUMN_MULTIPLE = 8


class GpuEncoder(nn.Module):
    """
    Encode segments to the time means of chosen layers.

    It runs on any device that torch knows, and pays on GPUs. It keeps copies of the weights and trains none of them.

    Args:
        weights (`Mapping[str, torch.FloatTensor]`):
            The encoder's state dict, with HuBERT's names.
        config (`HubertConfig`):
            Its config, one that `can_arrange` accepts.
        dtype (`torch.dtype`, defaults to `torch.float32`):
            What matrix products and attention are computed in; residuals, norms and means are float32.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], config: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.is_pre_norm = config.do_stable_layer_norm
        self.first = _FirstConvolution(weights, config, dtype)
        self.convolutions = nn.ModuleList(
            _Convolution(weights, config, index, dtype) for index in range(1, len(config.conv_dim))
        )
        self.projection_norm = (
            _build_norm(weights, "feature_projection.layer_norm", config.layer_norm_eps)
            if config.feat_proj_layer_norm
            else None
        )
        self.projection = _build_linear(weights, ["feature_projection.projection"], dtype)
        self.position = _PositionalConvolution(weights, config, dtype)
        self.norm = _build_norm(weights, "encoder.layer_norm", config.layer_norm_eps)
        self.layers = nn.ModuleList(
            _TransformerLayer(weights, f"encoder.layers.{index}", config, dtype)
            for index in range(config.num_hidden_layers)
        )
        self.dtype = dtype
        self.requires_grad_(False)

    def forward(self, input_values: torch.Tensor, layer_indices: Iterable[int]) -> torch.Tensor:
        """
        Encode segments.

        Args:
            input_values (`torch.FloatTensor` of shape `(N, T)`):
                Normalised segments.
            layer_indices (`Iterable[int]`):
                Entries of the hidden states; 0 is the input of the first layer, negative ones count from the end.

        Returns:
            `torch.FloatTensor` of shape `(N, L, D)`: time means, in float32.
        """
        wanted = [index % (len(self.layers) + 1) for index in layer_indices]
        features = self.first(input_values.float())  # (N, F, C)
        for convolution in self.convolutions:
            features = convolution(features)
        if self.projection_norm is not None:
            features = self.projection_norm(features.float()).to(self.dtype)
        features = self.projection(features)  # (N, F, D)
        hidden = features.float() + self.position(features).float()
        if not self.is_pre_norm:
            hidden = self.norm(hidden)
        means = {0: hidden.mean(1)} if 0 in wanted else {}
        for index, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden)
            if index == len(self.layers) and self.is_pre_norm:
                hidden = self.norm(hidden)
            if index in wanted:
                means[index] = hidden.mean(1)
        return torch.stack([means[index] for index in wanted], 1)


def _build_norm(weights: Mapping[str, torch.Tensor], name: str, epsilon: float) -> nn.LayerNorm:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    norm = nn.LayerNorm(len(weight), eps=epsilon, device=weight.device)
    norm.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return norm


def _build_linear(weights: Mapping[str, torch.Tensor], names: Sequence[str], dtype: torch.dtype) -> nn.Linear:
    """Build one linear layer of several, one below the other."""
    weight = torch.cat([weights[f"{name}.weight"] for name in names])
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=dtype)
    linear.load_state_dict({"weight": weight, "bias": torch.cat([weights[f"{name}.bias"] for name in names])})
    return linear


class _FirstConvolution(nn.Module):
    """From samples `(N, T)` to activated frames `(N, F, C)`."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weights: Mapping[str, torch.Tensor], config: Any, dtype: torch.dtype):
        super().__init__()
        name = "feature_extractor.conv_layers.0"
        weight = weights[f"{name}.conv.weight"][:, 0].float()
        self.register_buffer("weight", weight.clone())  # (C, k)
        bias = weights[f"{name}.conv.bias"].float() if config.conv_bias else weight.new_zeros(len(weight))
        self.register_buffer("bias", bias.clone())  # (C,)
        self.norm = _build_norm(weights, f"{name}.layer_norm", 1e-5)
        self.has_group_norm = config.feat_extract_norm == "group"
        self.kernel, self.stride = config.conv_kernel[0], config.conv_stride[0]
        self.dtype = dtype

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        if self.has_group_norm:
            # The norm removes a constant offset anyway; without it, little is lost to rounding in the folded form.
            samples = samples - samples.mean(1, keepdim=True, dtype=torch.float64).float()
        patches = samples.unfold(1, self.kernel, self.stride)  # (N, F, k)
        weight, bias = self._fold_norm(patches) if self.has_group_norm else (self.weight[None], self.bias[None])
        # The bias is added by columns of ones, its rounding by another: a pass over the result less.
        rounded = bias.to(self.dtype)
        rest = (bias - rounded.float()).to(self.dtype)
        filling = -(self.kernel + 2) % COLUMN_MULTIPLE
        columns = F.pad(patches.to(self.dtype), (0, 2), value=1.0)
        columns = F.pad(columns, (0, filling))  # (N, F, K)
        rows = F.pad(torch.cat([weight.to(self.dtype), rounded[..., None], rest[..., None]], -1), (0, filling))
        frames = torch.bmm(columns, rows.expand(len(samples), -1, -1).transpose(1, 2))  # (N, F, C)
        if not self.has_group_norm:
            frames = self.norm(frames.float()).to(self.dtype)
        return F.gelu(frames)

    def _fold_norm(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights `(N, C, k)` and biases `(N, C)` that do the work of convolution and norm."""
        # Variances come from differences of large sums, so the moments are taken in float64.
        patches = patches.double()
        mean = patches.mean(1, keepdim=True)  # (N, 1, k)
        centered = patches - mean
        covariance = centered.transpose(1, 2) @ centered / patches.shape[1]  # (N, k, k)
        matrix = self.weight.double()
        variance = ((matrix @ covariance) * matrix).sum(-1)  # (N, C)
        scale = self.norm.weight.double() / (variance + self.norm.eps).sqrt()
        # A bias of the convolution would be removed by the norm, so it does not appear.
        bias = self.norm.bias.double() - scale * (mean @ matrix.T)[:, 0]
        return (matrix * scale[..., None]).float(), bias.float()


class _Convolution(nn.Module):
    """From frames `(N, F, C)` to activated frames `(N, F', C')`."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weights: Mapping[str, torch.Tensor], config: Any, index: int, dtype: torch.dtype):
        super().__init__()
        name = f"feature_extractor.conv_layers.{index}"
        weight = weights[f"{name}.conv.weight"][..., None].to(dtype, copy=True)  # (C', C, k, 1)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        bias = weights[f"{name}.conv.bias"].to(dtype, copy=True) if config.conv_bias else None
        self.register_buffer("bias", bias)
        has_norm = config.feat_extract_norm == "layer"
        self.norm = _build_norm(weights, f"{name}.layer_norm", 1e-5) if has_norm else None
        self.kernel, self.stride = config.conv_kernel[index], config.conv_stride[index]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        if frames.dtype == torch.float32 and not torch.compiler.is_compiling():
            frames = self._multiply(frames)
        else:
            image = frames[:, :, None].permute(0, 3, 1, 2)  # (N, C, F, 1), channels last
            frames = F.conv2d(image, self.weight, self.bias, (self.stride, 1)).permute(0, 2, 3, 1)[:, :, 0]
        if self.norm is not None:
            frames = self.norm(frames.float()).to(frames.dtype)
        return F.gelu(frames)

    def _multiply(self, frames: torch.Tensor) -> torch.Tensor:
        """Convolve by plain products: for channels last, cuDNN has fast kernels in bfloat16 and TF32 only."""
        num_segments, num_inputs, width = frames.shape
        num_frames = (num_inputs - self.kernel) // self.stride + 1
        rows = self.weight[..., 0].permute(0, 2, 1)  # (C', k, C), as it lies in memory
        convolved = frames.new_empty(0)
        # As many taps as frames are stepped over lie side by side in memory, and are one product.
        for start, part in zip(range(0, self.kernel, self.stride), rows.split(self.stride, 1), strict=True):
            taps = part.shape[1] * width
            patches = frames.as_strided(
                (num_segments, num_frames, taps), (num_inputs * width, self.stride * width, 1), start * width
            )
            part = part.flatten(1).T.expand(num_segments, -1, -1)
            convolved = convolved.baddbmm_(patches, part) if start else torch.bmm(patches, part)
        return convolved if self.bias is None else convolved + self.bias


class _PositionalConvolution(nn.Module):
    """The grouped convolution over time as a product with a banded matrix, and its GELU."""

    bands: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weights: Mapping[str, torch.Tensor], config: Any, dtype: torch.dtype):
        super().__init__()
        weight = restore_positional_weight(weights)
        self.num_groups, self.width = config.num_conv_pos_embedding_groups, weight.shape[-1]
        size = weight.shape[1]
        weight = weight.to(dtype).view(self.num_groups, size, size, self.width).permute(0, 3, 2, 1)  # (G, k, in, out)
        self.window = FRAMES_PER_BAND + self.width - 1
        bands = weight.new_zeros(self.num_groups, self.window, size, FRAMES_PER_BAND, size)
        for frame in range(FRAMES_PER_BAND):
            bands[:, frame : frame + self.width, :, frame] = weight
        self.register_buffer("bands", bands.view(self.num_groups, self.window * size, FRAMES_PER_BAND * size))
        self.register_buffer("bias", weights[f"{POSITION}.bias"].to(dtype, copy=True))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the embedding of positions, of the shape of `hidden` `(N, F, D)`."""
        num_segments, num_frames, size = hidden.shape
        num_bands = -(-num_frames // FRAMES_PER_BAND)
        # An even width makes one frame too many; HuBERT drops the last.
        behind = num_bands * FRAMES_PER_BAND + self.width - 1 - num_frames - self.width // 2
        padded = F.pad(hidden, (0, 0, self.width // 2, behind))
        windows = padded.unfold(1, self.window, FRAMES_PER_BAND)  # (N, bands, D, window)
        windows = windows.unflatten(2, (self.num_groups, -1)).permute(2, 0, 1, 4, 3)  # (G, N, bands, window, D / G)
        product = torch.bmm(windows.reshape(self.num_groups, num_segments * num_bands, -1), self.bands)
        convolved = product.view(self.num_groups, num_segments, num_bands * FRAMES_PER_BAND, -1).permute(1, 2, 0, 3)
        return F.gelu(convolved.reshape(num_segments, -1, size)[:, :num_frames] + self.bias)


class _TransformerLayer(nn.Module):
    """Attention and feed-forward layer, with the norm after (MERT-v1-95M) or before (330M) each; `(N, F, D)` both."""

    def __init__(self, weights: Mapping[str, torch.Tensor], name: str, config: Any, dtype: torch.dtype):
        super().__init__()
        self.is_pre_norm, self.dtype = config.do_stable_layer_norm, dtype
        self.num_heads = config.num_attention_heads
        names = [f"{name}.attention.{letter}_proj" for letter in "qkv"]
        self.query_key_value = _build_linear(weights, names, dtype)
        self.output = _build_linear(weights, [f"{name}.attention.out_proj"], dtype)
        self.widen = _build_linear(weights, [f"{name}.feed_forward.intermediate_dense"], dtype)
        self.narrow = _build_linear(weights, [f"{name}.feed_forward.output_dense"], dtype)
        self.first_norm = _build_norm(weights, f"{name}.layer_norm", config.layer_norm_eps)
        self.second_norm = _build_norm(weights, f"{name}.final_layer_norm", config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self._attend(self.first_norm(hidden) if self.is_pre_norm else hidden)
        if not self.is_pre_norm:
            hidden = self.first_norm(hidden)
        inputs = self.second_norm(hidden) if self.is_pre_norm else hidden
        hidden = hidden + self.narrow(F.gelu(self.widen(inputs.to(self.dtype))))
        return hidden if self.is_pre_norm else self.second_norm(hidden)

    def _attend(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = self.query_key_value(hidden.to(self.dtype)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))  # (N, heads, F, D / heads)
        context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        attended: torch.Tensor = self.output(context)
        return attended
