"""Each perturbation does what its name says, by measurement of the file that it makes."""

import io
import sys
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from modeling_apex.robustness.perturbations import (
    KINDS,
    PERTURBATIONS,
    Perturbation,
    Sound,
    UnfitSongError,
    choose_perturbations,
)

from waveforms import make_waveform

RATE = 44_100


@pytest.fixture
def sound() -> Sound:
    return Sound(make_waveform(3.0, RATE, num_channels=2).T.copy(), RATE)


@pytest.fixture
def perturb(sound: Sound) -> Callable[..., tuple[np.ndarray, int]]:
    def apply(kind: str, of: Sound = sound, **parameters: Any) -> tuple[np.ndarray, int]:
        samples, rate = soundfile.read(
            io.BytesIO(Perturbation("x", kind, parameters).apply(of)), dtype="float32", always_2d=True
        )
        return samples, rate

    return apply


def measure_level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def test_the_control_changes_no_bit(perturb: Callable, sound: Sound) -> None:
    samples, rate = perturb("none")
    assert rate == RATE
    assert np.array_equal(samples, sound.samples)


@pytest.mark.parametrize("decibels", [-12, -6, 6])
def test_gain_is_as_many_decibels(perturb: Callable, sound: Sound, decibels: int) -> None:
    samples, _ = perturb("gain", decibels=decibels)
    assert 20 * np.log10(measure_level(samples) / measure_level(sound.samples)) == pytest.approx(decibels, abs=1e-4)
    loud, _ = perturb("gain", Sound(sound.samples / np.abs(sound.samples).max(), RATE), decibels=6)
    assert np.abs(loud).max() == pytest.approx(10 ** (6 / 20), rel=1e-6)  # float samples are not cut off at 1


@pytest.mark.parametrize("decibels", [6, 12])
def test_clipping_cuts_off_below_the_peak_and_nothing_else(perturb: Callable, sound: Sound, decibels: int) -> None:
    samples, _ = perturb("clipping", decibels=decibels)
    limit = np.abs(sound.samples).max() * 10 ** (-decibels / 20)
    assert np.abs(samples).max() == pytest.approx(limit, rel=1e-6)
    is_below = np.abs(sound.samples) < limit
    assert 0.2 < is_below.mean() < 1
    assert np.array_equal(samples[is_below], sound.samples[is_below])


def test_cuts_and_silence_are_exact_to_the_sample(perturb: Callable, sound: Sound) -> None:
    for at, kept in (("start", sound.samples[RATE:]), ("end", sound.samples[:-RATE])):
        assert np.array_equal(perturb("trimming", seconds=1, at=at)[0], kept)
    silence = np.zeros((RATE, 2), np.float32)
    for at, parts in (("start", (silence, sound.samples)), ("end", (sound.samples, silence))):
        assert np.array_equal(perturb("silence", seconds=1, at=at)[0], np.concatenate(parts))


@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
def test_resampling_changes_rate_and_length_together(perturb: Callable, rate: int) -> None:
    samples, found = perturb("resampling", sampling_rate=rate)
    assert found == rate
    assert len(samples) / rate == pytest.approx(3.0, abs=1e-3)


def test_channels(perturb: Callable, sound: Sound) -> None:
    assert np.array_equal(perturb("channels", channels="mean")[0], sound.samples.mean(axis=1)[:, None])
    assert np.array_equal(perturb("channels", channels="left")[0], sound.samples[:, :1])


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_speed_changes_length_and_pitch_by_its_factor(perturb: Callable, factor: float) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(3 * RATE) / RATE).astype(np.float32)[:, None]
    samples, rate = perturb("speed", Sound(tone, RATE), factor=factor)
    assert rate == RATE
    assert len(samples) == pytest.approx(len(tone) / factor, abs=2)
    peak = np.argmax(np.abs(np.fft.rfft(samples[:, 0])))
    assert peak * RATE / len(samples) == pytest.approx(1000 * factor, rel=1e-3)


@pytest.mark.parametrize("decibels", [30, 40])
def test_noise_lies_as_far_below_and_is_the_same_each_time(perturb: Callable, sound: Sound, decibels: int) -> None:
    samples, _ = perturb("noise", decibels=decibels, seed=0)
    noise = samples - sound.samples
    assert 20 * np.log10(measure_level(sound.samples) / measure_level(noise)) == pytest.approx(decibels, abs=0.1)
    assert np.array_equal(perturb("noise", decibels=decibels, seed=0)[0], samples)
    assert not np.array_equal(perturb("noise", decibels=decibels, seed=1)[0], samples)
    silent = Sound(np.zeros((RATE, 1), np.float32), RATE)
    assert not perturb("noise", silent, decibels=decibels, seed=0)[0].any()


