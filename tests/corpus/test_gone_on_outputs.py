"""Finished outputs that are gone on with: new songs are added, failed ones are scored again, other rows stay."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.cli import main
from modeling_apex.corpus import score_journal
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.scored_songs import ScoredSongs
from modeling_apex.storage.table_reader import iterate_rows

from song_folders import make_wav

SUFFIXES = ["jsonl", "json", "csv", "parquet"]


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Two songs, one of them with a name that CSV must quote and a spreadsheet obey, and one that fails."""
    (tmp_path / "songs").mkdir()
    for number, name in enumerate(('=1, "a".wav', "b.wav")):
        (tmp_path / "songs" / name).write_bytes(make_wav(number, 0.15))
    (tmp_path / "songs" / "c.wav").write_bytes(b"no song")
    return tmp_path / "songs"


@pytest.fixture
def score(songs: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Score or label the songs to a file, perhaps until some are done, and return which were computed."""

    def run(
        *words: str, output: str = "out.jsonl", command: str = "score", stop_after: int = 99, place: Path = songs
    ) -> list[str]:
        add, added = ScoreJournal.add, []

        def note(journal: ScoreJournal, song: str, *rest: Any) -> None:
            if len(added) == stop_after:
                raise KeyboardInterrupt
            added.append(Path(song).name)
            add(journal, song, *rest)

        model = ["--teacher" if command == "label" else "--model", str(tiny_folder)]
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.setattr(ScoreJournal, "add", note)
            run.status = main([command, str(place), *model, "--output", output, *words])  # type: ignore[attr-defined]
        return added

    return run


def read_errors(path: Path) -> list[bool]:
    return [bool(row.values.get("error")) for row in iterate_rows(path)]


@pytest.mark.parametrize("command", ["score", "label"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_new_songs_are_added_and_the_rows_of_before_stay(
    suffix: str, command: str, songs: Path, score: Callable, tmp_path: Path
) -> None:
    output = tmp_path / f"out.{suffix}"
    options = {"output": output.name, "command": command}
    assert len(score(**options)) == 3
    before = output.read_bytes()
    rows = pq.read_table(output) if suffix == "parquet" else None
    assert score("--append", **options) == []
    assert (rows is None and output.read_bytes() == before) or pq.read_table(output).equals(rows)
    (songs / "0.wav").write_bytes(make_wav(7, 0.15))  # which is listed before the others
    assert score("--append", **options) == ["0.wav"]
    assert score.status == 1  # type: ignore[attr-defined]
    assert read_errors(output) == [False, False, True, False]
    if suffix == "parquet":
        assert pq.read_table(output).slice(0, 3).equals(rows)
    else:
        end = 2 if suffix == "json" else 0  # "]" and the line break before it
        assert output.read_bytes().startswith(before[: len(before) - end - 1])
    alone = tmp_path / f"alone.{suffix}"
    assert score(output=alone.name, command=command, place=songs / "0.wav") == ["0.wav"]
    (fresh,) = iterate_rows(alone)
    last = list(iterate_rows(output))[-1].values
    assert {**last, "id": None} == {**fresh.values, "id": None}


@pytest.mark.parametrize("command", ["score", "label"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_failures_alone_are_scored_again(
    suffix: str, command: str, songs: Path, score: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = {"output": f"out.{suffix}", "command": command}
    score(**options)
    (songs / "c.wav").write_bytes(make_wav(9, 0.15))
    (songs / "d.wav").write_bytes(make_wav(8, 0.15))
    assert score("--retry-failures", **options) == ["c.wav"]
    assert f"left out: 1 song that out.{suffix} does not hold; --append adds them" in capsys.readouterr().err
    assert read_errors(tmp_path / f"out.{suffix}") == [False] * 3
    assert score("--retry-failures", "--append", **options) == ["d.wav"]
    score(output=f"whole.{suffix}", command=command)
    if suffix == "parquet":
        assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    else:
        assert (tmp_path / f"out.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()


def test_a_song_that_changed_is_scored_again_when_others_are_added(
    songs: Path, score: Callable, tmp_path: Path
) -> None:
    score()
    before = (tmp_path / "out.jsonl").read_text().splitlines()
    (songs / "b.wav").write_bytes(make_wav(77, 0.2))
    (songs / "c.wav").write_bytes(b"no song, either")
    assert score("--append") == ["b.wav", "c.wav"]
    after = (tmp_path / "out.jsonl").read_text().splitlines()
    assert after[0] == before[0]
    assert json.loads(after[1])["duration_seconds"] == 0.2


def test_songs_that_are_not_named_stay(songs: Path, score: Callable, tmp_path: Path) -> None:
    score()
    (tmp_path / "new.wav").write_bytes(make_wav(5, 0.15))
    assert score("--append", place=tmp_path / "new.wav") == ["new.wav"]
    assert read_errors(tmp_path / "out.jsonl") == [False, False, True, False]


@pytest.mark.parametrize("options", [["--append"], ["--retry-failures"], ["--append", "--retry-failures"]])
def test_a_run_that_is_killed_goes_on(options: list[str], songs: Path, score: Callable, tmp_path: Path) -> None:
    score()
    (songs / "c.wav").write_bytes(make_wav(9, 0.15))
    for number in range(3):
        (songs / f"new-{number}.wav").write_bytes(make_wav(20 + number, 0.15))
    before = (tmp_path / "out.jsonl").read_bytes()
    done = [score(*options, stop_after=number) for number in (0, 1, 1)]
    assert (tmp_path / "out.jsonl").read_bytes() == before or options == ["--retry-failures"]
    done.append(score(*options))
    found = [name for names in done for name in names]
    assert sorted(found) == sorted(set(found)), "nothing is scored twice"
    assert len(list(iterate_rows(tmp_path / "out.jsonl"))) == (6 if "--append" in options else 3)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("options", [[], ["--append"], ["--retry-failures"], ["--overwrite"]])
@pytest.mark.parametrize("step", range(3))
def test_a_kill_among_the_last_steps_loses_nothing(
    options: list[str], step: int, songs: Path, score: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record gets its name after the output, and the journal goes last: each of the steps may be the last one."""
    if options:
        score()
    (songs / "c.wav").write_bytes(make_wav(9, 0.15))
    replace, unlink, calls = os.replace, Path.unlink, []

    def stop(call: Callable) -> Callable:
        def act(*arguments: Any, **rest: Any) -> Any:
            calls.append(arguments)
            if len(calls) == step + 1:
                raise KeyboardInterrupt
            return call(*arguments, **rest)

        return act

    finish = ScoreJournal.finish

    def finish_and_stop(journal: ScoreJournal, order: list[str]) -> Any:
        save = ScoredSongs.save

        def save_whole(record: ScoredSongs, path: Path) -> None:
            save(record, path)
            patch.setattr(score_journal.os, "replace", stop(replace))
            patch.setattr(Path, "unlink", stop(unlink))

        patch.setattr(ScoredSongs, "save", save_whole)
        return finish(journal, order)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreJournal, "finish", finish_and_stop)
        score(*options)
    assert score.status == 130  # type: ignore[attr-defined]
    is_replaced = options == ["--overwrite"] and step > 0  # the output was there by then
    assert len(score(*options)) == (3 if is_replaced else 0)
    assert score.status == 0  # type: ignore[attr-defined]
    assert read_errors(tmp_path / "out.jsonl") == [False] * 3
    assert score("--append") == [], "the record is that of the output"
    assert {path.name for path in tmp_path.iterdir()} == {"songs", "tiny-model", "out.jsonl", ".out.jsonl.songs"}


