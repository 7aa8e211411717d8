"""
SongEval's computation restated in plain float64, with nothing taken from the package under test.

One function a stage, so that the parity test can compare the stages as well as the scores; the whole song at once,
every matrix of attention written out. Weights are the published ones under their published names. Each wrong turn that
has been taken before is a named option, so that a test can show that it would be seen.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]
RATE, WINDOW, HOP, BANDS = 24_000, 2048, 240, 128
MEAN, DEVIATION = 6.768444971712967, 18.417922652295623
WRONG_TURNS = (
    "rotation after projection",
    "wrong sign",
    "Slaney mel",
    "last frame kept",
    "frequency-major flatten",
    "top_db",
    "symmetric window",
    "zeros at the edges",
    "amplitude",
    "loudness normalised",
    "value rotated",
    "final norm",
)
FAINT_TURNS = ("symmetric window", "zeros at the edges")  # which long windows and long songs nearly hide
HEAD_WRONG_TURNS = ("residual", "positions", "last output", "maximum of attended", "maximum first")


def widen(weights: Weights) -> Weights:
    return {name: weight.double() for name, weight in weights.items()}


def mel_filters(*, slaney: bool = False) -> np.ndarray:
    """Triangles over the frequencies of the transform: (128, 1025)."""
    if slaney:
        import librosa

        return librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=BANDS, dtype=np.float64)
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    corners = [700 * (10 ** (top * i / (BANDS + 1) / 2595) - 1) for i in range(BANDS + 2)]
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    filters = np.zeros((BANDS, len(bins)))
    for band in range(BANDS):
        low, middle, high = corners[band : band + 3]
        filters[band] = np.interp(bins, [low, middle, high], [0.0, 1.0, 0.0])
    return filters


def log_mel(waveform: np.ndarray, wrong: str = "") -> torch.Tensor:
    """(N,) to normalised decibels (1, 128, N // 240)."""
    if wrong == "loudness normalised":
        waveform = waveform / np.abs(waveform).max()
    mode = "constant" if wrong == "zeros at the edges" else "reflect"
    padded = np.pad(waveform.astype(np.float64), WINDOW // 2, mode=mode)
    period = WINDOW - 1 if wrong == "symmetric window" else WINDOW
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / period)
    count = 1 + len(waveform) // HOP
    frames = np.stack([padded[i * HOP : i * HOP + WINDOW] * window for i in range(count)])
    power = np.abs(np.fft.rfft(frames, axis=1)) ** (1 if wrong == "amplitude" else 2)
    decibels = 10 * np.log10(np.maximum(mel_filters(slaney=wrong == "Slaney mel") @ power.T, 1e-10))
    if wrong == "top_db":
        decibels = np.maximum(decibels, decibels.max() - 80)
    if wrong != "last frame kept":
        decibels = decibels[:, :-1]
    return torch.from_numpy((decibels - MEAN) / DEVIATION)[None]


def subsample(mel: torch.Tensor, weights: Weights, wrong: str = "") -> torch.Tensor:
    """(1, 128, F) to tokens (1, T, D)."""
    hidden = mel[:, None]
    for block in (0, 1):
        prefix = f"model.conv.conv.{block}"

        def convolve(inputs: torch.Tensor, part: str, stride: int, prefix: str = prefix) -> torch.Tensor:
            weight, bias = weights[f"{prefix}.conv{part}.weight"], weights[f"{prefix}.conv{part}.bias"]
            return batch_norm(F.conv2d(inputs, weight, bias, stride, 1), weights, f"{prefix}.bn{part}")

        main = convolve(torch.relu(convolve(hidden, "1", 2)), "2", 1)
        hidden = torch.relu(main + convolve(hidden, "3", 2))
    hidden = hidden.permute(0, 3, 2, 1) if wrong == "frequency-major flatten" else hidden.permute(0, 3, 1, 2)
    return linear(hidden.flatten(2), weights, "model.conv.linear")


def turn(tokens: torch.Tensor, num_heads: int, wrong: str = "") -> torch.Tensor:
    """Rotary embedding of (1, T, D); the angles are float32."""
    size = tokens.shape[-1] // num_heads
    inverse = (1.0 / (10_000 ** (torch.arange(0, size, 2, dtype=torch.float32) / size))).to(torch.float32)
    angles = (torch.arange(tokens.shape[1], dtype=torch.float32)[:, None] * inverse).double()
    sine, cosine = torch.sin(angles)[:, None], torch.cos(angles)[:, None]
    if wrong == "wrong sign":
        sine = -sine
    parts = tokens.reshape(*tokens.shape[:2], num_heads, size)
    a, b = parts[..., : size // 2], parts[..., size // 2 :]
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1).flatten(2)


def softmax_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
    def split(some: torch.Tensor) -> torch.Tensor:
        return some.reshape(*some.shape[:2], num_heads, -1).transpose(1, 2)

    logits = split(query) @ split(key).transpose(-1, -2) / math.sqrt(query.shape[-1] // num_heads)
    return (torch.softmax(logits, dim=-1) @ split(value)).transpose(1, 2).flatten(2)


def conformer_layer(
    tokens: torch.Tensor, weights: Weights, index: int, num_heads: int, wrong: str = ""
) -> torch.Tensor:
    prefix = f"model.conformer.layers.{index}"

    def feed_forward(inputs: torch.Tensor, part: str) -> torch.Tensor:
        inner = linear(
            norm(inputs, weights, f"{prefix}.{part}_layer_norm"), weights, f"{prefix}.{part}.intermediate_dense"
        )
        return linear(inner * torch.sigmoid(inner), weights, f"{prefix}.{part}.output_dense")

    tokens = tokens + feed_forward(tokens, "ffn1") / 2

    normed = norm(tokens, weights, f"{prefix}.self_attn_layer_norm")
    attention = f"{prefix}.self_attn.linear"
    if wrong == "rotation after projection":
        query, key = (turn(linear(normed, weights, f"{attention}_{part}"), num_heads) for part in "qk")
    else:
        turned = turn(normed, num_heads, wrong)
        query, key = (linear(turned, weights, f"{attention}_{part}") for part in "qk")
    value = linear(turn(normed, num_heads) if wrong == "value rotated" else normed, weights, f"{attention}_v")
    tokens = tokens + linear(softmax_attention(query, key, value, num_heads), weights, f"{attention}_out")

    conv = f"{prefix}.conv_module"
    hidden = norm(tokens, weights, f"{conv}.layer_norm").transpose(1, 2)
    gated, gate = F.conv1d(hidden, weights[f"{conv}.pointwise_conv1.weight"]).chunk(2, dim=1)
    kernel = weights[f"{conv}.depthwise_conv.weight"]
    hidden = F.conv1d(gated * torch.sigmoid(gate), kernel, padding=kernel.shape[-1] // 2, groups=len(kernel))
    hidden = batch_norm(hidden, weights, f"{conv}.batch_norm")
    hidden = F.conv1d(hidden * torch.sigmoid(hidden), weights[f"{conv}.pointwise_conv2.weight"])
    tokens = tokens + hidden.transpose(1, 2)

    tokens = tokens + feed_forward(tokens, "ffn2") / 2
    return norm(tokens, weights, f"{prefix}.final_layer_norm")


def hidden_states(waveform: np.ndarray, weights: Weights, num_heads: int, wrong: str = "") -> list[torch.Tensor]:
    """The tokens, then the output of each of the first six layers."""
    states = [subsample(log_mel(waveform, wrong), weights, wrong)]
    for index in range(6):
        states.append(conformer_layer(states[-1], weights, index, num_heads, wrong))
    if wrong == "final norm":
        states[-1] = norm(states[-1], weights, "model.conformer.layer_norm")
    return states


def pool(tokens: torch.Tensor, weights: Weights, wrong: str = "") -> torch.Tensor:
    """The head up to its last layer: (1, T, D) to (1, 2 D)."""
    tokens = linear(torch.relu(linear(tokens, weights, "ffd.0")), weights, "ffd.2")
    attended = turn(tokens, 8) if wrong == "positions" else tokens
    for index in range(4):
        weight, bias = weights[f"attn.{index}.in_proj_weight"], weights[f"attn.{index}.in_proj_bias"]
        query, key, value = (attended @ weight.T + bias).chunk(3, dim=-1)
        before = attended if wrong == "residual" else 0
        attended = before + linear(softmax_attention(query, key, value, 8), weights, f"attn.{index}.out_proj")
    mean = attended[:, -1] if wrong == "last output" else attended.mean(1)
    highest = (attended if wrong == "maximum of attended" else tokens).max(1).values
    return torch.cat([highest, mean] if wrong == "maximum first" else [mean, highest], dim=-1)


def score(pooled: torch.Tensor, weights: Weights) -> torch.Tensor:
    return 2 * torch.tanh(linear(pooled, weights, "fc")) + 3


def linear(inputs: torch.Tensor, weights: Weights, prefix: str) -> torch.Tensor:
    return inputs @ weights[f"{prefix}.weight"].T + weights[f"{prefix}.bias"]


def norm(inputs: torch.Tensor, weights: Weights, prefix: str) -> torch.Tensor:
    centred = inputs - inputs.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    return scaled * weights[f"{prefix}.weight"] + weights[f"{prefix}.bias"]


def batch_norm(inputs: torch.Tensor, weights: Weights, prefix: str) -> torch.Tensor:
    """Stored statistics, one channel at a time: (B, C, ...)."""
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    mean, variance = weights[f"{prefix}.running_mean"], weights[f"{prefix}.running_var"]
    scaled = (inputs - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
    return scaled * weights[f"{prefix}.weight"].view(shape) + weights[f"{prefix}.bias"].view(shape)
