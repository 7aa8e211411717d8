"""Waveforms for tests: made, never stored."""

import numpy as np


def make_waveform(seconds: float, sampling_rate: int = 24_000, *, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    """Make a song-like waveform: a chord that swells, with a little noise; `(num_channels, num_samples)` or `(n,)`."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    channels = []
    for _ in range(num_channels):
        frequencies = generator.uniform(80, 0.35 * sampling_rate, size=5)
        phases = generator.uniform(0, 2 * np.pi, size=5)
        swell = 0.5 + 0.5 * np.sin(2 * np.pi * generator.uniform(0.5, 3) * time)
        tones = np.sin(2 * np.pi * frequencies[:, None] * time + phases[:, None]).sum(0)
        channels.append(0.12 * swell * tones + 0.02 * generator.standard_normal(len(time)))
    waveform = np.stack(channels).astype(np.float32)
    return waveform[0] if num_channels == 1 else waveform
