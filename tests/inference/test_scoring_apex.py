"""The scorer that every door holds: its steps, its progress, and what it refuses."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE

from modeling_apex import ApexModel, SongScorer, load_pipeline
from modeling_apex.inference import decoding_apex

from fusion_models import build_fusion_model

SongFile = Callable[..., Path]


@pytest.fixture
def songs(song_file: SongFile) -> list[str]:
    """Songs of 1, 4 and 2 segments."""
    return [str(song_file(f"{row}.wav", seconds, seed=row)) for row, seconds in enumerate((0.07, 0.35, 0.12))]


def test_it_gives_the_reports_of_the_pipeline(tiny_model: ApexModel, songs: list[str]) -> None:
    options: dict[str, Any] = {"return_timeline": True, "return_embedding": True}
    expected = load_pipeline(tiny_model)(songs, **options)
    for batch_size in (None, 3):
        scorer = SongScorer(tiny_model, batch_size=batch_size)
        assert list(scorer.score(songs, **options)) == expected
        assert list(scorer.score(iter(songs), read_ahead=True, **options)) == expected
    assert list(scorer.score([])) == []


def test_a_model_with_track_features_is_scored_too(songs: list[str]) -> None:
    model = build_fusion_model()
    rows = [{"audio": song, "features": {"genre": "pop", "tempo": 128.0}} for song in songs]
    assert list(SongScorer(model).score(rows)) == load_pipeline(model)(rows)


def test_the_steps_by_hand_are_the_whole(tiny_model: ApexModel, songs: list[str]) -> None:
    scorer = SongScorer(tiny_model)
    items = list(scorer.read(songs[1]))
    assert [item["is_last"] for item in items] == [False, False, False, True]
    outputs = scorer.encode(items)
    assert [tuple(output["embedding"].shape) for output in outputs] == [(1, 16)] * 4
    assert scorer.report(outputs) == next(scorer.score([songs[1]]))


def test_progress_counts_the_segments_of_a_call(tiny_model: ApexModel, songs: list[str], tmp_path: Path) -> None:
    seen: list[int] = []
    scorer = SongScorer(tiny_model, batch_size=4, on_segment=seen.append)
    songs.insert(1, str(tmp_path / "absent.wav"))
    reports = list(scorer.score(songs, on_error="report"))
    assert ["error" in report for report in reports] == [False, True, False, False]
    assert seen == [1, 2, 3, 4, 5, 6, 7], "a song that is not there has no segment"
    own: list[int] = []
    list(scorer.score(songs[:1], on_segment=own.append))
    assert own == [1]
    assert len(seen) == 7, "the listener of a call takes the place of the scorer's"


def test_progress_of_two_calls_at_once_does_not_mix(tiny_model: ApexModel, songs: list[str]) -> None:
    scorer, meet = SongScorer(tiny_model), threading.Barrier(2, timeout=PATIENCE)

    def score(song: str) -> list[int]:
        seen: list[int] = []

        def listen(num_done: int) -> None:
            seen.append(num_done)
            if num_done == 1:
                meet.wait()  # both are in the middle of a song

        list(scorer.score([song], on_segment=listen))
        return seen

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(score, songs[1:])) == [[1, 2, 3, 4], [1, 2]]


@pytest.mark.parametrize("song", ["song.wav", b"RIFF", Path("song.wav"), {"audio": "song.wav"}])
def test_one_song_in_the_place_of_many_is_refused(tiny_model: ApexModel, song: Any) -> None:
    with pytest.raises(TypeError, match=r"`songs` must be many songs, got one \(\w+\)\. Put it in a list"):
        SongScorer(tiny_model).score(song)


def test_options_are_refused_before_a_song_is_read(tiny_model: ApexModel) -> None:
    scorer = SongScorer(tiny_model)
    with pytest.raises(TypeError, match=r"unexpected arguments \['timeline'\]; expected sampling_rate, resampler"):
        scorer.score([], timeline=True)
    with pytest.raises(ValueError, match="`on_error` must be one of raise, report, got 'skip'"):
        scorer.score([], on_error="skip")


URL = "https://me:5ecret@127.0.0.1/song.wav?id=4&sig=5ecret#5ecret"


class FileOfUrl:
    """What file systems over HTTP give: a file object whose name is the URL."""

    name = URL

    def read(self, num_bytes: int) -> bytes:
        return b""


@pytest.mark.parametrize(
    "song",
    [
        URL,
        {"audio": URL},
        {"id": URL, "audio": b"RIFF"},
        {"path": URL},
        {"path": URL, "bytes": b"no audio at all, but bytes"},
        {"path": URL, "array": np.zeros(0, np.float32), "sampling_rate": 8000},
        {"audio": {"path": URL, "array": np.full(8000, np.nan, np.float32), "sampling_rate": 8000}},
        FileOfUrl(),
    ],
)
@pytest.mark.parametrize("is_installed", [True, False])
def test_no_report_holds_what_opens_a_url(
    tiny_model: ApexModel, song: Any, is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_installed:  # as in the code beside a checkpoint
        monkeypatch.setattr(decoding_apex, "name_source", None)
        monkeypatch.setattr(decoding_apex, "open_url", None)
    (report,) = load_pipeline(tiny_model)([song], on_error="report")
    assert report["error"]
    assert "https://127.0.0.1/song.wav" in f"{report['song']} {report['error']}"
    assert "5ecret" not in json.dumps(report)
    (scored,) = SongScorer(tiny_model).score([{"id": URL, "audio": {"array": np.ones(999), "sampling_rate": 8000}}])
    assert scored["song"].startswith("https://127.0.0.1/song.wav")
    assert "5ecret" not in json.dumps(scored)
