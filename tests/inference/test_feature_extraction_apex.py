"""Room 4: shapes, order of padding and normalisation, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from modeling_apex import ApexConfig, ApexFeatureExtractor
from modeling_apex.inference.feature_extraction_apex import normalize_segments

from waveforms import make_waveform


@pytest.fixture
def extractor() -> ApexFeatureExtractor:
    return ApexFeatureExtractor(sampling_rate=24_000, segment_seconds=0.1, minimum_num_samples=400)


def test_songs_of_different_length_share_a_batch(extractor: ApexFeatureExtractor) -> None:
    songs = [make_waveform(0.25), make_waveform(0.1), make_waveform(0.3)]
    features = extractor(songs, sampling_rate=24_000, return_tensors="pt")
    assert features["input_values"].shape == (3, 3, 2400)
    assert features["segment_mask"].tolist() == [[True] * 3, [True, False, False], [True] * 3]
    alone = extractor(songs[1], sampling_rate=24_000, return_tensors="pt")
    assert torch.equal(features["input_values"][1, :1], alone["input_values"][0])


def test_padding_comes_before_normalisation(extractor: ApexFeatureExtractor) -> None:
    waveform = make_waveform(0.05) + 0.3
    values = extractor(waveform, sampling_rate=24_000, return_tensors="np")["input_values"][0, 0]
    padded = np.pad(waveform, (0, 1200))
    expected = (padded - padded.mean()) / np.sqrt(padded.var() + 1e-7)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    assert values[-1] != 0, "normalising first would leave the padding at zero"


def test_normalisation_is_that_of_wav2vec2() -> None:
    waveform = make_waveform(0.2)
    theirs = Wav2Vec2FeatureExtractor(sampling_rate=24_000, do_normalize=True)
    expected = theirs(waveform, sampling_rate=24_000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(normalize_segments(waveform[None]), expected, rtol=1e-5, atol=1e-6)


def test_silence_stays_silence(extractor: ApexFeatureExtractor) -> None:
    features = extractor(np.zeros(3000, np.float32), sampling_rate=24_000, return_tensors="np")
    assert not features["input_values"].any()


def test_stereo_becomes_the_mean_of_its_channels(extractor: ApexFeatureExtractor) -> None:
    stereo = make_waveform(0.2, num_channels=2)
    mixed = extractor(stereo, sampling_rate=24_000, return_tensors="np")["input_values"]
    mono = extractor(stereo.mean(0), sampling_rate=24_000, return_tensors="np")["input_values"]
    np.testing.assert_allclose(mixed, mono, atol=1e-5)


def test_tensors_and_plain_numbers_are_waveforms_too(extractor: ApexFeatureExtractor) -> None:
    waveform = make_waveform(0.1)
    expected = extractor(waveform, sampling_rate=24_000, return_tensors="np")["input_values"]
    tensor = extractor(torch.from_numpy(waveform), sampling_rate=24_000, return_tensors="np")["input_values"]
    numbers = extractor(waveform.astype(float).tolist(), sampling_rate=24_000, return_tensors="np")["input_values"]
    many = extractor([waveform.astype(float).tolist()], sampling_rate=24_000, return_tensors="np")["input_values"]
    np.testing.assert_array_equal(tensor, expected)
    np.testing.assert_allclose(numbers, expected, atol=1e-6)
    np.testing.assert_allclose(many, expected, atol=1e-6)


def test_round_trip_and_auto_class(extractor: ApexFeatureExtractor, tmp_path: Path) -> None:
    extractor.save_pretrained(tmp_path)
    ApexConfig().save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(loaded, ApexFeatureExtractor)
    assert loaded.to_dict() == extractor.to_dict()
    assert loaded.segment_num_samples == 2400


def test_built_from_config() -> None:
    extractor = ApexFeatureExtractor.from_config(ApexConfig())
    assert (extractor.sampling_rate, extractor.segment_num_samples, extractor.minimum_num_samples) == (
        24_000,
        720_000,
        400,
    )


@pytest.mark.parametrize(
    ("audio", "sampling_rate", "error", "message"),
    [
        (np.zeros(2400, np.float32), None, ValueError, "`sampling_rate` is missing"),
        (np.zeros(2400, np.float32), 44_100, ValueError, "`sampling_rate` is 44100 but this extractor needs 24000"),
        (np.zeros(0, np.float32), 24_000, ValueError, "(?i)no samples|empty|zero samples"),
        (np.ones(1, np.float32), 24_000, ValueError, "the song has 1 samples"),
        (np.full(2400, np.nan, np.float32), 24_000, ValueError, "(?i)nan"),
        (np.full(2400, np.inf, np.float32), 24_000, ValueError, "(?i)infin"),
        (np.zeros(2400, np.int16), 24_000, ValueError, "32768"),
        (np.zeros((3, 2400), np.float32), 24_000, ValueError, "(?i)3 channels|channel"),
        ([], 24_000, ValueError, "the list of waveforms is empty"),
        ("song.mp3", 24_000, TypeError, "the feature extractor takes waveforms, got str"),
        ({"array": np.zeros(10)}, 24_000, TypeError, "the feature extractor takes waveforms, got dict"),
    ],
)
def test_what_is_refused(
    extractor: ApexFeatureExtractor, audio: object, sampling_rate: int | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        extractor(audio, sampling_rate=sampling_rate)
