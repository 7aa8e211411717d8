"""The fast forms of a mean over channels, a normalisation and a resampler are the slow ones to the last bit."""

import numpy as np
import pytest

from modeling_apex.inference.decoding_apex import _mix
from modeling_apex.inference.normalization_apex import NORMALIZATION_EPSILON, normalize_segments
from modeling_apex.inference.resampling_apex import _build_sinc_kernel


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("num_channels", range(1, 13))
def test_mixing_is_the_mean_over_channels(num_channels, dtype):
    block = np.random.default_rng(num_channels).standard_normal((1003, num_channels)).astype(dtype)
    mixed = _mix(block)
    assert mixed.dtype == np.float32
    assert mixed.flags.c_contiguous
    assert np.array_equal(mixed, block.mean(axis=1).astype(np.float32))


@pytest.mark.parametrize("num_samples", [1, 7, 24_001, 65_536, 65_537, 200_003])
def test_normalisation_is_that_of_the_whole_segment(num_samples):
    segments = np.random.default_rng(0).standard_normal((2, num_samples)).astype(np.float32) + 0.1
    mean = segments.mean(axis=-1, keepdims=True, dtype=np.float64)
    variance = segments.var(axis=-1, keepdims=True, dtype=np.float64)
    expected = ((segments - mean) / np.sqrt(variance + NORMALIZATION_EPSILON)).astype(np.float32)
    assert np.array_equal(normalize_segments(segments), expected)


@pytest.mark.parametrize("original_rate", [44_100, 48_000, 32_000, 16_000, 44_056, 96_000])
def test_pieces_of_the_filter_hold_each_tap_once(original_rate):
    kernel = _build_sinc_kernel(original_rate, 24_000)
    impulse_response = np.zeros(kernel.num_out)
    for first, column, piece in kernel.pieces:
        assert first >= 0
        assert first + len(piece) <= kernel.num_in + 2 * kernel.margin + 1
        impulse_response[column : column + piece.shape[1]] += piece.sum(axis=0)
    # A low-pass filter lets a constant through.
    assert np.allclose(impulse_response, 1, atol=0.02)
