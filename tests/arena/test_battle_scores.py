"""Scores of battles from audio: computed once, stored, resumed, never mixed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modeling_apex.arena.battle_scores import compute_battle_scores, compute_loudness, measure_loudness


class CountingScorer:
    """Score songs that are numbers, and remember which."""

    def __init__(self) -> None:
        self.songs: list[Any] = []

    def __call__(self, song: Any) -> Mapping[str, Any]:
        self.songs.append(song)
        if song == "broken":
            return {"error": "the song does not decode"}
        return {"scores": {"score_streams": float(song), "musicality": 3.0}, "duration_seconds": 2.0 * song}


def build_dataset() -> list[dict[str, Any]]:
    base = {"preference": "A", "system_a": "s", "system_b": "t", "is_instrumental": None, "lyrics": "la"}
    return [
        {**base, "battle_uuid": "one", "audio_a": 10, "audio_b": 20, "duration_a": 7.5, "duration_b": None},
        {**base, "battle_uuid": "two", "audio_a": 30, "audio_b": "broken"},
        {**base, "battle_uuid": "three", "audio_a": {"bytes": None, "path": None}, "audio_b": 40},
    ]


def score(output: Path, scorer: CountingScorer, dataset: Any = None, model_id: str = "tiny@main") -> Any:
    return compute_battle_scores(dataset or build_dataset(), scorer, output, model_id=model_id, loudness=None)


def test_both_sides_are_scored_once_and_stored(tmp_path: Path) -> None:
    output, scorer = tmp_path / "runs" / "scores.jsonl", CountingScorer()
    table = score(output, scorer)
    assert scorer.songs == [10, 20, 30, "broken", 40]
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
    assert scorer.songs == [40]
    assert output.read_bytes() == whole.read_bytes()


def test_refusals(tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    score(output, CountingScorer())
    with pytest.raises(ValueError, match="holds scores by tiny@main, not by other@main"):
        score(output, CountingScorer(), model_id="other@main")
    with pytest.raises(ValueError, match="holds 2 battles that the dataset does not have, the first being 'two'"):
        score(output, CountingScorer(), build_dataset()[:1])
    with pytest.raises(ValueError, match=r"ending in \.jsonl"):
        score(tmp_path / "scores.csv", CountingScorer())
    with pytest.raises(ValueError, match=r"Row 1 of the dataset lacks \['audio_a', 'audio_b'\]"):
        score(tmp_path / "other.jsonl", CountingScorer(), [{"battle_uuid": "x", "preference": "A"}])
    broken = [{**build_dataset()[0], "audio_a": "broken", "audio_b": ""}]
    with pytest.raises(ValueError, match=r"No song of 1 battles could be scored.*withheld; the song does not decode"):
        score(tmp_path / "broken.jsonl", CountingScorer(), broken)


def test_loudness_is_decibels_of_full_scale(tmp_path: Path) -> None:
    assert compute_loudness(np.ones(100, dtype=np.float32)) == pytest.approx(0.0)
    assert compute_loudness(np.full(100, 0.1)) == pytest.approx(-20.0)
    assert compute_loudness(np.zeros(100)) == compute_loudness(np.zeros(0)) == -120.0
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.5 * np.sin(np.arange(24_000) * 0.1), 24_000)
    assert measure_loudness(str(path)) == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)
