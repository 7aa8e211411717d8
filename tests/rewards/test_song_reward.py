"""A reward is the score that the pipeline gives the same samples, in any shape of input, with a gradient if asked."""

import numpy as np
import pytest
import torch

from modeling_apex import load_pipeline, load_preference_head
from modeling_apex.inference.audio_apex import AudioError
from modeling_apex.inference.resampling_apex import StreamingResampler
from modeling_apex.rewards import SongReward
from modeling_apex.rewards.waveforms import resample

from small_model import build_small_model

RATE = 24_000


@pytest.fixture(scope="module")
def songs():
    rng = np.random.default_rng(0)
    return [(rng.standard_normal(count) * 0.1).astype(np.float32) for count in (5000, 2400, 12_000, 700)]


@pytest.fixture(scope="module")
def small():
    return build_small_model()


@pytest.mark.parametrize("rate", [24_000, 32_000, 44_100, 48_000, 44_056, 8_000])
def test_resampling_equals_that_of_a_file(rate):
    waveform = np.random.default_rng(1).standard_normal(rate // 3 + 17).astype(np.float32)
    state = StreamingResampler(rate, RATE)
    expected = np.concatenate([state.push(waveform), state.finish()])
    resampled = resample(torch.from_numpy(waveform), rate, RATE)
    assert resampled.shape == expected.shape
    assert np.abs(resampled.numpy() - expected).max() < 2e-6


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_rewards_are_the_scores_of_the_pipeline(songs, small, rate):
    reports = load_pipeline(small)([{"array": song, "sampling_rate": rate} for song in songs])
    output = SongReward(small)(songs, rate)
    for name, column in output.components.items():
        expected = [report["scores"][name] for report in reports]
        assert column.tolist() == pytest.approx(expected, abs=1e-5)
    assert output.tolist() == output.components["musicality"].tolist()
    assert output.errors == [None] * len(songs)


def test_the_embedded_model_rewards_as_its_pipeline_scores():
    song = (np.random.default_rng(2).standard_normal(48_000) * 0.1).astype(np.float32)
    expected = load_pipeline()({"array": song, "sampling_rate": 48_000})["scores"]["coherence"]
    assert SongReward(score="coherence")(song, 48_000).tolist() == pytest.approx([expected], abs=1e-5)


def test_every_shape_of_a_song_is_the_same_song(small):
    stereo = (np.random.default_rng(3).standard_normal((2, 3000)) * 0.1).astype(np.float32)
    mono = stereo.mean(0)
    reward = SongReward(small)
    expected = reward(mono, RATE).tolist()
    padded = np.zeros((2, 4000), np.float32)
    padded[:, :3000] = mono
    for audio, num_songs, options in (
        (stereo, 1, {}),
        (stereo.T, 1, {}),
        (torch.from_numpy(stereo), 1, {}),
        (torch.from_numpy(stereo).double(), 1, {}),
        ([stereo, mono], 2, {}),
        (np.stack([stereo, stereo]), 2, {}),
        (padded, 2, {"lengths": [3000, 3000]}),
        (np.stack([np.pad(stereo, ((0, 0), (0, 9)))] * 2), 2, {"lengths": torch.tensor([3000, 3000])}),
    ):
        assert reward(audio, RATE, **options).tolist() == pytest.approx(expected * num_songs, abs=1e-6)


def test_company_does_not_change_a_reward(songs, small):
    reward = SongReward(small)
    assert reward(songs, RATE).tolist() == [reward(song, RATE).tolist()[0] for song in songs]


def test_only_the_first_seconds_count_if_asked(songs, small):
    reward = SongReward(small, max_seconds=0.1)
    assert reward([songs[2]], RATE).tolist() == reward([songs[2][:2400]], RATE).tolist()


def test_a_bad_song_is_nan_or_an_error(songs, small):
    silent_end = songs[0].copy()
    silent_end[7] = np.nan
    batch = [songs[0], silent_end, np.zeros(3, np.float32), songs[1], np.zeros(0, np.float32)]
    output = SongReward(small, on_error="nan")(batch, RATE)
    assert np.isnan(output.tolist()).tolist() == [False, True, True, False, True]
    assert "NaN or infinite" in output.errors[1]
    assert "lasts 3 samples" in output.errors[2]
    assert "no samples" in output.errors[4]
    assert output.tolist()[3] == SongReward(small)(songs[1], RATE).tolist()[0]
    with pytest.raises(AudioError, match="song 1: samples are NaN"):
        SongReward(small)(batch, RATE)
    loud = np.full(3000, 1e13, np.float32)
    with pytest.raises(AudioError, match="song 0: samples reach"):
        SongReward(small)(loud, RATE)


def test_weights_count_each_score_as_a_share_of_its_range(songs, small):
    output = SongReward(small, score={"musicality": 1.0, "score_likes": -2.0})(songs, RATE)
    shares = (output.components["musicality"] - 1) / 4 - 2 * output.components["score_likes"] / 100
    assert output.tolist() == pytest.approx(shares.tolist(), abs=1e-6)


def test_the_preference_head_rewards_by_its_strength(tmp_path):
    song = (np.random.default_rng(4).standard_normal(48_000) * 0.1).astype(np.float32)
    output = SongReward(score="preference")(song, 24_000)
    scores = {name: float(column[0]) for name, column in output.components.items()}
    assert output.tolist() == pytest.approx([load_preference_head().compute_strength(scores)], rel=1e-5)


def test_standardised_groups_have_mean_zero_and_unit_deviation(songs, small):
    raw = np.array(SongReward(small)(songs, RATE).tolist())
    output = SongReward(small, standardise="group")(songs, RATE, groups=["a", "b", "a", "c"])
    pair = raw[[0, 2]]
    expected = (pair - pair.mean()) / pair.std()
    assert np.array(output.tolist())[[0, 2]] == pytest.approx(expected, abs=1e-4)
    assert np.array(output.tolist())[[1, 3]].tolist() == [0, 0]  # alone in their groups
    whole = np.array(SongReward(small, standardise="group")(songs, RATE).tolist())
    assert whole == pytest.approx((raw - raw.mean()) / raw.std(), abs=1e-4)


def test_the_reference_set_standardises_by_place():
    song = (np.random.default_rng(5).standard_normal(48_000) * 0.1).astype(np.float32)
    reward = SongReward(score="clarity", standardise="reference")
    table = np.array(reward.model.config.reference["percentile_tables"]["clarity"])
    output = reward(song, 24_000)
    place = np.interp(float(output.components["clarity"][0]), table, np.linspace(0, 1, len(table)))
    expected = torch.distributions.Normal(0, 1).icdf(torch.tensor(np.clip(place, 0.005, 0.995)))
    assert output.tolist() == pytest.approx([float(expected)], abs=1e-3)


def test_the_gradient_is_that_of_finite_differences():
    model = build_small_model().double()
    reward = SongReward(model, score={"musicality": 1.0, "score_streams": 1.0}, differentiable=True)
    waveform = torch.randn(1300, generator=torch.Generator().manual_seed(0)) * 0.1
    waveform.requires_grad_()
    output = reward(waveform, 32_000)
    assert output.rewards.requires_grad
    (gradient,) = torch.autograd.grad(output.rewards.sum(), waveform)
    direction = gradient / gradient.norm()
    step = 1e-2
    with torch.no_grad():
        above, below = (reward(waveform + sign * step * direction, 32_000).rewards.item() for sign in (1, -1))
    assert (above - below) / (2 * step) == pytest.approx(gradient.norm().item(), rel=0.02)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())


