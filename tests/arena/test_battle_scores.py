"""Scores of battles from audio: computed once, stored, resumed, never mixed, valid for what made them."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modeling_apex.arena.battle_files import load_battle_table
from modeling_apex.arena.battle_scores import compute_battle_scores, compute_loudness, measure_loudness
from modeling_apex.corpus import identity

MADE_BY_0_1 = Path(__file__).parent.parent / "made_by_0_1"


class CountingScorer:
    """Score songs whose bytes are a number, and remember which."""

    def __init__(self) -> None:
        self.songs: list[Any] = []

    def __call__(self, song: Any) -> Mapping[str, Any]:
        content = Path(song["path"]).read_bytes() if isinstance(song, Mapping) else song
        self.songs.append(content.decode())
        if content == b"broken":
            return {"error": "the song does not decode"}
        return {
            "scores": {"score_streams": float(content), "musicality": 3.0},
            "duration_seconds": 2.0 * float(content),
        }


def build_dataset() -> list[dict[str, Any]]:
    base = {"preference": "A", "system_a": "s", "system_b": "t", "is_instrumental": None, "lyrics": "la"}
    return [
        {**base, "battle_uuid": "one", "audio_a": b"10", "audio_b": b"20", "duration_a": 7.5, "duration_b": None},
        {**base, "battle_uuid": "two", "audio_a": b"30", "audio_b": b"broken"},
        {**base, "battle_uuid": "three", "audio_a": {"bytes": None, "path": None}, "audio_b": b"40"},
    ]


def score(
    output: Path,
    scorer: Any,
    dataset: Any = None,
    weights: str = "a" * 64,
    **options: Any,
) -> Any:
    options = {"model_id": "tiny@main", "loudness": None, **options}
    return compute_battle_scores(dataset or build_dataset(), scorer, output, weights_sha256=weights, **options)


def test_both_sides_are_scored_once_and_stored(tmp_path: Path) -> None:
    output, scorer = tmp_path / "runs" / "scores.jsonl", CountingScorer()
    table = score(output, scorer)
    assert scorer.songs == ["10", "20", "30", "broken", "40"]
    np.testing.assert_array_equal(table.scores[:, :, 0], [[10, 20], [30, np.nan], [np.nan, 40]])
    np.testing.assert_array_equal(table.durations, [[7.5, 40], [60, np.nan], [np.nan, 80]])
    assert [column.group for column in table.score_columns] == ["popularity", "aesthetics"]
    text = output.read_text()
    assert "the audio is withheld" in text
    assert "does not decode" in text
    again = score(output, scorer)
    assert len(scorer.songs) == 5
    np.testing.assert_array_equal(again.scores, table.scores)
    assert output.read_text() == text


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "scores.jsonl"
    score(whole, CountingScorer())

    def stop_at_three() -> Any:
        yield from build_dataset()[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(output, CountingScorer(), stop_at_three())
    with output.open("a") as journal:
        journal.write('{"battle_uuid": "thr')
    scorer = CountingScorer()
    score(output, scorer)
    assert scorer.songs == ["40"]
    assert output.read_bytes() == whole.read_bytes()


def test_refusals(tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    score(output, CountingScorer())
    with pytest.raises(ValueError, match="holds 2 battles that the dataset does not have, the first being 'two'"):
        score(output, CountingScorer(), build_dataset()[:1])
    with pytest.raises(ValueError, match=r"ending in \.jsonl"):
        score(tmp_path / "scores.csv", CountingScorer())
    with pytest.raises(ValueError, match=r"Row 1 of the dataset lacks \['audio_a', 'audio_b'\]"):
        score(tmp_path / "other.jsonl", CountingScorer(), [{"battle_uuid": "x", "preference": "A"}])
    broken = [{**build_dataset()[0], "audio_a": b"broken", "audio_b": b""}]
    with pytest.raises(ValueError, match=r"No song of 1 battles could be scored.*withheld; the song does not decode"):
        score(tmp_path / "broken.jsonl", CountingScorer(), broken)


def test_weights_replaced_under_the_same_name_are_refused_by_name(tmp_path: Path) -> None:
    output, scorer = tmp_path / "scores.jsonl", CountingScorer()
    score(output, scorer, weights="a" * 64)
    message = r"scores of battles by tiny@main made from something else \(weights a{12}… instead of b{12}…\)\. Delete"
    with pytest.raises(ValueError, match=message):
        score(output, scorer, weights="b" * 64)
    score(output, scorer, weights="a" * 64, model_id="a_copy_elsewhere")  # the same weights under another name
    assert len(scorer.songs) == 5


def test_a_battle_whose_audio_was_replaced_is_scored_again(tmp_path: Path) -> None:
    output, scorer = tmp_path / "scores.jsonl", CountingScorer()
    score(output, scorer)
    dataset = build_dataset()
    dataset[0]["audio_b"], dataset[2]["audio_a"] = b"25", b"5"  # other bytes; no longer withheld
    table = score(output, scorer, dataset)
    assert scorer.songs[5:] == ["10", "25", "5", "40"]
    np.testing.assert_array_equal(table.scores[:, :, 0], [[10, 25], [30, np.nan], [5, 40]])
    dataset[2]["audio_a"] = None  # withheld again: what was found in it no longer counts
    assert np.isnan(score(output, scorer, dataset).scores[2, 0]).all()


def test_files_are_known_by_content_and_read_again_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SETTLING_NS", -1)  # files of this test change within a clock tick
    song = tmp_path / "song.wav"
    song.write_bytes(b"30")
    dataset = [{**build_dataset()[0], "audio_a": {"bytes": None, "path": str(song)}}]
    output, scorer = tmp_path / "scores.jsonl", CountingScorer()
    score(output, scorer, dataset)
    reads = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: reads.append(file.name) or digest(file, name))
    assert score(output, scorer, dataset).scores[0, 0, 0] == 30
    assert reads == []
    score(output, scorer, dataset, rereads=True)
    assert reads == [str(song)]
    status = song.stat()
    while song.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of a file system ticks every few milliseconds
        song.write_bytes(b"60")  # of the same size, and with its old time of writing
        os.utime(song, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert score(output, scorer, dataset).scores[0, 0, 0] == 60
    assert scorer.songs == ["30", "20", "60", "20"]
    song.chmod(0o600)
    assert score(output, scorer, dataset).scores[0, 0, 0] == 60
    assert len(scorer.songs) == 4  # touched, and found to be the same


def test_audio_that_changes_while_it_is_scored_is_scored_again(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(b"30")
    dataset = [{**build_dataset()[0], "audio_a": {"path": str(song)}}]
    output, scorer = tmp_path / "scores.jsonl", CountingScorer()

    class ReplacingScorer(CountingScorer):
        def __call__(self, song: Any) -> Mapping[str, Any]:
            report = super().__call__(song)
            if isinstance(song, Mapping):
                Path(song["path"]).write_bytes(b"60")
            return report

    assert score(output, ReplacingScorer(), dataset).scores[0, 0, 0] == 30
    assert score(output, scorer, dataset).scores[0, 0, 0] == 60


def test_a_vote_that_was_corrected_counts_without_scoring_again(tmp_path: Path) -> None:
    output, scorer, dataset = tmp_path / "scores.jsonl", CountingScorer(), build_dataset()
    score(output, scorer)
    dataset[0] |= {"preference": "B", "system_a": "u", "duration_a": None, "duration_b": 9.0}
    table = score(output, scorer, dataset)
    assert len(scorer.songs) == 5
    assert (table.preferences[0], table.systems[0, 0], table.durations[0].tolist()) == ("B", "u", [20.0, 9.0])


def test_scores_of_the_version_before_are_refused_with_the_command(tmp_path: Path) -> None:
    output = Path(shutil.copy(MADE_BY_0_1 / "battle_scores.jsonl", tmp_path))
    before = output.read_bytes()
    text = r"battles by version 0\.1, which did not record .* Delete it and run the same `apex-music arena` command "
    r"again"
    with pytest.raises(ValueError, match=text):
        score(output, CountingScorer())
    assert output.read_bytes() == before
    assert np.isfinite(load_battle_table(output).scores).all()  # as a table of scores it is what it was


def test_scores_count_in_the_groups_that_reports_state(tmp_path: Path) -> None:
    groups = {"plays": "popularity", "mood": "aesthetics", "hits": "hit"}

    def score_song(song: Any) -> Mapping[str, Any]:
        return {"scores": dict.fromkeys((*groups, "tempo"), 1.0), "groups": groups, "duration_seconds": 1.0}

    for _ in range(2):  # also when it is read from the file
        table = score(tmp_path / "scores.jsonl", score_song, build_dataset()[:1])
        found = {column.name: column.group for column in table.score_columns}
        assert found == {"plays": "popularity", "mood": "aesthetics", "hits": "other", "tempo": "other"}


def test_loudness_is_decibels_of_full_scale(tmp_path: Path) -> None:
    assert compute_loudness(np.ones(100, dtype=np.float32)) == pytest.approx(0.0)
    assert compute_loudness(np.full(100, 0.1)) == pytest.approx(-20.0)
    assert compute_loudness(np.zeros(100)) == compute_loudness(np.zeros(0)) == -120.0
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.5 * np.sin(np.arange(24_000) * 0.1), 24_000)
    assert measure_loudness(str(path)) == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)
