"""The judge of the format corpus: what it calls equal, what it does not, what it counts; and the result it gave."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from format_corpus import (
    CONTAINERS,
    MAX_FRAME_SAMPLES,
    NEARER,
    UNREADABLE,
    Format,
    SongReader,
    judge,
    main,
    make_song,
    measure,
    summarise,
)

RATE = 48_000
LOSSY = Format("aac", "ipod", "m4a", (), 2, RATE)
RESULTS = Path(__file__).parent / "results"
LOSSLESS = Format("flac", "flac", "flac", (), 2, RATE)


def compare(song: Format, expected: Any, read: Any) -> dict[str, Any]:
    return judge({"encoder": song.encoder, **measure(song, expected, read)})


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
        (LOSSY, lambda mono: mono[:0], "0 samples instead of 96000"),
    ],
)
def test_what_differs_is_told_and_has_no_excuse(mono: np.ndarray, song: Format, change, detail: str) -> None:
    result = compare(song, (RATE, mono), (RATE, change(mono), []))
    assert result["outcome"] == "differs"
    assert result["detail"].startswith(detail)
    assert result["reason"] == ""


def test_a_difference_is_excused_where_ffmpeg_is_wrong(mono: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, len(mono)).astype(np.float32)
    for wrong, own, reason in (
        (noise, mono, UNREADABLE),
        (mono[:9_000], noise, UNREADABLE),  # neither holds the song
        (mono + 0.05 * noise, mono, NEARER),
        (mono, mono + 0.05 * noise, ""),
    ):
        assert compare(LOSSY, (RATE, wrong), (RATE, own, []))["reason"] == reason


def test_known_reasons_are_of_one_encoder_and_one_outcome(mono: np.ndarray) -> None:
    worse = mono + 0.01 * np.sin(np.arange(len(mono))).astype(np.float32)
    adpcm = Format("adpcm_ima_wav", "wav", "wav", (), 2, RATE)
    assert "FFmpeg 5.1 rounds" in compare(adpcm, (RATE, mono), (RATE, worse, []))["reason"]
    assert compare(LOSSY, (RATE, mono), (RATE, worse, []))["reason"] == ""
    vorbis = Format("vorbis", "ogg", "ogg", (), 2, RATE)
    assert compare(vorbis, (RATE, mono), (RATE, worse, []))["reason"].startswith("of its own Vorbis encoder")
    assert compare(vorbis, (RATE, mono), "a.ogg: holds no samples.")["reason"] == ""
    headerless = "a.gsm: is not in a format. Audio of this kind (.gsm) has no header that says what it is; convert it."
    assert compare(LOSSY, (RATE, mono), headerless)["reason"] == "no header: cannot be told from noise"


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
    equal = {"rates": [RATE, RATE], "lengths": [9, 9], "warnings": [], "difference": 0.01}
    rows = [
        {**row, **equal},
        {**row, "refusal": "holds 3 samples"},
        {**row, "refusal": "holds 4 samples", "rate": 8_000},
        {**row, "refusal": "the codec of this MP4 file is not one that FFmpeg decodes."},
    ]
    summary = summarise(rows, "5.1")
    assert summary["num_files"] == 4
    assert summary["outcomes"] == {"equal": 1, "refused": 3}
    assert summary["num_unexplained"] == 2
    assert summary["largest_difference"] == 0.01
    unexplained, _ = summary["others"]
    assert (unexplained["files"], unexplained["names"]) == (2, ["aac-2ch-48000", "aac-2ch-8000"])


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("format_corpus.shutil.which", lambda name: name)
    monkeypatch.setattr("format_corpus.find_version", lambda: "5.1")
    row = {"encoder": "aac", "container": "m4a", "channels": 2, "rate": RATE, "refusal": "holds no samples."}
    journal, output = tmp_path / "rows.jsonl", tmp_path / "formats.json"
    journal.write_text(json.dumps({"container": "m4a", "rows": [row]}) + "\n")
    assert main(["--output", str(output), "--journal", str(journal), "--containers", "m4a"]) == 1
    assert json.loads(output.read_text())["num_unexplained"] == 1


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return json.loads((RESULTS / "formats.json").read_text("utf-8"))


def test_the_result_counts_every_file_once(result: dict[str, Any]) -> None:
    entries = result["containers"].values()
    assert sum(entry["files"] for entry in entries) == result["num_files"]
    assert all(sum(entry["outcomes"].values()) == entry["files"] for entry in entries)
    for outcome, count in result["outcomes"].items():
        assert sum(entry["outcomes"].get(outcome, 0) for entry in entries) == count
        if outcome != "equal":
            assert sum(entry["files"] for entry in result["others"] if entry["outcome"] == outcome) == count


def test_every_difference_and_refusal_of_the_result_has_a_reason(result: dict[str, Any]) -> None:
    assert "failed" not in result["outcomes"]
    assert result["num_unexplained"] == 0
    for entry in result["others"]:
        assert entry["reason"] or entry["outcome"] == "warned"


def test_the_result_is_of_the_whole_corpus(result: dict[str, Any]) -> None:
    # What FFmpeg 5.1 of Debian writes; another may write more.
    assert result["num_files"] > 6_500
    assert set(result["containers"]) <= {ending for _, ending, _ in CONTAINERS}
    assert result["outcomes"]["equal"] > 0.9 * result["num_files"]
