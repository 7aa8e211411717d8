"""The fast forms of a mean over channels, a normalisation and a resampler are the slow ones to the last bit."""

import io

import numpy as np
import pytest

from modeling_apex.inference.audio_apex import stream_segments
from modeling_apex.inference.decoding_apex import _mix
from modeling_apex.inference.libsndfile_apex import _count_mp3_samples
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
    assert normalize_segments(segments, out=segments) is segments
    assert np.array_equal(segments, expected)


def test_a_segment_is_padded_with_zeros_whatever_its_memory_held(monkeypatch):
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, np.nan, dtype))
    song = np.ones(1500, np.float32)
    *_, last = stream_segments({"array": song, "sampling_rate": 24_000}, segment_seconds=0.04)
    assert np.array_equal(last.samples, np.repeat([1, 0], [540, 420]))


@pytest.mark.parametrize("num_bytes_a_read", [1 << 20, 419])
def test_frames_of_an_mp3_are_counted_in_blocks(num_bytes_a_read):
    """Reading one header at a time took as long as all that follows the decoder."""
    frames = (b"\xff\xfb\x90\x00" + bytes(413)) * 1000  # 128 kbit/s at 44,100 Hz: 417 bytes each

    class ShortReads(io.BytesIO):
        num_reads = 0

        def read(self, size=-1):
            self.num_reads += 1
            return super().read(min(size, num_bytes_a_read))

    handle = ShortReads(frames + b"TAG" + bytes(125))
    handle.seek(7)
    assert _count_mp3_samples(handle) == (1152 * 1000, False)
    assert handle.tell() == 7
    assert handle.num_reads < 20 or num_bytes_a_read < 1000


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
