"""The spectrogram-fusion model: its front end beside independent ones, invariances, missing features, loading."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from modeling_apex import ApexFeatureExtractor, SpectrogramFusionConfig, SpectrogramFusionModel
from modeling_apex.inference.spectrogram_apex import (
    build_mel_filters,
    compute_log_spectrogram,
    convert_hertz_to_mel,
    convert_mel_to_hertz,
)

from fusion_models import FEATURES, build_fusion_config, build_fusion_model
from waveforms import make_waveform

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
SONGS = [{"genre": "pop", "tempo": 128.0, "play_count": 1e5}, {"genre": "polka", "tempo": 80.0}, {}]


def make_segments(num_songs: int = 3, num_segments: int = 4, num_samples: int = 2400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    colour = torch.linspace(0.2, 1.0, num_songs).reshape(-1, 1, 1)
    white = torch.randn(num_songs, num_segments, num_samples, generator=generator)
    return colour * white + (1 - colour) * white.cumsum(-1) / 10


def make_music(seconds: float = 2.0, rate: int = 24_000) -> np.ndarray:
    """Tones that come and go over a little noise, at unit variance."""
    time = np.arange(round(seconds * rate)) / rate
    generator = np.random.default_rng(3)
    pitches = np.array([[220.0], [660.0], [3000.0]])
    tones = (np.sin(2 * np.pi * pitches * time) * (np.sin(2 * np.pi * pitches * time / 300) > 0)).sum(0)
    waveform = tones + 0.02 * generator.standard_normal(time.size)
    return ((waveform - waveform.mean()) / waveform.std()).astype(np.float32)


@pytest.mark.parametrize("waveform", [make_music(), make_segments(1, 1, 48_000)[0, 0].numpy()], ids=["music", "noise"])
@pytest.mark.parametrize(("fft_size", "hop_size"), [(1024, 480), (512, 128)])
def test_stft_equals_scipy(waveform: np.ndarray, fft_size: int, hop_size: int) -> None:
    config = SpectrogramFusionConfig(spectrogram="log-stft", fft_size=fft_size, hop_size=hop_size)
    ours = compute_log_spectrogram(torch.from_numpy(waveform)[None], config)[0].numpy()
    window = scipy.signal.get_window("hann", fft_size)
    padded = np.pad(waveform.astype(np.float64), fft_size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, fft_size)[::hop_size]
    power = np.abs(scipy.fft.rfft(frames * window / np.sqrt(np.sum(window**2)), axis=-1).T) ** 2
    assert ours.shape == (fft_size // 2 + 1, 1 + len(waveform) // hop_size)
    np.testing.assert_allclose(ours, np.log(power + config.power_floor), atol=1e-4)
    # The same by scipy's own transform, which scales by the sum of the window.
    _, _, transform = scipy.signal.stft(
        waveform.astype(np.float64), window=window, nperseg=fft_size, noverlap=fft_size - hop_size, padded=False
    )
    scaled = np.abs(transform) ** 2 * np.sum(window) ** 2 / np.sum(window**2)
    np.testing.assert_allclose(ours[:, : scaled.shape[1]], np.log(scaled + config.power_floor), atol=1e-4)


@pytest.mark.parametrize("waveform", [make_music(), make_segments(1, 1, 48_000)[0, 0].numpy()], ids=["music", "noise"])
def test_mel_spectrogram_equals_librosa(waveform: np.ndarray) -> None:
    config = SpectrogramFusionConfig()
    ours = compute_log_spectrogram(torch.from_numpy(waveform)[None], config)[0].numpy()
    magnitude = np.abs(librosa.stft(waveform.astype(np.float64), n_fft=1024, hop_length=480, pad_mode="constant"))
    window = scipy.signal.get_window("hann", 1024)
    filters = librosa.filters.mel(sr=24_000, n_fft=1024, n_mels=64, fmin=30.0, fmax=12_000.0, norm=1, dtype=np.float64)
    mel = filters @ (magnitude**2 / np.sum(window**2))
    np.testing.assert_allclose(ours, np.log(mel + config.power_floor), atol=1e-4)


def test_mel_filters_equal_librosa_and_add_up_to_one() -> None:
    ours = build_mel_filters(64, 1024, 24_000, 30.0, 12_000.0)
    theirs = librosa.filters.mel(sr=24_000, n_fft=1024, n_mels=64, fmin=30.0, fmax=12_000.0, norm=1, dtype=np.float64)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(ours.sum(1), 1.0)
    hertz = np.array([0.0, 100.0, 1000.0, 4321.0, 12_000.0])
    np.testing.assert_allclose(convert_mel_to_hertz(convert_hertz_to_mel(hertz)), hertz, atol=1e-9)


def test_mel_bands_that_hear_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of 128 mel bands .* hold no frequency of a transform of 256 samples"):
        build_mel_filters(128, 256, 24_000, 0.0, 12_000.0)


def test_white_noise_has_power_one_in_every_band() -> None:
    noise = torch.randn(1, 240_000, generator=torch.Generator().manual_seed(1))
    for spectrogram in ("log-mel", "log-stft"):
        power = compute_log_spectrogram(noise, SpectrogramFusionConfig(spectrogram=spectrogram)).exp().mean(-1)
        np.testing.assert_allclose(power[0, 2:-2], 1.0, atol=0.35)


def test_front_end_that_was_first_used_for_inference_can_train() -> None:
    config = SpectrogramFusionConfig(fft_size=384, hop_size=100)
    with torch.inference_mode():
        compute_log_spectrogram(torch.randn(1, 4800), config)
    waveform = torch.randn(1, 4800, requires_grad=True)
    compute_log_spectrogram(waveform, config).sum().backward()
    assert waveform.grad is not None


def test_output_shapes_and_bounds() -> None:
    model = build_fusion_model()
    output = model(make_segments() * 10, features=model.encode_features(SONGS), output_segment_scores=True)
    assert output.scores.shape == (3, 2)
    assert output.song_embedding.shape == (3, 8)
    assert output.segment_embeddings.shape == (3, 4, 8)
    assert output.segment_scores.shape == (3, 4, 2)
    assert (output.scores >= 0).all()
    assert (output.scores[:, 0] <= 100).all()
    assert (output.scores[:, 1] <= 1).all()
    assert np.ptp(output.scores[:, 0].detach().numpy()) > 1, "songs that all score the same would prove nothing"
    scores, embedding, segments = model(make_segments(), return_dict=False)
    assert (scores.shape, embedding.shape, segments.shape) == ((3, 2), (3, 8), (3, 4, 8))


@pytest.mark.parametrize("branches", ["fused", "audio", "features"])
def test_batch_equals_single_also_in_training_mode(branches: str) -> None:
    model = build_fusion_model(branches=branches, dropout=0.0, feature_dropout=0.0).train()
    songs = make_segments()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    features = None if branches == "audio" else model.encode_features(SONGS)
    together = model(songs, mask, features).scores
    for row in range(3):
        of_song = None if features is None else features[row : row + 1]
        alone = model(songs[row : row + 1, : mask[row].sum()], features=of_song).scores
        torch.testing.assert_close(alone[0], together[row], **TOLERANCE)


def test_order_of_segments_does_not_matter_and_padding_neither() -> None:
    model = build_fusion_model()
    songs, features = make_segments(1), build_fusion_model().encode_features(SONGS[:1])
    expected = model(songs, features=features).scores
    torch.testing.assert_close(model(songs[:, [2, 0, 3, 1]], features=features).scores, expected, **TOLERANCE)
    padded = torch.cat([songs, torch.full((1, 2, 2400), 1e3)], dim=1)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    torch.testing.assert_close(model(padded, mask, features).scores, expected, **TOLERANCE)


def test_stored_embeddings_and_groups_of_segments_give_the_same_scores() -> None:
    model = build_fusion_model()
    songs, features = make_segments(), model.encode_features(SONGS)
    output = model(songs, features=features)
    again = model(segment_embeddings=output.segment_embeddings, features=features).scores
    torch.testing.assert_close(again, output.scores, **TOLERANCE)
    model.segments_per_pass = 1
    torch.testing.assert_close(model(songs, features=features).scores, output.scores, **TOLERANCE)


@pytest.mark.parametrize("branches", ["fused", "audio", "features"])
@pytest.mark.parametrize("spectrogram", ["log-mel", "log-stft"])
def test_gradient_reaches_every_parameter(branches: str, spectrogram: str) -> None:
    model = build_fusion_model(branches=branches, spectrogram=spectrogram, dropout=0.0, feature_dropout=0.0).train()
    songs = [*SONGS, {"genre": "folk", "tempo": 90.0}]
    features = None if branches == "audio" else model.encode_features(songs)
    labels = torch.tensor([[80.0, 1.0], [10.0, 0.0], [40.0, torch.nan], [60.0, 1.0]])
    output = model(make_segments(4), features=features, labels=labels)
    output.loss.backward()
    without = [name for name, parameter in model.named_parameters() if not torch.any(parameter.grad != 0)]
    assert without == []


def test_missing_features_are_explicit() -> None:
    model = build_fusion_model()
    songs = make_segments(1)
    none = model(songs).scores
    torch.testing.assert_close(model(songs, features=model.encode_features([{}])).scores, none)
    # A missing number is not the mean of the training songs, an unseen genre not a missing one.
    at_mean = model(songs, features=model.encode_features([{"tempo": 110.0}])).scores
    unseen = model(songs, features=model.encode_features([{"genre": "polka"}])).scores
    pop = model(songs, features=model.encode_features([{"genre": "pop"}])).scores
    for other in (at_mean, unseen, pop):
        assert torch.any((other - none).abs() > 1e-4)
    assert torch.any((unseen - pop).abs() > 1e-4)


def test_features_are_lost_in_training_only() -> None:
    model = build_fusion_model(feature_dropout=0.5, dropout=0.0)
    songs, features = make_segments(1).repeat(64, 1, 1), model.encode_features(SONGS[:1]).repeat(64, 1)
    assert len(torch.unique(model(songs, features=features).scores[:, 0].round(decimals=3))) == 1
    torch.manual_seed(0)
    drawn = model.train()(songs, features=features).scores[:, 0].round(decimals=3)
    assert len(torch.unique(drawn)) == 2
    alone = build_fusion_model(branches="features", feature_dropout=0.5, dropout=0.0).train()
    assert len(torch.unique(alone(features=features).scores[:, 0].round(decimals=3))) == 1


def test_a_model_of_the_features_alone_needs_no_audio() -> None:
    model = build_fusion_model(branches="features")
    features = model.encode_features(SONGS)
    scores = model(features=features).scores
    torch.testing.assert_close(model(make_segments(), features=features).scores, scores)
    assert model.encoder is None


def test_options_of_one_model_differ_in_size() -> None:
    sizes = {
        branches: sum(parameter.numel() for parameter in build_fusion_model(branches=branches).parameters())
        for branches in ("fused", "audio", "features")
    }
    assert sizes["fused"] > max(sizes["audio"], sizes["features"])
    default = sum(parameter.numel() for parameter in SpectrogramFusionModel(SpectrogramFusionConfig()).parameters())
    assert 100_000 < default < 300_000


def test_save_and_load(tmp_path: Path) -> None:
    model = build_fusion_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is SpectrogramFusionModel
    songs, features = make_segments(), model.encode_features(SONGS)
    assert torch.equal(loaded(songs, features=features).scores, model(songs, features=features).scores)
    extractor = ApexFeatureExtractor.from_config(model.config)
    extractor.save_pretrained(tmp_path)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is ApexFeatureExtractor
    inputs = extractor(make_waveform(0.25), sampling_rate=24_000, return_tensors="pt")
    assert inputs["input_values"].shape == (1, 3, 2400)
    assert torch.isfinite(loaded(**inputs).scores).all()


@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen"])
def test_loading_is_strict(tmp_path: Path, fault: str) -> None:
    build_fusion_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    if fault == "missing":
        del tensors["encoder.band_mean"]
    elif fault == "unexpected":
        tensors["encoder.extra"] = torch.zeros(1)
    else:
        tensors["scores.weight"] = torch.zeros(3, 3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="the checkpoint does not match SpectrogramFusionModel"):
        SpectrogramFusionModel.from_pretrained(tmp_path)


def test_half_precision_stays_close_and_keeps_statistics(tmp_path: Path) -> None:
    model = build_fusion_model()
    model.save_pretrained(tmp_path)
    half = SpectrogramFusionModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert half.encoder.stem.weight.dtype == torch.bfloat16
    assert half.scores.weight.dtype == half.tabular.layers[0][0].weight.dtype == torch.float32
    assert torch.equal(half.encoder.band_mean.float(), model.encoder.band_mean.bfloat16().float()) or torch.equal(
        half.encoder.band_mean, model.encoder.band_mean
    )
    features = model.encode_features(SONGS)
    difference = half(make_segments(), features=features).scores - model(make_segments(), features=features).scores
    assert difference.abs().max() < 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "either `input_values` or `segment_embeddings`, and not both"),
        ({"input_values": torch.zeros(2, 1, 2400), "segment_embeddings": torch.zeros(2, 1, 8)}, "and not both"),
        ({"input_values": torch.zeros(2400)}, r"expected `\(batch_size, num_segments, length\)`, got the shape"),
        ({"input_values": torch.zeros(1, 1, 100)}, "segments have 100 samples, fewer than the 256 of one frame"),
        ({"segment_embeddings": torch.zeros(1, 1, 9)}, "are 9 wide, but this model's are 8; they come from another"),
        (
            {"input_values": torch.zeros(1, 2, 2400), "segment_mask": torch.ones(1, 3)},
            r"`segment_mask` is \(1, 3\) for segments of \(1, 2\)",
        ),
        (
            {"input_values": torch.zeros(1, 2, 2400), "segment_mask": torch.zeros(1, 2)},
            "a song has no segment: a row of `segment_mask` is all false",
        ),
        (
            {"input_values": torch.zeros(1, 1, 2400), "features": torch.zeros(1, 2)},
            r"`features` are \(1, 2\), expected \(1, 3\): one row per song, .* genre, tempo, play_count",
        ),
        (
            {"input_values": torch.zeros(1, 1, 2400), "labels": torch.zeros(1, 7)},
            r"`labels` are \(1, 7\) but the scores are \(1, 2\)",
        ),
    ],
)
def test_refusals(inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_fusion_model()(**inputs)


def test_refusals_of_single_branches() -> None:
    with pytest.raises(ValueError, match="hears the audio alone and takes no `features`"):
        build_fusion_model(branches="audio")(torch.zeros(1, 1, 2400), features=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="a model of the features alone needs `features`"):
        build_fusion_model(branches="features")()
    with pytest.raises(ValueError, match="unknown track features tmpo; this model knows genre, tempo, play_count"):
        build_fusion_model().encode_features([{"tmpo": 1}])


def test_numbers_that_are_none_are_named() -> None:
    model = build_fusion_model()
    with pytest.raises(FloatingPointError, match="the network yields NaN or infinity"):
        model(torch.full((1, 1, 2400), torch.nan))
    with torch.no_grad():
        model.scores.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="a head yields NaN or infinity"):
        model(make_segments(1))


def test_the_default_front_end_has_no_silent_band() -> None:
    for bands in (32, 64, 80):
        model = SpectrogramFusionModel(SpectrogramFusionConfig(num_mel_bands=bands, features=FEATURES))
        assert torch.isfinite(model(torch.randn(1, 1, 24_000)).scores).all()


def test_two_configs_of_one_process_do_not_share_a_front_end() -> None:
    noise = torch.randn(1, 4800)
    first = compute_log_spectrogram(noise, build_fusion_config(segment_seconds=0.2))
    second = compute_log_spectrogram(noise, build_fusion_config(segment_seconds=0.2, maximum_hertz=6000.0))
    assert first.shape == second.shape
    assert not torch.allclose(first, second)
