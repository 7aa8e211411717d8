"""Whole songs are what `librosa.load` makes of them, to the bit and to the length, or refused by name."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modeling_apex.inference.audio_apex import load_audio
from modeling_apex.inference.audio_limits_apex import AudioError
from modeling_apex.inference.configuration_songeval_apex import SongEvalConfig
from modeling_apex.inference.whole_song_apex import load_whole_song

WriteSong = Callable[..., Path]


def load_by_librosa(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import librosa

        return librosa.load(path, sr=24_000)[0]


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.731, 3.0])
def test_wav_is_what_librosa_loads(rate: int, seconds: float, song_file: WriteSong) -> None:
    path = song_file("song.wav", seconds, rate, num_channels=2)
    samples = load_whole_song(path).samples
    assert samples.dtype == np.float32
    assert np.array_equal(samples, load_by_librosa(path))


def test_mp3_is_what_librosa_loads(song_file: WriteSong) -> None:
    path = song_file("song.mp3", 4.2, 44_100, num_channels=2)
    assert np.array_equal(load_whole_song(path).samples, load_by_librosa(path))


def test_the_length_is_rounded_up_as_librosa_does(song_file: WriteSong) -> None:
    missing = 0
    for num_samples in range(4801, 4811):
        path = song_file(f"{num_samples}.wav", num_samples / 44_100, 44_100)
        song, alone = load_whole_song(path).samples, load_audio(path, resampler="soxr")
        assert np.array_equal(song, load_by_librosa(path))
        assert np.array_equal(song[: len(alone)], alone[: len(song)])
        missing += len(song) - len(alone)
    assert missing > 0  # or the last zero would be there already, and this function would add nothing


def test_arrays_and_names(song_file: WriteSong) -> None:
    array = np.linspace(-0.5, 0.5, 48_000, dtype=np.float32)
    song = load_whole_song({"array": array, "sampling_rate": 24_000})
    assert np.array_equal(song.samples, array)
    assert song.name == "<array>"
    assert song.warnings == []
    assert load_whole_song(np.zeros(24_000, np.float32), sampling_rate=24_000).warnings == ["the song is silent"]


def test_a_long_song_is_refused_and_not_cut(song_file: WriteSong) -> None:
    path = song_file("long.wav", 1.001, 44_100)
    with pytest.raises(AudioError, match=r"long\.wav: lasts more than 1 s, .* does not cut them.* `max_song_seconds`"):
        load_whole_song(path, max_song_seconds=1.0)
    samples = load_whole_song(song_file("just.wav", 1.0, 44_100), max_song_seconds=1.0).samples
    assert len(samples) == 24_001 <= SongEvalConfig(max_song_seconds=1.0).max_num_samples


def test_a_short_song_is_refused(song_file: WriteSong) -> None:
    path = song_file("short.wav", 1024 / 24_000, 24_000)
    with pytest.raises(AudioError, match=r"short\.wav: lasts 0\.0427 s \(1024 samples .* at least 1025 samples"):
        load_whole_song(path, minimum_num_samples=1025)


def test_damaged_samples_are_refused() -> None:
    array = np.zeros(24_000, np.float32)
    array[7] = np.nan
    with pytest.raises(AudioError, match="<array>: samples are NaN or infinite"):
        load_whole_song(array, sampling_rate=24_000)
