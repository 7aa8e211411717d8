"""`apex-music robustness` from songs to its files: the control, failures, resuming, refusals, what a reader sees."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from modeling_apex import ApexModel, AudioLimits
from modeling_apex.cli import main
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.inference.scoring_apex import SongScorer
from modeling_apex.robustness import measuring
from modeling_apex.robustness.measuring import build_results, get_song, name_variant, read_sound, score_variants
from modeling_apex.robustness.perturbations import PERTURBATIONS, Perturbation
from modeling_apex.robustness.robustness_report import build_report, describe_largest

from result_schemas import check_result

SongFile = Callable[..., Path]
CONTROL = PERTURBATIONS[0]


@pytest.fixture
def album(song_file: SongFile) -> Path:
    """Three songs: mono, stereo, and an mp3."""
    song_file("album/a.wav", 0.35, seed=1)
    song_file("album/b.wav", 0.4, 44_100, num_channels=2, seed=2)
    return song_file("album/c.mp3", 0.5, 44_100, num_channels=2, seed=3).parent


@pytest.fixture
def words(tiny_folder: Path, album: Path, tmp_path: Path) -> list[str]:
    output = ["--output", str(tmp_path / "out"), "--num-draws", "100", "--device", "cpu"]
    return ["robustness", str(tiny_folder), str(album), *output, "--only", "gain", "silence", "channels"]


def read_results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "robustness.json").read_text())


def score_all(model: ApexModel, songs: list[Path], perturbations: list[Perturbation]) -> list[dict[str, Any]]:
    names = ["original", *(perturbation.name for perturbation in perturbations)]
    wanted = {str(song): names for song in songs}
    return list(score_variants(SongScorer(model), wanted, perturbations, AudioLimits()))


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_the_control_gives_the_same_scores_to_the_last_bit(
    tiny_model: ApexModel, song_file: SongFile, suffix: str, num_channels: int
) -> None:
    # Longer than the blocks that files are read in.
    song = song_file(f"song.{suffix}", 2.0, 44_100, num_channels=num_channels)
    original, control = score_all(tiny_model, [song], [CONTROL])
    assert control["scores"] == original["scores"]


def test_channels_stay_apart_where_their_mean_is_what_is_heard(
    song_file: SongFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = song_file("b.wav", 0.4, 44_100, num_channels=2)
    written, _ = soundfile.read(song, dtype="float32")
    assert np.array_equal(read_sound(str(song), AudioLimits()).samples, written)
    assert read_sound(str(song_file("a.wav")), AudioLimits()).num_channels == 1
    # What is decoded otherwise than scoring does it does not count.
    monkeypatch.setattr(measuring, "_read_channels", lambda song, limits: written[::-1])
    assert np.array_equal(read_sound(str(song), AudioLimits()).samples, written.mean(axis=1)[:, None])


def test_results_say_what_was_done_to_what(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 0
    said = capsys.readouterr()
    results = read_results(tmp_path / "out")
    check_result(results)
    assert (results["result"], results["num_songs"], results["num_failed_songs"]) == ("robustness", 3, 0)
    assert len(results["model_sha256"]) == len(results["input_sha256"]) == 64
    rows = {row["name"]: row for row in results["perturbations"]}
    for changes in rows["none"]["changes"].values():
        assert (changes["mean"]["estimate"], changes["mean_absolute"]["estimate"], changes["largest"]) == (0, 0, 0)
        assert changes["flipped_pairs"]["estimate"] in (0, None)  # a head of chance may score all songs alike
    # Segments are normalised, so a gain is rounding; the mean of two channels is what is heard anyway.
    for changes in rows["gain +6 dB"]["changes"].values():
        assert abs(changes["largest"]) < 1e-3
    assert rows["mono"]["num_songs"] == 2
    assert rows["mono"]["unfit"] == {"the song has one channel": 1}
    assert all(changes["largest"] == 0 for changes in rows["mono"]["changes"].values())
    silence = rows["1 s of silence at the start"]["changes"]
    assert max(changes["mean_absolute"]["estimate"] for changes in silence.values()) > 0.01
    assert silence["score_streams"]["largest_song"] in ("a.wav", "b.wav", "c.mp3")
    reports = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert len(reports) == 3 * (2 + 3 + 4 + 2)
    changed = {report["song"]: report["scores"] for report in reports if "scores" in report}
    a = next(name for name in changed if name.endswith("a.wav: original"))
    moved = [
        changed[name_variant(song, "1 s of silence at the start")]["clarity"]
        - changed[name_variant(song, "original")]["clarity"]
        for song in {get_song(name) for name in changed}
    ]
    assert silence["clarity"]["mean"]["estimate"] == pytest.approx(np.mean(moved))
    assert get_song(a).endswith("a.wav")
    assert (tmp_path / "out" / "robustness.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "1 s of silence at the start" in said.out
    assert "robustness.json" in said.out
    assert not list((tmp_path / "out").glob("*.partial"))


def test_report_and_its_first_sentence(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    results = read_results(tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert report == build_report(results)
    assert "- mono: without 1 song (the song has one channel)." in report
    assert "of silence at the" in describe_largest(results).partition("; least")[0]
    results["left_out"] = {"mp3, 64 kbit/s": "there is no encoder"}
    assert "- Left out: mp3, 64 kbit/s, because there is no encoder." in build_report(results)
    for score in results["scores"].values():
        score["standard_deviation"] = 0.0
    assert describe_largest(results).startswith("No score differs between these songs")


def test_a_broken_song_costs_that_song_and_is_told_once(
    words: list[str], album: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (album / "d.wav").write_bytes(b"no audio at all")
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.count("not scored: ") == 1
    assert "d.wav" in said
    assert "3 songs compared, 1 failed" in said
    results = read_results(tmp_path / "out")
    assert (results["num_songs"], results["num_failed_songs"]) == (3, 1)


def test_limits_hold_for_songs_and_not_for_what_is_made_of_them(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([*words, "--max-seconds", "0.45"]) == 1  # with a second of silence, each is longer
    assert "but the limit is 0.45 s" in capsys.readouterr().err
    results = read_results(tmp_path / "out")
    assert (results["num_songs"], results["num_failed_songs"]) == (2, 1)
    assert all(row["num_failed_songs"] == 0 for row in results["perturbations"])


def test_one_song_is_too_few(words: list[str], album: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words[2] = str(album / "a.wav")
    assert main(words) == 2
    assert "1 of 1 songs could be scored, but at least two are needed" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_song_by_song_and_change_by_change(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert main(words) == 0
    whole = (tmp_path / "out" / "robustness.json").read_text(), (tmp_path / "out" / "scores.jsonl").read_text()
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    add, added = ScoreJournal.add, []

    def count(self: ScoreJournal, song: str, report: dict) -> None:
        if len(added) == 15:  # in the second song
            raise KeyboardInterrupt
        added.append(song)
        add(self, song, report)

    monkeypatch.setattr(ScoreJournal, "add", count)
    assert main(words) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    assert not (tmp_path / "out" / "robustness.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(ScoreJournal, "add", add)
        assert main([*words[:-2], *words[-1:]]) == 2
        assert "an unfinished run with other settings (perturbations" in capsys.readouterr().err
    first = list(added)
    added.clear()
    monkeypatch.setattr(ScoreJournal, "add", lambda self, song, report: added.append(song) or add(self, song, report))
    assert main(words) == 0
    assert "resuming: 15 of 33 versions of songs already in" in capsys.readouterr().err
    assert len(added) == 33 - 15
    assert not set(added) & set(first)
    assert whole == (
        (tmp_path / "out" / "robustness.json").read_text(),
        (tmp_path / "out" / "scores.jsonl").read_text(),
    )


def test_a_song_that_changed_meanwhile_is_scored_again(
    words: list[str], album: Path, tmp_path: Path, song_file: SongFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScoreJournal, "finish", lambda self, order: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(words) == 130
    before = read_results(tmp_path / "out")
    monkeypatch.undo()
    song_file("album/a.wav", 0.35, seed=9)
    assert main(words) == 0
    after = read_results(tmp_path / "out")
    assert before["input_sha256"] != after["input_sha256"]
    fresh = [*words]
    fresh[fresh.index("--output") + 1] = str(tmp_path / "fresh")
    assert main(fresh) == 0
    assert after == read_results(tmp_path / "fresh")


def test_what_exists_is_not_replaced_unless_it_is_said(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(words) == 0
    assert main(words) == 2
    assert "scores.jsonl: exists. Choose another output, or pass --overwrite" in capsys.readouterr().err
    assert main([*words[:-2], "--overwrite"]) == 0
    names = [row["name"] for row in read_results(tmp_path / "out")["perturbations"]]
    assert names == ["none", "gain -12 dB", "gain -6 dB", "gain +6 dB"]


def test_refusals(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*words, "gian"]) == 2
    assert "no perturbation is of the kind gian; choose from mp3, opus" in capsys.readouterr().err
    assert main([*words[:2], "https://host.invalid/a.mp3", *words[3:]]) == 2
    assert "a.mp3: is a URL, and a song is read many times here. Download it first." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_version_that_cannot_be_scored_costs_that_version(tiny_model: ApexModel, song_file: SongFile) -> None:
    class Broken(Perturbation):
        def apply(self, sound: object) -> bytes:
            raise ValueError("it broke")

    songs = [song_file(f"{row}.wav", seed=row) for row in range(3)]
    done = [CONTROL, Broken("broken", "gain")]
    reports = score_all(tiny_model, songs, done)
    assert sorted(report["error"] for report in reports if "error" in report) == [
        f"{song}: broken: it broke" for song in sorted(songs)
    ]
    results = build_results(reports, [str(song) for song in songs], done, num_draws=50)
    assert (results["num_songs"], results["perturbations"][1]["num_failed_songs"]) == (3, 3)
    assert results["perturbations"][1]["changes"] == {}
    report = build_report({**results, "model": "m", "left_out": {}})
    assert "- broken: without 3 songs (the version could not be scored)." in report
    assert "| broken |" not in report


def test_songs_that_score_alike_have_no_order_to_lose(tiny_model: ApexModel, song_file: SongFile) -> None:
    songs = [song_file(f"{row}.wav", seed=1) for row in range(2)]
    done = [CONTROL, *(p for p in PERTURBATIONS if p.kind == "gain")]
    results = build_results(score_all(tiny_model, songs, done), [str(song) for song in songs], done, num_draws=50)
    flipped = results["perturbations"][1]["changes"]["clarity"]["flipped_pairs"]
    assert (flipped["estimate"], flipped["reason"]) == (None, "not defined on these items")
    assert "| none | 2 |" in build_report({**results, "model": "m", "left_out": {}})
