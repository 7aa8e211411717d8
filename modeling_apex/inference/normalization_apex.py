"""
What room 4 does to a segment: zero mean, unit variance. Numpy only, so that whoever decodes needs no transformers.
"""

import numpy as np

NORMALIZATION_EPSILON = 1e-7  # Wav2Vec2FeatureExtractor's, which MERT was trained behind
CACHED_NUM_SAMPLES = 2**15  # as many in float64 as stay in the cache of a core


def normalize_segments(segments: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """
    Bring each of `(num_segments, num_samples)` to zero mean and unit variance, float32; silence stays silence.

    `out` takes the result, and may be `segments` itself: fresh memory costs as much time as a third of the work.
    """
    normalized = np.empty(segments.shape, np.float32) if out is None else out
    centered = np.empty(CACHED_NUM_SAMPLES)
    for row, samples in enumerate(segments):
        mean = samples.mean(dtype=np.float64)
        scale = np.sqrt(_sum_squares(samples, mean, centered) / len(samples) + NORMALIZATION_EPSILON)
        for start in range(0, len(samples), CACHED_NUM_SAMPLES):
            cached = slice(start, start + CACHED_NUM_SAMPLES)
            part = np.subtract(samples[cached], mean, out=centered[: len(samples[cached])])
            np.divide(part, scale, out=normalized[row, cached], casting="same_kind")
    return normalized


def _sum_squares(samples: np.ndarray, mean: np.float64, centered: np.ndarray) -> np.float64:
    """Sum squares of distances from the mean by halves, as NumPy's own sum of the whole does: the same last bit."""
    if len(samples) <= len(centered):
        part = np.subtract(samples, mean, out=centered[: len(samples)])
        total: np.float64 = np.square(part, out=part).sum()
        return total
    half = len(samples) // 2 // 8 * 8
    return _sum_squares(samples[:half], mean, centered) + _sum_squares(samples[half:], mean, centered)