@pytest.mark.parametrize(("kind", "rate", "kilobits"), [("mp3", RATE, 320), ("mp3", RATE, 64), ("opus", 48_000, 96)])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_codecs_keep_length_and_place(
    perturb: Callable, sound: Sound, kind: str, rate: int, kilobits: int, num_channels: int
) -> None:
    song = Sound(np.ascontiguousarray(sound.samples[:, :num_channels]), RATE)
    samples, found = perturb(kind, song, kilobits=kilobits)
    assert found == rate
    assert samples.shape[1] == num_channels
    assert len(samples) / rate == pytest.approx(3.0, abs=0.001)
    # The sound lies where it lay: no delay of the codec is left.
    expected = Perturbation("x", "resampling", {"sampling_rate": rate}).apply(song) if rate != RATE else None
    before = song.samples if expected is None else soundfile.read(io.BytesIO(expected), always_2d=True)[0]
    length = min(len(before), len(samples))
    spectra = [np.fft.rfft(values[:length, 0], 2 * length) for values in (before, samples)]
    assert np.argmax(np.fft.irfft(spectra[0] * np.conj(spectra[1]))) == 0
    encoded = Perturbation("x", kind, {"kilobits": kilobits}).apply(song)
    if kind == "mp3":  # at a constant rate
        assert 8 * len(encoded) / 3 == pytest.approx(1000 * kilobits, rel=0.05)


def test_mp3_of_a_low_rate_gets_the_bits_that_were_asked_for(perturb: Callable) -> None:
    song = Sound(make_waveform(2.0, 24_000)[:, None], 24_000)  # where mp3 ends at 160 kbit/s
    assert perturb("mp3", song, kilobits=320)[1] == 44_100
    encoded = Perturbation("x", "mp3", {"kilobits": 320}).apply(song)
    assert 8 * len(encoded) / 2 == pytest.approx(320_000, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "parameters", "reason"),
    [
        ("trimming", {"seconds": 5, "at": "end"}, "the song lasts less than 10 s"),
        ("channels", {"channels": "left"}, "the song has one channel"),
        ("resampling", {"sampling_rate": RATE}, "the song has 44100 Hz already"),
    ],
)
def test_what_a_song_is_not_fit_for_is_said(kind: str, parameters: dict, reason: str) -> None:
    song = Sound(make_waveform(1.0, RATE)[:, None], RATE)
    with pytest.raises(UnfitSongError, match=f"^{reason}$"):
        Perturbation("x", kind, parameters).apply(song)


def test_all_of_them_have_their_own_name_and_a_known_kind() -> None:
    assert len({perturbation.name for perturbation in PERTURBATIONS}) == len(PERTURBATIONS)
    assert {perturbation.kind for perturbation in PERTURBATIONS} == {"none", *KINDS}
    assert not any(": " in perturbation.name for perturbation in PERTURBATIONS)  # what parts a song from its variant


def test_kinds_are_chosen_and_the_control_stays() -> None:
    chosen, left_out = choose_perturbations(["gain"])
    assert [perturbation.name for perturbation in chosen] == ["none", "gain -12 dB", "gain -6 dB", "gain +6 dB"]
    assert left_out == {}
    with pytest.raises(ValueError, match=r"no perturbation is of the kind gian; choose from mp3, opus, gain"):
        choose_perturbations(["gian"])


def test_a_codec_that_is_not_there_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    real = av.Codec

    def find(name: str, mode: str) -> object:
        if name == "libopus":
            raise av.codec.codec.UnknownCodecError(name)
        return real(name, mode)

    monkeypatch.setattr(av, "Codec", find)
    chosen, left_out = choose_perturbations()
    assert sorted(left_out) == ["Opus, 32 kbit/s", "Opus, 96 kbit/s"]
    assert "has no encoder libopus" in left_out["Opus, 32 kbit/s"]
    assert len(chosen) == len(PERTURBATIONS) - 2
    monkeypatch.setitem(sys.modules, "av", None)
    chosen, left_out = choose_perturbations(["mp3", "gain"])
    assert len(left_out) == 3
    assert 'pip install "apex-music[audio]"' in left_out["mp3, 64 kbit/s"]
    assert [perturbation.kind for perturbation in chosen] == ["none", "gain", "gain", "gain"]
