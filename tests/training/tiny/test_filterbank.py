"""The filterbank front end: filters peak at their frequencies, the waveform passes the first layer unchanged."""

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu
from transformers import HubertConfig, HubertModel

from modeling_apex.inference.feature_extraction_apex import normalize_segments
from modeling_apex.training.tiny.filterbank import (
    build_gabor_filters,
    compute_band_frequencies,
    equalize_bands,
    initialize_front_end,
)
from modeling_apex.training.tiny.recipe import TINY_ENCODER

RATE = 24_000
NUM_BANDS = TINY_ENCODER["conv_dim"][1] // 3


@pytest.fixture
def encoder() -> HubertModel:
    torch.manual_seed(0)
    return HubertModel(HubertConfig(**TINY_ENCODER)).eval()


def make_tone(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    time = np.arange(round(seconds * RATE)) / RATE
    return torch.from_numpy(normalize_segments(np.sin(2 * np.pi * hertz * time)[None].astype(np.float32)))


def compute_envelopes(encoder: HubertModel, segments: torch.Tensor) -> torch.Tensor:
    hidden = segments[:, None]
    for layer in encoder.feature_extractor.conv_layers[:3]:
        hidden = layer(hidden)
    return hidden.detach()


def test_bands_rise_on_the_mel_scale_between_their_bounds():
    frequencies = compute_band_frequencies(NUM_BANDS, 60.0, 11_000.0)
    np.testing.assert_allclose(frequencies[[0, -1]], [60.0, 11_000.0])
    mels = 2595 * np.log10(1 + frequencies / 700)
    np.testing.assert_allclose(np.diff(mels), np.diff(mels)[0])


@pytest.mark.parametrize("arguments", [(1, 60.0, 1000.0), (4, 0.0, 1000.0), (4, 1000.0, 60.0)])
def test_impossible_bands_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 2 bands between rising frequencies"):
        compute_band_frequencies(*arguments)


def test_every_filter_peaks_at_its_frequency_with_unit_gain():
    frequencies = compute_band_frequencies(NUM_BANDS, 60.0, 11_000.0)
    filters = build_gabor_filters(frequencies, 512, RATE)
    assert filters.shape == (3 * NUM_BANDS, 512)
    gains = np.abs(np.fft.rfft(filters, 24_000, axis=1))  # one bin a hertz
    peaks = gains.argmax(1).reshape(NUM_BANDS, 3)
    # The lowest bands are wider than their distance from 0 Hz, where filters are deaf.
    tolerance = np.where(frequencies < 150, 30.0, 0.02 * frequencies)
    assert (np.abs(peaks - frequencies[:, None]) <= tolerance[:, None]).all()
    is_high = np.repeat(frequencies > 150, 3)
    np.testing.assert_allclose(gains.max(1)[is_high], 1.0, atol=0.07)
    np.testing.assert_allclose(filters.sum(1), 0.0, atol=1e-6)


def test_first_layer_splits_the_waveform_without_loss(encoder):
    initialize_front_end(encoder, RATE)
    tone = make_tone(440.0)
    halves = encoder.feature_extractor.conv_layers[0](tone[:, None])
    torch.testing.assert_close(halves[:, 0] - halves[:, 1], tone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gelu(tone) - gelu(-tone), tone, atol=1e-6, rtol=1e-5)


def test_the_loudest_envelope_is_the_band_of_the_tone(encoder):
    frequencies = initialize_front_end(encoder, RATE)
    for band in range(4, NUM_BANDS, 7):
        envelopes = compute_envelopes(encoder, make_tone(float(frequencies[band])))[0, :NUM_BANDS]
        assert int(envelopes.mean(1).argmax()) == band
        steady = envelopes[band, 5:-5]
        assert float(steady.std() / steady.mean()) < 0.02  # three phases: next to no ripple


def test_second_half_of_the_channels_answers_to_onsets_only(encoder):
    frequencies = initialize_front_end(encoder, RATE)
    tone = make_tone(float(frequencies[20]))
    tone[:, : RATE // 2] = 0.0
    channels = compute_envelopes(encoder, tone)[0]
    rises = channels[NUM_BANDS + 20]
    assert float(rises.max()) > 10 * float(rises[-10:].abs().max())
    assert abs(int(rises.argmax()) - rises.shape[0] // 2) <= 2


def test_equalized_bands_are_equally_loud(encoder):
    initialize_front_end(encoder, RATE)
    generator = np.random.default_rng(0)
    noise = np.cumsum(generator.standard_normal((4, RATE)), axis=1).astype(np.float32)  # falls off by 6 dB an octave
    segments = torch.from_numpy(normalize_segments(noise))
    with torch.no_grad():
        scale = equalize_bands(encoder, segments)
        again = equalize_bands(encoder, segments)
    assert float(scale.max() / scale.min()) > 20
    torch.testing.assert_close(again, torch.ones(NUM_BANDS), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"conv_dim": [8, 144, 96, 160]},
        {"conv_dim": [2, 144, 90, 160]},
        {"conv_kernel": [3, 512, 4, 3]},
        {"feat_extract_norm": "layer"},
        {"conv_dim": [2, 8], "conv_kernel": [1, 8], "conv_stride": [1, 4]},
    ],
)
def test_other_shapes_of_front_end_are_refused(fields):
    encoder = HubertModel(HubertConfig(**{**TINY_ENCODER, **fields, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match="a filterbank front end needs `conv_dim`"):
        initialize_front_end(encoder, RATE)
