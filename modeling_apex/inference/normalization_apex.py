"""
What room 4 does to a segment: zero mean, unit variance. Numpy only, so that whoever decodes needs no transformers.
"""

import numpy as np

NORMALIZATION_EPSILON = 1e-7  # Wav2Vec2FeatureExtractor's, which MERT was trained behind


def normalize_segments(segments: np.ndarray) -> np.ndarray:
    """
    Bring segments `(num_segments, num_samples)`, padded, to zero mean and unit variance, each for itself, in float32.

    As `Wav2Vec2FeatureExtractor` does. Silence stays silence: a segment of zeros leaves as zeros.
    """
    mean = segments.mean(axis=-1, keepdims=True, dtype=np.float64)
    variance = segments.var(axis=-1, keepdims=True, dtype=np.float64)
    normalized: np.ndarray = (segments - mean) / np.sqrt(variance + NORMALIZATION_EPSILON)
    return normalized.astype(np.float32)