def test_a_gradient_reaches_every_song_of_a_padded_batch_and_no_padding(small):
    batch = (torch.randn(2, 5000, generator=torch.Generator().manual_seed(1)) * 0.1).requires_grad_()
    rewards = SongReward(build_small_model(), differentiable=True)(batch, RATE, lengths=[5000, 3000]).rewards
    rewards.sum().backward()
    assert (batch.grad[0] != 0).any()
    assert (batch.grad[1, :3000] != 0).any()
    assert (batch.grad[1, 3000:] == 0).all()


def test_with_a_gradient_scores_stay_what_they_are(songs):
    differentiable = SongReward(build_small_model(), differentiable=True)(songs, 44_100)
    assert differentiable.tolist() == pytest.approx(SongReward(build_small_model())(songs, 44_100).tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ({"score": "loudness"}, {}, ValueError, "has no score loudness; it has score_streams"),
        ({"score": {}}, {}, ValueError, "must weigh at least one score"),
        ({"score": "preference"}, {}, ValueError, "has no preference head"),
        ({"standardise": "batch"}, {}, ValueError, "`standardise` must be None, group or reference"),
        ({"standardise": "reference"}, {}, ValueError, "no reference set .* calibrate"),
        ({"on_error": "skip"}, {}, ValueError, "`on_error` must be 'raise' or 'nan'"),
        ({"max_seconds": 0}, {}, ValueError, "`max_seconds` must be positive"),
        ({}, {"audio": "song.wav"}, TypeError, "expected a numpy array or a torch tensor, got str"),
        ({}, {"audio": np.zeros(900, np.int16)}, ValueError, "Divide 16-bit samples by 32768"),
        ({}, {"audio": np.zeros((900, 900), np.float32)}, ValueError, "a padded batch needs `lengths`"),
        ({}, {"audio": np.zeros((2, 2, 2, 2), np.float32)}, ValueError, "a batch must be"),
        ({}, {"audio": np.zeros((2, 900), np.float32), "lengths": [900, 901]}, ValueError, "`lengths` must say"),
        ({}, {"audio": [np.zeros(900, np.float32)], "lengths": [900]}, ValueError, "`lengths` belong to a padded"),
        ({}, {"audio": np.zeros(900, np.float32), "groups": ["a", "b"]}, ValueError, "one group a song: 2 for 1"),
        ({}, {"audio": np.zeros(900, np.float32), "sampling_rate": 0}, ValueError, "`sampling_rate`"),
    ],
)
def test_refusals(small, arguments, options, error, message):
    with pytest.raises(error, match=message):
        SongReward(small, **arguments)(**{"audio": np.zeros(900, np.float32), "sampling_rate": RATE, **options})
