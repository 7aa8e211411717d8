"""
Start a HuBERT front end as a filterbank: what comes in is a freshly built encoder, what leaves is the same encoder
whose first convolutions already compute band energies, and whose every weight can still be trained.

HuBERT's first convolution is followed by a norm over time and a GELU. It gets two channels, the waveform and its
negative, and kernel 1: the norm then changes nothing (segments arrive normalised), and because
`gelu(x) - gelu(-x) = x` the second convolution sees the waveform exactly. That one holds the filterbank: for every
band three Gaussian-windowed cosines (Gabor filters), 120 degrees apart, whose GELU-rectified outputs add up to nearly
the band's envelope. The third convolution adds them up: half of its channels are the envelopes, the other half their
rises, which is where notes and strokes begin.
"""

import math

import numpy as np
import torch
from torch import nn
from transformers import HubertModel

NUM_PHASES = 3
MINIMUM_HERTZ, MAXIMUM_HERTZ = 60.0, 11_000.0  # centres of the lowest and the highest band
# How many cycles of its own frequency a filter spans, where the kernel is long enough for them: high bands are short
# and quick, low bands are long and sharp.
CYCLES = 10.0
# Summing rectified outputs of three phases: mean of max(0, cos) over a period is 1 / pi.
RECTIFIED_MEAN = 1.0 / math.pi


def compute_band_frequencies(num_bands: int, minimum_hertz: float, maximum_hertz: float) -> np.ndarray:
    """
    Compute the centres of bands that are evenly spaced on the mel scale.

    Returns:
        `np.ndarray` of shape `(num_bands,)`: hertz, rising.

    Raises:
        `ValueError`: If there are fewer than two bands, or the frequencies do not rise from above zero.
    """
    if num_bands < 2 or not 0 < minimum_hertz < maximum_hertz:
        raise ValueError(
            f"a filterbank needs at least 2 bands between rising frequencies above 0 Hz, got {num_bands} bands from "
            f"{minimum_hertz} to {maximum_hertz} Hz."
        )
    low, high = (2595.0 * math.log10(1.0 + hertz / 700.0) for hertz in (minimum_hertz, maximum_hertz))
    return 700.0 * (10.0 ** (np.linspace(low, high, num_bands) / 2595.0) - 1.0)


def build_gabor_filters(frequencies: np.ndarray, kernel_size: int, sampling_rate: int) -> np.ndarray:
    """
    Build three Gabor filters a band, 120 degrees apart, each answering with 1 to a sine of its frequency.

    Args:
        frequencies (`np.ndarray` of shape `(num_bands,)`):
            Centres of the bands, in hertz.
        kernel_size (`int`):
            Length of a filter, in samples.
        sampling_rate (`int`):
            In hertz.

    Returns:
        `np.ndarray` of shape `(3 * num_bands, kernel_size)`, float32: the three phases of the first band, then of the
        second, and so on.
    """
    seconds = (np.arange(kernel_size) - (kernel_size - 1) / 2.0) / sampling_rate
    longest = kernel_size / sampling_rate
    widths = np.minimum(CYCLES / frequencies, longest) / 5.0  # a Gaussian reaches +-2.5 standard deviations
    window = np.exp(-0.5 * (seconds / widths[:, None]) ** 2)
    window /= window.sum(1, keepdims=True) / 2.0
    phases = 2.0 * np.pi * np.arange(NUM_PHASES) / NUM_PHASES
    angles = 2.0 * np.pi * frequencies[:, None, None] * seconds + phases[:, None]
    filters = window[:, None] * np.cos(angles)
    filters -= filters.mean(-1, keepdims=True)  # deaf to a constant offset
    return filters.reshape(-1, kernel_size).astype(np.float32)


@torch.no_grad()
def initialize_front_end(encoder: HubertModel, sampling_rate: int) -> np.ndarray:
    """
    Start the first three convolutions of a HuBERT encoder as a filterbank, its envelopes and their rises.

    Args:
        encoder (`HubertModel`):
            Freshly built, with `feat_extract_norm="group"`; changed in place. Its first convolution must have 2
            channels and kernel 1, its second 3 channels a band, its third 2 channels a band.
        sampling_rate (`int`):
            In hertz.

    Returns:
        `np.ndarray` of shape `(num_bands,)`: centres of the bands, in hertz.

    Raises:
        `ValueError`: If the encoder does not have that shape.
    """
    config = encoder.config
    num_bands = config.conv_dim[1] // NUM_PHASES if len(config.conv_dim) > 2 else 0
    has_shape = list(config.conv_dim[:3]) == [2, NUM_PHASES * num_bands, 2 * num_bands] and num_bands > 1
    if not has_shape or config.conv_kernel[0] != 1 or config.feat_extract_norm != "group":
        raise ValueError(
            "a filterbank front end needs `conv_dim` [2, 3 * bands, 2 * bands, ...], `conv_kernel` [1, ...] and "
            f'`feat_extract_norm` "group", got {list(config.conv_dim)}, {list(config.conv_kernel)} and '
            f"{config.feat_extract_norm!r}."
        )
    frequencies = compute_band_frequencies(num_bands, MINIMUM_HERTZ, MAXIMUM_HERTZ)
    layers = [layer.conv for layer in encoder.feature_extractor.conv_layers]
    layers[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1))
    filters = torch.from_numpy(build_gabor_filters(frequencies, config.conv_kernel[1], sampling_rate))
    layers[1].weight.copy_(torch.stack([filters, -filters], dim=1))
    layers[2].weight.copy_(_build_envelopes(num_bands, config.conv_kernel[2]))
    for layer in layers[:3]:
        if layer.bias is not None:
            layer.bias.zero_()
    return frequencies


def _build_envelopes(num_bands: int, kernel_size: int) -> torch.Tensor:
    """Return weights `(2 * num_bands, 3 * num_bands, kernel_size)` of envelopes, then of their rises."""
    weight = torch.zeros(2 * num_bands, num_bands, NUM_PHASES, kernel_size)
    bands = torch.arange(num_bands)
    level = 1.0 / (NUM_PHASES * RECTIFIED_MEAN)
    weight[bands, bands] = level / kernel_size
    half = kernel_size // 2
    weight[num_bands + bands, bands, :, :half] = -level / max(half, 1)
    weight[num_bands + bands, bands, :, kernel_size - half :] = level / max(half, 1)
    return weight.flatten(1, 2)


@torch.no_grad()
def equalize_bands(encoder: HubertModel, input_values: torch.Tensor) -> torch.Tensor:
    """
    Scale the filters so that every band is equally loud in given songs, which a spectrum that falls off needs.

    Afterwards the outputs of each band have a root mean square of 1.

    Args:
        encoder (`HubertModel`):
            With a front end from [`initialize_front_end`]; changed in place.
        input_values (`torch.FloatTensor` of shape `(num_segments, num_samples)`):
            Normalised segments.

    Returns:
        `torch.FloatTensor` of shape `(num_bands,)`: what each band was multiplied by.
    """
    first, second = encoder.feature_extractor.conv_layers[:2]
    weight, stride, power = second.conv.weight, second.conv.stride, []
    for segments in input_values.split(4):
        outputs = nn.functional.conv1d(first(segments[:, None]), weight, stride=stride)
        power.append(outputs.square().mean((0, 2)))
    per_band = torch.stack(power).mean(0).view(-1, NUM_PHASES).mean(1)
    scale: torch.Tensor = 1.0 / per_band.clamp(min=1e-8).sqrt()
    weight.mul_(scale.repeat_interleave(NUM_PHASES)[:, None, None])
    return scale
