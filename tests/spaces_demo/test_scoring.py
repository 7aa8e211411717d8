"""Scoring for visitors: same numbers as the pipeline, plain refusals, progress, no paths."""

import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from patience import PATIENCE

from modeling_apex import load_pipeline
from modeling_apex.inference import audio_limits_apex
from spaces_demo.samples import load_samples
from spaces_demo.scoring import Scorer, SongRefusedError
from spaces_demo.settings import SpaceSettings

from waveforms import make_waveform


def test_scores_are_those_of_the_pipeline(scorer: Scorer, report: dict[str, Any], songs_folder: Path) -> None:
    expected = load_pipeline(scorer.settings.models[0])(str(songs_folder / "first.wav"), return_timeline=True)
    assert report["scores"] == expected["scores"]
    assert report["segments"] == expected["segments"]


def test_reports_name_files_and_models_without_their_folders(report: dict[str, Any], songs_folder: Path) -> None:
    assert report["song"] == "first.wav"
    assert report["model"] == {"id": "random-model", "revision": None}
    assert str(songs_folder) not in str(report)


def test_progress_counts_segments_up_to_what_the_header_promised(scorer: Scorer, songs_folder: Path) -> None:
    song, seen = str(songs_folder / "first.wav"), []
    scorer.score(song, on_segment=seen.append)
    assert seen == [1, 2, 3]
    assert scorer.count_segments(song) == 3
    assert scorer.count_segments(None) is None
    assert scorer.count_segments(str(songs_folder / "broken.mp3")) is None


def test_two_visitors_at_once_see_their_own_progress(scorer: Scorer, songs_folder: Path) -> None:
    meet = threading.Barrier(2, timeout=PATIENCE)

    def visit(name: str) -> list[int]:
        seen: list[int] = []

        def show(num_done: int) -> None:
            seen.append(num_done)
            if num_done == 1:
                meet.wait()  # both are in the middle of a song

        scorer.score(str(songs_folder / name), on_segment=show)
        return seen

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(visit, ["first.wav", "long.wav"])) == [[1, 2, 3], [1, 2, 3, 4, 5, 6, 7]]


def test_refusals_speak_to_a_visitor(scorer: Scorer, songs_folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "six.wav", make_waveform(1.0, 8_000, num_channels=6).T, 8_000)
    soundfile.write(tmp_path / "slow.wav", make_waveform(1.0, 2_000), 2_000)
    soundfile.write(tmp_path / "large.wav", make_waveform(10.0, 44_100, num_channels=2).T, 44_100)
    soundfile.write(tmp_path / "endless.flac", make_waveform(31.0, 8_000), 8_000)
    (tmp_path / "empty.wav").touch()
    wanted = {
        tmp_path / "six.wav": "six.wav: the file has 6 channels; mono and stereo are accepted. Mix it down first.",
        tmp_path / "slow.wav": "slow.wav: the sampling rate is 2000 Hz; 4000 to 384000 Hz are accepted. Save it again",
        tmp_path / "large.wav": "large.wav: the file is larger than 1 MB, the limit of this page. Save it as MP3",
        tmp_path / "endless.flac": "endless.flac: the song is longer than 30 seconds, the limit of this page. Cut it",
        tmp_path / "empty.wav": "empty.wav: the file is empty (0 bytes).",
        tmp_path
        / "gone.wav": "gone.wav: the upload no longer exists; uploads are deleted after 30 minutes. Drop the song "
        "again.",
    }
    for path, message in wanted.items():
        with pytest.raises(SongRefusedError, match="^" + re.escape(message)) as caught:
            scorer.score(str(path))
        assert str(tmp_path) not in str(caught.value)
        assert "AudioLimits" not in str(caught.value)
    with pytest.raises(SongRefusedError, match=r"^broken\.mp3: this cannot be read as a song\. .*reads MP3, WAV"):
        scorer.score(str(songs_folder / "broken.mp3"))
    with pytest.raises(SongRefusedError, match="There is no song yet"):
        scorer.score(None)


