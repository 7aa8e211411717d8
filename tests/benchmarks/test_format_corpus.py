"""The judge of the format corpus: what it calls equal, what it does not, and what it counts."""

import numpy as np
import pytest

from format_corpus import MAX_FRAME_SAMPLES, Format, SongReader, compare, make_song, summarise

RATE = 48_000
LOSSY = Format("aac", "ipod", "m4a", (), 2, RATE)
LOSSLESS = Format("flac", "flac", "flac", (), 2, RATE)


@pytest.fixture
def mono() -> np.ndarray:
    return make_song(2, RATE).mean(axis=1)


def test_the_same_samples_are_equal(mono: np.ndarray) -> None:
    assert compare(LOSSLESS, (RATE, mono), (RATE, mono, []))["outcome"] == "equal"
    # An encoder's delay that one decoder drops and the other keeps.
    moved = np.concatenate([np.zeros(1_000, np.float32), mono])
    assert compare(LOSSY, (RATE, mono), (RATE, moved, []))["outcome"] == "equal"
    assert compare(LOSSY, (RATE, moved), (RATE, mono, []))["outcome"] == "equal"


@pytest.mark.parametrize(
    ("song", "change", "detail"),
    [
        (LOSSLESS, lambda mono: mono[:-1], "95999 samples instead of 96000"),
        (LOSSLESS, lambda mono: np.roll(mono, 1), "relative difference 0.0"),
        (LOSSY, lambda mono: mono[: -MAX_FRAME_SAMPLES - 1], "93951 samples instead of 96000"),
        (LOSSY, lambda mono: mono * 1.05, "relative difference 0.05"),
        (LOSSY, lambda mono: make_song(2, RATE)[:, 0], "relative difference"),
        (LOSSY, lambda mono: mono * np.float32("nan"), "relative difference nan"),
    ],
)
def test_what_differs_is_told(mono: np.ndarray, song: Format, change, detail: str) -> None:
    result = compare(song, (RATE, mono), (RATE, change(mono), []))
    assert result["outcome"] == "differs"
    assert result["detail"].startswith(detail)


def test_rates_warnings_refusals_and_failures(mono: np.ndarray) -> None:
    assert compare(LOSSY, (RATE, mono), (24_000, mono, []))["detail"] == "24000 Hz instead of 48000"
    warned = compare(LOSSY, (RATE, mono), (RATE, mono, ["the song is silent"]))
    assert (warned["outcome"], warned["detail"]) == ("warned", "the song is silent")
    assert compare(LOSSY, (RATE, mono), "a.m4a: holds no samples.")["detail"] == "holds no samples."
    assert compare(LOSSY, (RATE, mono), RuntimeError("status -11"))["outcome"] == "failed"


def test_a_reader_that_dies_is_replaced(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("no song")
    with SongReader() as reader:
        assert "a.txt" in reader.read(path)
        reader._process.kill()
        reader._process.join()
        assert isinstance(reader.read(path), RuntimeError)
        assert "a.txt" in reader.read(path)


def test_the_summary_counts_every_file_once() -> None:
    row = {"encoder": "aac", "container": "m4a", "channels": 2, "rate": 48_000}
    rows = [
        {**row, "outcome": "equal", "difference": 0.01},
        {**row, "outcome": "refused", "detail": "holds 3 samples"},
        {**row, "outcome": "refused", "detail": "holds 4 samples", "rate": 8_000},
    ]
    summary = summarise(rows, "5.1")
    assert summary["num_files"] == 3
    assert summary["outcomes"] == {"equal": 1, "refused": 2}
    assert summary["largest_difference"] == 0.01
    (other,) = summary["others"]
    assert (other["files"], other["encoders"]) == (2, ["aac-2ch-48000", "aac-2ch-8000"])
