"""
SongEval's front end: from a waveform to the log-mel spectrogram that MuQ was trained on, in bounded memory.

What comes in is float32 mono audio, neither cut nor normalised: loudness counts. What leaves are frames of 128 mel
bands in decibels, brought to the mean and deviation of MuQ's training songs. The transform runs over a few hundred
frames at a time, which changes nothing: a frame does not know its neighbours. Torch only.
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F

FRAMES_PER_BLOCK = 500
POWER_FLOOR = 1e-10  # -100 dB; nothing is cut relative to the loudest band


def build_htk_filters(num_bands: int, fft_size: int, sampling_rate: int) -> torch.Tensor:
    """
    Build triangular filters, evenly spaced in mels of the HTK scale and of equal height.

    In float32, step by step as torchaudio's `melscale_fbanks` with its defaults, which MuQ was trained behind.

    Args:
        num_bands (`int`):
            How many filters, from 0 hertz to half the sampling rate.
        fft_size (`int`):
            Length of the Fourier transform, in samples.
        sampling_rate (`int`):
            In hertz.

    Returns:
        `torch.FloatTensor` of shape `(fft_size // 2 + 1, num_bands)`.
    """
    highest = 2595.0 * math.log10(1.0 + sampling_rate // 2 / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, highest, num_bands + 2) / 2595.0) - 1.0)
    widths = edges[1:] - edges[:-1]
    distances = edges - torch.linspace(0, sampling_rate // 2, fft_size // 2 + 1)[:, None]  # (frequencies, M + 2)
    rising, falling = -distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


@functools.lru_cache(maxsize=4)
def _load_front_end(device: str, num_bands: int, fft_size: int, sampling_rate: int) -> tuple[torch.Tensor, ...]:
    """Return window and filters on a device. They follow from the config, so no checkpoint needs to hold them."""
    with torch.inference_mode(False), torch.device("cpu"):
        window = torch.hann_window(fft_size, dtype=torch.float32)
        filters = build_htk_filters(num_bands, fft_size, sampling_rate)
    return window.to(device), filters.to(device)


def compute_log_mel(waveform: torch.Tensor, config: Any) -> torch.Tensor:
    """
    Compute the normalised log-mel spectrogram.

    Args:
        waveform (`torch.FloatTensor` of shape `(batch_size, num_samples)`):
            Mono audio at `config.sampling_rate`, of more than `config.fft_size // 2` samples.
        config ([`SongEvalConfig`]):
            Sizes, and the mean and deviation to normalise by.

    Returns:
        `torch.FloatTensor` of shape `(batch_size, num_mel_bands, num_samples // hop_size)`, float32. The transform has
        one frame more, which the published computation drops.
    """
    size, hop = config.fft_size, config.hop_size
    window, filters = _load_front_end(str(waveform.device), config.num_mel_bands, size, config.sampling_rate)
    num_frames = waveform.shape[-1] // hop
    margin = size // 2
    padded = F.pad(waveform.float(), (margin, margin), mode="reflect")
    mel = padded.new_empty(len(waveform), config.num_mel_bands, num_frames)
    for start in range(0, num_frames, FRAMES_PER_BLOCK):
        stop = min(start + FRAMES_PER_BLOCK, num_frames)
        samples = padded[:, start * hop : (stop - 1) * hop + size]
        spectrum = torch.stft(samples, size, hop, window=window, center=False, return_complex=True)
        power = (spectrum.abs().square().transpose(1, 2) @ filters).transpose(1, 2)  # (B, M, frames)
        decibels = 10.0 * torch.log10(power.clamp(min=POWER_FLOOR))
        mel[..., start:stop] = (decibels - config.mel_mean) / config.mel_std
    return mel