def test_what_does_not_belong_together_is_refused(
    songs: Path, score: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    score()
    output, record = tmp_path / "out.jsonl", tmp_path / ".out.jsonl.songs"
    before = output.read_bytes()
    for option in ("--append", "--retry-failures"):
        assert score(option, "--resampler", "soxr") == []
        assert "out.jsonl: holds scores of other settings (resampler 'sinc' instead of 'soxr'). Give the model" in (
            capsys.readouterr().err
        )
        assert score(option, "--overwrite") == []
        assert f"{option} keeps the rows of an output, and --overwrite none: leave one" in capsys.readouterr().err
    assert score("--retry-failures", output="none.jsonl") == []
    assert "none.jsonl: there is no finished output of this name in which a song failed" in capsys.readouterr().err
    assert score("--append", "--shard", "1/2") == []
    assert "--append has no place beside --shard: which share a song is in changes" in capsys.readouterr().err
    assert main(["score", str(songs), "--append"]) == 2
    assert "--append goes on with a file: name its --output, or leave --append out" in capsys.readouterr().err
    lines = record.read_bytes()
    for damaged in (b"", b"{\n", b"[]\n", b'{"format": 2, "settings": {}}\n', lines + b"[1]\n"):
        record.write_bytes(damaged)
        assert score("--append") == []
        assert ".out.jsonl.songs: is damaged (" in capsys.readouterr().err
    record.write_bytes(lines)
    output.write_bytes(before + b"\n")
    assert score("--append") == []
    assert "out.jsonl: was changed since it was written, and .out.jsonl.songs is of before" in capsys.readouterr().err
    record.unlink()
    assert score("--append") == []
    assert "out.jsonl: it is not known what its scores were made with, for .out.jsonl.songs is not beside it" in (
        capsys.readouterr().err
    )
    assert score.status == 2  # type: ignore[attr-defined]
    assert output.read_bytes() == before + b"\n"


def test_an_output_with_other_columns_is_refused(
    songs: Path, score: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    score(output="out.csv")
    output = tmp_path / "out.csv"
    record = ScoredSongs.load(output)
    output.write_text(output.read_text().replace("song,", "title,", 1))
    record.sha256 = compute_file_hash(output)
    record.save(ScoredSongs.locate(output))
    assert score("--append", output="out.csv") == []
    assert "out.csv: has other columns than this version writes, or its songs had no ids" in capsys.readouterr().err


def test_songs_with_ids_are_not_added_to_those_without(
    songs: Path, score: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    score()
    (tmp_path / "list.csv").write_text("id,path\n1,songs/b.wav\n")
    assert score("--append", place=tmp_path / "list.csv") == []
    assert "out.jsonl: holds scores of other settings (has_ids None instead of True)" in capsys.readouterr().err


def test_the_first_run_may_say_append_as_well(score: Callable, tmp_path: Path) -> None:
    """So that the same command can be given every night."""
    assert len(score("--append", stop_after=1)) == 1
    assert len(score("--append")) == 2
    assert score("--append") == []


def test_parts_put_together_can_be_gone_on_with(
    songs: Path, score: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number in (1, 2):
        score("--shard", f"{number}/2", output="part.csv")
    (songs / "c.wav").write_bytes(make_wav(9, 0.15))
    assert score("--retry-failures", "--shard", "1/2", output="part.csv") == ["c.wav"]
    parts = [str(tmp_path / f"part-0000{number}-of-00002.csv") for number in (1, 2)]
    merge = ["merge", *parts, "--output", str(tmp_path / "whole.csv")]
    assert main(merge) == 0
    (songs / "d.wav").write_bytes(make_wav(8, 0.15))
    assert score("--append", output="whole.csv") == ["d.wav"]
    assert read_errors(tmp_path / "whole.csv") == [False] * 4
    score("--shard", "2/2", "--overwrite", "--tail", "drop", output="part.csv")
    assert main([*merge, "--overwrite"]) == 2
    assert "part-00002-of-00002.csv: holds scores of other settings (tail 'drop' instead of None" in (
        capsys.readouterr().err
    )


def test_a_folder_gets_shards_that_are_loaded_together(
    songs: Path, score: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of one shard all songs failed, of the others none."""
    for number in (1, 2, 3):
        score("--shard", f"{number}/3", output="scores/")
    names = {f"scores-0000{number}-of-00003.parquet" for number in (1, 2, 3)}
    assert {path.name for path in (tmp_path / "scores").glob("[!.]*")} == names
    (loaded,) = load_dataset(str(tmp_path / "scores"), cache_dir=str(tmp_path / "hf")).values()
    assert [row is None for row in loaded["error"]] == [True, True, False]
    assert main(["merge", str(tmp_path / "scores"), "--output", str(tmp_path / "whole.parquet")]) == 1
    score(output="alone.parquet")
    assert pq.read_table(tmp_path / "whole.parquet").equals(pq.read_table(tmp_path / "alone.parquet"))
    capsys.readouterr()
    score(output="scores")
    assert "scores: holds shards of another number of shares (scores-00001-of-00003.parquet), and this" in (
        capsys.readouterr().err
    )
    assert len(score(output="labels/", command="label")) == 3
    assert (tmp_path / "labels" / "labels-00001-of-00001.parquet").is_file()
    (tmp_path / "empty").mkdir()
    assert main(["merge", str(tmp_path / "empty"), "--output", str(tmp_path / "w.csv")]) == 2
    assert "empty: holds no part of `score --shard`, such as scores-00002" in capsys.readouterr().err
    assert main(["score", str(songs), "--segments", "--output", f"{tmp_path}/new/"]) == 2
    assert "--segments has no place in" in capsys.readouterr().err
