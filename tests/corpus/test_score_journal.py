"""Journals of scores: what an interrupted run left is taken up for the same weights and the same audio, or refused."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset

from modeling_apex import ApexModel
from modeling_apex.cli import main
from modeling_apex.corpus import identity
from modeling_apex.corpus.score_columns import list_score_columns
from modeling_apex.corpus.score_journal import ScoreJournal

SongFile = Callable[..., Path]


@pytest.fixture
def songs(song_file: SongFile, tmp_path: Path) -> Path:
    for number in range(3):
        song_file(f"songs/{number}.wav", seed=number)
    return tmp_path / "songs"


@pytest.fixture
def score(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Score the songs to a file, perhaps only the first two, and return the names of those that were scored."""

    def run(model: Path, *words: str, is_interrupted: bool = False) -> list[str]:
        add, added = ScoreJournal.add, []

        def note(journal: ScoreJournal, song: str, report: dict) -> None:
            if is_interrupted and len(added) == 2:
                raise KeyboardInterrupt
            added.append(Path(song).name)
            add(journal, song, report)

        command = ["score", str(songs), "--model", str(model), "--output", str(tmp_path / "out.jsonl"), *words]
        with monkeypatch.context() as patch:
            patch.setattr(ScoreJournal, "add", note)
            status = main(command)
        assert (status == 130) == is_interrupted
        return added

    return run


def read_scores(path: Path) -> dict[str, dict]:
    return {Path(row["song"]).name: row["scores"] for row in map(json.loads, path.read_text().splitlines())}


def save_other_weights(model: ApexModel, folder: Path) -> Path:
    with torch.no_grad():
        model.aggregator.bias.add_(1.0)
    model.save_pretrained(folder)
    return folder


def test_weights_replaced_at_the_same_path_are_refused(
    tiny_model: ApexModel, tiny_folder: Path, score: Callable, capsys: pytest.CaptureFixture
) -> None:
    score(tiny_folder, is_interrupted=True)
    save_other_weights(tiny_model, tiny_folder)
    assert score(tiny_folder) == []
    assert "an unfinished run with other settings (weights_sha256 " in capsys.readouterr().err


def test_folders_of_the_same_name_are_told_apart(
    tiny_model: ApexModel, tmp_path: Path, score: Callable, capsys: pytest.CaptureFixture
) -> None:
    first, same = tmp_path / "a" / "pretrained" / "run", tmp_path / "b" / "pretrained" / "run"
    tiny_model.save_pretrained(first)
    tiny_model.save_pretrained(same)
    other = save_other_weights(tiny_model, tmp_path / "c" / "pretrained" / "run")
    score(first, is_interrupted=True)
    assert score(other) == []
    assert "weights_sha256" in capsys.readouterr().err
    assert score(same) == ["2.wav"], "the same weights elsewhere are the same model"


def test_a_song_replaced_between_two_runs_is_scored_again(
    tiny_folder: Path, song_file: SongFile, songs: Path, score: Callable, tmp_path: Path
) -> None:
    score(tiny_folder, is_interrupted=True)
    status = (songs / "0.wav").stat()
    song_file("songs/0.wav", seed=50)
    os.utime(songs / "0.wav", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert score(tiny_folder) == ["0.wav", "2.wav"]
    found = read_scores(tmp_path / "out.jsonl")
    score(tiny_folder, "--overwrite")
    assert read_scores(tmp_path / "out.jsonl") == found


def test_a_song_replaced_while_it_is_scored_is_scored_again(
    tiny_folder: Path, song_file: SongFile, songs: Path, tmp_path: Path
) -> None:
    path = str(songs / "0.wav")
    with ScoreJournal(tmp_path / "out.jsonl", {}) as journal:
        assert journal.list_remaining([path]) == [path]
        song_file("songs/0.wav", seed=50)
        journal.add(path, {"song": path})
    with ScoreJournal(tmp_path / "out.jsonl", {}) as journal:
        assert journal.list_remaining([path]) == [path]
        journal.add(path, {"song": path})
        assert journal.list_remaining([path]) == []


def test_files_that_look_unchanged_are_read_on_request(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "SETTLING_NS", -(2**62))
    path, url = str(songs / "0.wav"), "https://example.org/song.mp3"
    with ScoreJournal(tmp_path / "out.jsonl", {}) as journal:
        journal.list_remaining([path, url])
        journal.add(path, {"song": path})
        journal.add(url, {"song": url})
        with monkeypatch.context() as patch:
            patch.setattr(identity.hashlib, "file_digest", lambda *_: pytest.fail("was read again"))
            assert journal.list_remaining([path, url]) == []
        journal._audio[path] = type(journal._audio[path])("0" * 64, path, journal._audio[path].stamp)
        assert journal.list_remaining([path, url]) == [], "its stamp says that it is unchanged"
        assert journal.list_remaining([path, url], rereads=True) == [path, url]


def test_a_journal_of_the_version_before_is_refused(
    tiny_folder: Path, score: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "out.jsonl.partial").write_text('{"settings": {"model": "tiny"}}\n{"song": "0.wav", "scores": {}}\n')
    assert score(tiny_folder) == []
    assert "an unfinished run of apex-music 0.1 left this journal" in (said := capsys.readouterr().err)
    assert "Delete it, then run the same command again" in said


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "it is not the report of a song"),
        (b'{"report": 1, "audio": [1, 2, 3]}', "it is not the report of a song"),
        (b"\xff", "it is not JSON"),
    ],
)
def test_a_damaged_line_is_named(score: Callable, tiny_folder: Path, tmp_path: Path, capsys, line, reason) -> None:
    score(tiny_folder, is_interrupted=True)
    path = tmp_path / "out.jsonl.partial"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, lines[2], b""]))
    capsys.readouterr()
    assert score(tiny_folder) == []
    error = capsys.readouterr().err
    assert f"out.jsonl.partial, line 2: damaged: {reason}" in error
    assert "Delete the file, then run the same command again." in error


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", [".{}.lock", "{}.partial", "{}.writing", "{}"])
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_nothing_is_written_through_a_link(
    songs: Path, tiny_folder: Path, tmp_path: Path, suffix: str, name: str, link: Callable
) -> None:
    diary, output = tmp_path / "diary", tmp_path / f"out{suffix}"
    diary.write_text("dear diary")
    link(tmp_path / name.format(output.name), diary)
    words = ["score", str(songs / "0.wav"), "--model", str(tiny_folder), "--output", str(output), "--overwrite"]
    assert main(words) == (2 if name.endswith(("lock", "partial")) else 0)
    assert diary.read_text() == "dear diary"
    assert not output.is_symlink()


