"""
METHOD of arXiv 2605.03395 restated in plain torch functions, float64, with nothing taken from the package under test.

One function a stage, so that the parity test can compare the stages as well as the scores. Weights are the published
ones under their published names.
"""

import math

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]


def resample(waveform: torch.Tensor, original: int, target: int) -> torch.Tensor:
    """torchaudio's default: Hann-windowed sinc, width 6, roll-off 0.99."""
    divisor = math.gcd(original, target)
    original, target = original // divisor, target // divisor
    if original == target:
        return waveform
    width_in_zero_crossings, rolloff = 6, 0.99
    base = min(original, target) * rolloff
    width = math.ceil(width_in_zero_crossings * original / base)
    positions = torch.arange(-width, width + original, dtype=torch.float64) / original
    times = (torch.arange(0, -target, -1, dtype=torch.float64)[:, None] / target + positions[None]) * base
    times = times.clamp(-width_in_zero_crossings, width_in_zero_crossings)
    window = torch.cos(times * math.pi / width_in_zero_crossings / 2) ** 2
    times = times * math.pi
    kernels = torch.where(times == 0, 1.0, torch.sin(times) / times) * window * base / original
    padded = F.pad(waveform[None, None], (width, width + original))
    frames = F.conv1d(padded, kernels[:, None].to(padded.dtype), stride=original)
    return frames[0].T.reshape(-1)[: math.ceil(target * len(waveform) / original)]


def segment(waveform: torch.Tensor, length: int) -> torch.Tensor:
    """Consecutive segments, the last one zero-padded: (S, T)."""
    count = math.ceil(len(waveform) / length)
    return F.pad(waveform, (0, count * length - len(waveform))).reshape(count, length)


def normalize(segments: torch.Tensor) -> torch.Tensor:
    mean = segments.mean(1, keepdim=True)
    variance = segments.var(1, keepdim=True, correction=0)
    return (segments - mean) / torch.sqrt(variance + 1e-7)


def hidden_states(values: torch.Tensor, weights: Weights, config: dict) -> list[torch.Tensor]:
    """HuBERT base: (S, T) to num_layers + 1 tensors (S, F, D); the first is the input of the first layer."""
    hidden = values[:, None]
    for index, stride in enumerate(config["conv_stride"]):
        prefix = f"feature_extractor.conv_layers.{index}"
        hidden = F.conv1d(hidden, weights[f"{prefix}.conv.weight"], stride=stride)
        if index == 0:
            groups = hidden.shape[1]
            hidden = F.group_norm(
                hidden, groups, weights[f"{prefix}.layer_norm.weight"], weights[f"{prefix}.layer_norm.bias"]
            )
        hidden = F.gelu(hidden)
    hidden = hidden.transpose(1, 2)
    hidden = norm(hidden, weights, "feature_projection.layer_norm")
    hidden = linear(hidden, weights, "feature_projection.projection")

    g, v = weights["encoder.pos_conv_embed.conv.weight_g"], weights["encoder.pos_conv_embed.conv.weight_v"]
    kernel = g * v / v.norm(dim=(0, 1), keepdim=True)
    width = config["num_conv_pos_embeddings"]
    position = F.conv1d(
        hidden.transpose(1, 2),
        kernel,
        weights["encoder.pos_conv_embed.conv.bias"],
        padding=width // 2,
        groups=config["num_conv_pos_embedding_groups"],
    )
    if width % 2 == 0:
        position = position[..., :-1]
    hidden = norm(hidden + F.gelu(position).transpose(1, 2), weights, "encoder.layer_norm")

    states = [hidden]
    for index in range(config["num_hidden_layers"]):
        prefix = f"encoder.layers.{index}"
        attended = attend(hidden, weights, f"{prefix}.attention", config["num_attention_heads"])
        hidden = norm(hidden + attended, weights, f"{prefix}.layer_norm")
        inner = F.gelu(linear(hidden, weights, f"{prefix}.feed_forward.intermediate_dense"))
        outer = linear(inner, weights, f"{prefix}.feed_forward.output_dense")
        hidden = norm(hidden + outer, weights, f"{prefix}.final_layer_norm")
        states.append(hidden)
    return states


def attend(hidden: torch.Tensor, weights: Weights, prefix: str, num_heads: int) -> torch.Tensor:
    batch, frames, width = hidden.shape
    query, key, value = (
        linear(hidden, weights, f"{prefix}.{name}_proj").reshape(batch, frames, num_heads, -1).transpose(1, 2)
        for name in "qkv"
    )
    logits = query @ key.transpose(-1, -2) / math.sqrt(width // num_heads)
    mixed = (logits.softmax(-1) @ value).transpose(1, 2).reshape(batch, frames, width)
    return linear(mixed, weights, f"{prefix}.out_proj")


def aggregate(states: list[torch.Tensor], layer_indices: list[int], weight: torch.Tensor, bias: torch.Tensor):
    """Time means of the chosen layers, mixed by the 1x1 convolution: (S, D)."""
    means = torch.stack([states[index].mean(1) for index in layer_indices], dim=1)  # (S, L, D)
    return torch.einsum("sld,l->sd", means, weight.reshape(-1)) + bias


def score(song: torch.Tensor, weights: Weights, names: list[str]) -> torch.Tensor:
    """One song embedding (D,) to the named scores in native units."""
    hidden = song[None]
    index = 0
    while f"shared.{index}.block.0.weight" in weights:
        hidden = block(hidden, weights, f"shared.{index}.block")
        index += 1
    scores = []
    for name in names:
        branch = block(hidden, weights, f"branch_{name}.branch.0.block")
        branch = block(branch, weights, f"branch_{name}.branch.1.block")
        logit = linear(branch, weights, f"branch_{name}.branch.2")
        scale, shift = (100, 0) if name.startswith("score_") else (4, 1)
        scores.append(torch.sigmoid(logit)[0, 0] * scale + shift)
    return torch.stack(scores)


def block(hidden: torch.Tensor, weights: Weights, prefix: str) -> torch.Tensor:
    hidden = linear(hidden, weights, f"{prefix}.0")
    mean, variance = weights[f"{prefix}.1.running_mean"], weights[f"{prefix}.1.running_var"]
    hidden = (hidden - mean) / torch.sqrt(variance + 1e-5)
    return F.gelu(hidden * weights[f"{prefix}.1.weight"] + weights[f"{prefix}.1.bias"])


def linear(hidden: torch.Tensor, weights: Weights, prefix: str) -> torch.Tensor:
    return F.linear(hidden, weights[f"{prefix}.weight"], weights[f"{prefix}.bias"])


def norm(hidden: torch.Tensor, weights: Weights, prefix: str) -> torch.Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], weights[f"{prefix}.weight"], weights[f"{prefix}.bias"], 1e-5)
