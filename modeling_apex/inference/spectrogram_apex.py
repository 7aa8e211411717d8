"""
The front end of the spectrogram-fusion model: from normalised segments to logarithmic spectrograms.

It has no weights and runs in float64 whatever the precision of the network that follows.
"""

import functools
from typing import Any

import numpy as np
import torch

# The mel scale as Slaney's Auditory Toolbox draws it: linear below 1 kHz, logarithmic above.
MEL_BREAK_HERTZ, MEL_BREAK, HERTZ_PER_MEL = 1000.0, 15.0, 200.0 / 3.0
MEL_LOG_STEP = np.log(6.4) / 27.0


def convert_hertz_to_mel(hertz: np.ndarray) -> np.ndarray:
    """Convert frequencies in hertz to mels of Slaney's scale."""
    logarithmic = MEL_BREAK + np.log(np.maximum(hertz, MEL_BREAK_HERTZ) / MEL_BREAK_HERTZ) / MEL_LOG_STEP
    return np.where(hertz < MEL_BREAK_HERTZ, hertz / HERTZ_PER_MEL, logarithmic)


def convert_mel_to_hertz(mels: np.ndarray) -> np.ndarray:
    """Convert mels of Slaney's scale to frequencies in hertz."""
    logarithmic = MEL_BREAK_HERTZ * np.exp(MEL_LOG_STEP * (np.maximum(mels, MEL_BREAK) - MEL_BREAK))
    return np.where(mels < MEL_BREAK, HERTZ_PER_MEL * mels, logarithmic)


def build_mel_filters(
    num_bands: int, fft_size: int, sampling_rate: int, minimum_hertz: float, maximum_hertz: float
) -> np.ndarray:
    """
    Build triangular filters, evenly spaced in mels; each adds up to one, so a band holds a mean power.

    Args:
        num_bands (`int`):
            How many filters.
        fft_size (`int`):
            Length of the Fourier transform, in samples.
        sampling_rate (`int`):
            In hertz.
        minimum_hertz (`float`):
            Lower edge of the first filter.
        maximum_hertz (`float`):
            Upper edge of the last filter.

    Returns:
        `np.ndarray` of shape `(num_bands, fft_size // 2 + 1)`, float64.

    Raises:
        `ValueError`: If a filter lies between two frequencies of the transform and would hear nothing.
    """
    frequencies = np.arange(fft_size // 2 + 1) * (sampling_rate / fft_size)
    limits = convert_hertz_to_mel(np.array([minimum_hertz, maximum_hertz]))
    edges = convert_mel_to_hertz(np.linspace(limits[0], limits[1], num_bands + 2))[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling))  # (M, frequencies)
    sums = filters.sum(axis=1, keepdims=True)
    empty = np.flatnonzero(sums[:, 0] == 0)
    if empty.size:
        raise ValueError(
            f"{empty.size} of {num_bands} mel bands (the first is number {empty[0]}) hold no frequency of a transform "
            f"of {fft_size} samples. Use fewer bands (`num_mel_bands`) or a longer `fft_size`."
        )
    normalised: np.ndarray = filters / sums
    return normalised


@functools.lru_cache(maxsize=8)
def _load_front_end(device: str, *settings: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return window and filters on a device. They follow from the config, so no checkpoint needs to hold them."""
    spectrogram, num_bands, fft_size, *rest = settings
    with torch.inference_mode(False):  # what is kept must serve training too, whoever asks for it first
        window = torch.hann_window(fft_size, dtype=torch.float64, device="cpu")
        window = window / window.square().sum().sqrt()  # white noise of unit variance: mean power one in each bin
        filters = None
        if spectrogram == "log-mel":
            filters = torch.from_numpy(build_mel_filters(num_bands, fft_size, *rest))
        # In float32 a quiet band beside a loud one is rounding noise, which the logarithm would show. Apple's GPUs
        # have nothing finer.
        precision = torch.float32 if device.startswith("mps") else torch.float64
        return window.to(device, precision), None if filters is None else filters.to(device, precision)


def compute_log_spectrogram(input_values: torch.Tensor, config: Any) -> torch.Tensor:
    """
    Compute the logarithm of the power in each band and frame.

    Frames are centred on multiples of the hop, with zeros beyond the ends of the segment; the window is Hann's, scaled
    to unit energy.

    Args:
        input_values (`torch.FloatTensor` of shape `(num_segments, num_samples)`):
            Normalised segments.
        config ([`SpectrogramFusionConfig`]):
            Kind, sizes and limits of the spectrogram.

    Returns:
        `torch.FloatTensor` of shape `(num_segments, num_bands, num_frames)`: natural logarithms, float32.
    """
    window, filters = _load_front_end(
        str(input_values.device),
        config.spectrogram,
        config.num_mel_bands,
        config.fft_size,
        config.sampling_rate,
        config.minimum_hertz,
        config.maximum_hertz,
    )
    frames = torch.stft(
        input_values.to(window.dtype),
        config.fft_size,
        config.hop_size,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )  # (N, frequencies, F)
    power = frames.real.square() + frames.imag.square()
    if filters is not None:
        power = filters @ power  # (N, M, F)
    return torch.log(power + config.power_floor).float()