@pytest.mark.parametrize("broken", ["none", "some", "all"])
def test_tables_have_one_schema_whether_or_not_songs_failed(
    songs: Path, tiny_folder: Path, tmp_path: Path, tiny_model: ApexModel, broken: str
) -> None:
    (songs / "broken.wav").write_bytes(b"?")
    names = {"none": ["0.wav"], "some": ["0.wav", "broken.wav"], "all": ["broken.wav"]}
    columns = list_score_columns(tiny_model.config)
    tables = []
    for kind in ("none", broken):
        output = tmp_path / f"{kind}.parquet"
        words = ["score", *(str(songs / name) for name in names[kind]), "--model", str(tiny_folder)]
        main([*words, "--output", str(output), "--overwrite"])
        main([*words, "--output", str(output.with_suffix(".csv")), "--overwrite"])
        tables.append(pq.read_table(output))
        assert {field.name: str(field.type) for field in tables[-1].schema} == columns
        assert output.with_suffix(".csv").read_text().splitlines()[0] == ",".join(columns)
    assert pa.concat_tables(tables).num_rows == 1 + len(names[broken])
    paths = [str(tmp_path / f"{kind}.parquet") for kind in (broken, "none")]
    (loaded,) = load_dataset("parquet", data_files=paths, cache_dir=str(tmp_path / "hf")).values()
    assert len(loaded) == 1 + len(names[broken])


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--segments", "--output", "a.csv"], "a .csv file"),
        (["--segments", "--output", "a.parquet"], "a .parquet file"),
        (["--embeddings", "--output", "a.csv"], "a .csv file"),
        (["--embeddings"], "the table on the terminal"),
    ],
)
def test_what_has_no_place_in_the_output_is_refused(songs: Path, tiny_folder: Path, capsys, words, place) -> None:
    assert main(["score", str(songs), "--model", str(tiny_folder), *words]) == 2
    assert (
        f"{words[0]} has no place in {place}. Choose an --output that ends in .json or .jsonl"
        in capsys.readouterr().err
    )


def test_a_url_is_named_without_what_opens_it_and_known_by_all_of_it(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    places = [f"http://me:5ecret@127.0.0.1:1/{name}.wav?id=4&token=5ecret{name}" for name in ("a", "b")]
    twin = places[0].replace("5ecreta", "5ecret-of-another")
    songs, add, words = [*places, twin], ScoreJournal.add, ["--model", str(tiny_folder)]

    def add_two(journal: ScoreJournal, song: str, report: dict) -> None:
        if song == twin:
            raise KeyboardInterrupt
        add(journal, song, report)

    output = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        patch.setattr(ScoreJournal, "add", add_two)
        assert main(["score", *songs, *words, "--output", str(output)]) == 130
    assert "5ecret" not in (tmp_path / "out.csv.partial").read_text()
    assert main(["score", *songs, *words, "--output", str(output)]) == 1
    said = capfd.readouterr().err
    assert "resuming: 2 of 3 songs" in said, "they differ in their secrets alone"
    assert main(["rank", *songs, *words]) == 1
    said += "".join(capfd.readouterr())
    names = [f"http://127.0.0.1:1/{name}.wav?id=4&token=***" for name in ("a", "b", "a")]
    with open(output, newline="") as file:
        assert [row["song"] for row in csv.DictReader(file)] == names
    assert names[0] in said
    assert "5ecret" not in output.read_text() + said