@pytest.mark.parametrize("name", ["decode_short.wav", "cannot be decoded.wav", "decode.wav", "empty.wav"])
def test_a_name_does_not_choose_the_message_and_is_not_logged(
    scorer: Scorer, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spaces_demo")
    folder = tmp_path / "decode"
    folder.mkdir()
    soundfile.write(folder / name, np.zeros(3), 8_000)
    with pytest.raises(SongRefusedError, match=rf"^{re.escape(name)}: lasts .* are needed") as caught:
        scorer.score(str(folder / name))
    assert str(tmp_path) not in str(caught.value)
    (folder / name).write_text("This is not a song. " * 50)
    with pytest.raises(SongRefusedError, match=rf"^{re.escape(name)}: this cannot be read as a song"):
        scorer.score(str(folder / name))
    assert caplog.text.count("refused a song: ") == 2
    assert name not in caplog.text


def test_a_url_is_never_fetched(scorer: Scorer) -> None:
    assert not scorer.limits.allow_private_addresses
    with pytest.raises(SongRefusedError, match=r"song\.wav: the upload no longer exists"):
        scorer.score("http://127.0.0.1:1/song.wav")


def test_silence_packed_small_is_refused_in_plain_words(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_limits_apex, "GRACE_SAMPLES", 1000)
    soundfile.write(tmp_path / "silence.flac", np.zeros(200_000), 8_000)
    with pytest.raises(SongRefusedError, match=r"silence\.flac: nearly all of this file is silence\. Cut the silence"):
        scorer.score(str(tmp_path / "silence.flac"))


def test_one_bad_song_of_many_is_reported_and_the_others_scored(scorer: Scorer, songs_folder: Path) -> None:
    seen: list[int] = []
    names = ("first.wav", "broken.mp3", "second.wav")
    reports = scorer.score_many([str(songs_folder / name) for name in names], on_song=seen.append)
    assert [report["song"] for report in reports] == list(names)
    assert ["error" in report for report in reports] == [False, True, False]
    assert reports[1]["model"]["id"] == "random-model"
    assert seen == [1, 2, 3]


def test_too_few_and_too_many_songs_are_refused(scorer: Scorer) -> None:
    with pytest.raises(SongRefusedError, match="no songs yet"):
        scorer.score_many([])
    with pytest.raises(SongRefusedError, match="7 songs are too many at once for this page; it takes 6"):
        scorer.score_many(["song.wav"] * 7)


def test_models_are_named_by_their_folder_unless_that_is_ambiguous(scorer: Scorer, tmp_path: Path) -> None:
    assert scorer.model_names == ["random-model", "voting-model"]
    for parent in ("a", "b"):
        (tmp_path / parent / "best").mkdir(parents=True)
    sources = (str(tmp_path / "a" / "best"), str(tmp_path / "b" / "best"), "amaai-lab/apex")
    assert Scorer(SpaceSettings(models=sources)).model_names == list(sources)
    assert Scorer(SpaceSettings()).model_names == ["apex-tiny"]


def test_unknown_models_are_refused(scorer: Scorer) -> None:
    with pytest.raises(ValueError, match=r"no model 'other'\. Choose one of: random-model, voting-model"):
        scorer.get_scorer("other")
    for model in ({"name": "random-model"}, ["random-model"], 0, False):
        message = f"must be given by its name, a string, got {model!r}. Choose one of: random-model, voting-model."
        with pytest.raises(ValueError, match=re.escape(message)):
            scorer.get_scorer(model)
    with pytest.raises(ValueError, match=r"^.{,150}$"):
        scorer.get_scorer("other" * 1000)


def test_a_model_is_loaded_once(scorer: Scorer) -> None:
    assert scorer.get_scorer() is scorer.get_scorer("random-model")


def test_without_a_setting_the_embedded_model_ranks_its_samples_as_they_were_made() -> None:
    scorer, samples = Scorer(SpaceSettings()), load_samples()
    best, worst = (scorer.score(str(sample.path)) for sample in (samples[0], samples[-1]))
    assert best["model"]["id"] == "apex-tiny"
    assert all(best["scores"][name] > worst["scores"][name] for name in best["scores"])
