"""Tables of songs: ids that are kept, places that count from the table's folder, rows that fail or are refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from modeling_apex.cli import main
from modeling_apex.corpus.song_input import SourceSongs
from modeling_apex.corpus.song_source import find_song_source, open_songs
from modeling_apex.corpus.song_table import TableSongSource
from modeling_apex.storage.table_reader import iterate_rows

from song_folders import make_wav, write_dataset

ROWS = [{"id": "007", "path": "a.wav"}, {"id": "b/8", "path": "more/b.wav"}, {"id": "9", "path": "gone.wav"}]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "csv":
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(zstandard.compress(text) if kind.endswith("zst") else text)
    return path


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("a.wav", "more/b.wav")):
        (folder / name).write_bytes(make_wav(number, 0.15))
    return folder


@pytest.fixture
def score(tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Score to a file; return the exit status and the rows."""

    def run(*words: Any, output: str = "scores.jsonl", command: str = "score") -> tuple[int, list[dict[str, Any]]]:
        model = ["--teacher" if command == "label" else "--model", str(tiny_folder)]
        path = tmp_path / output
        status = main([command, *map(str, words), *model, "--output", str(path)])
        return status, [row.values for row in iterate_rows(path)] if path.exists() else []

    return run


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "jsonl.zst"])
@pytest.mark.parametrize("command", ["score", "label"])
def test_a_table_gives_ids_and_paths_from_its_folder(suffix: str, command: str, songs: Path, score: Callable) -> None:
    table = write_table(songs / f"list.{suffix}", ROWS)
    status, rows = score(table, command=command)
    assert status == 1
    assert [row["id"] for row in rows] == ["007", "b/8", "9"]
    assert [bool(row.get("error")) for row in rows] == [False, False, True]
    assert "gone.wav" in rows[2]["error"]
    if command == "score":
        assert [row["song"] for row in rows] == [str(songs / row["path"]) for row in ROWS]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_every_format_of_an_output_keeps_the_ids(suffix: str, songs: Path, score: Callable) -> None:
    status, rows = score(write_table(songs / "list.csv", ROWS), output=f"scores.{suffix}")
    assert status == 1
    assert [row["id"] for row in rows] == ["007", "b/8", "9"]
    assert next(iter(rows[0])) == "id"


def test_scores_are_those_of_the_files_and_columns_may_have_any_name(
    songs: Path, score: Callable, capsys: pytest.CaptureFixture
) -> None:
    rows = [{"number": 1, "where": str(songs / "a.wav")}, {"number": 2, "where": (songs / "more/b.wav").as_uri()}]
    table = write_table(songs / "list.jsonl", rows)
    assert score(table)[0] == 2
    assert "list.jsonl: has no column id or song_id or track_id; its columns are number, where." in (
        capsys.readouterr().err
    )
    assert score(table, "--id-column", "number")[0] == 2
    assert "has no column uri or url or path or audio" in capsys.readouterr().err
    _, found = score(table, "--id-column", "number", "--audio-column", "where")
    _, alone = score(songs / "a.wav", output="alone.jsonl")
    assert found[0] == {"id": "1", **alone[0]}
    assert "points to this machine" in found[1]["error"]


def test_a_row_without_a_place_is_a_song_that_fails(songs: Path, score: Callable) -> None:
    places = ["a.wav", None, "", " ", "nan", "more", 5]
    table = write_table(songs / "list.jsonl", [{"id": str(n), "path": place} for n, place in enumerate(places)])
    status, rows = score(table)
    assert status == 1
    assert "error" not in rows[0]
    for number in (1, 2, 3, 4, 6):
        assert (
            f"list.jsonl:{number + 1}: its path is {places[number]!r}; expected the path or" in rows[number]["error"]
        )
    assert "is a folder" in rows[5]["error"]


def test_rows_of_json_need_not_have_the_same_fields(songs: Path, score: Callable) -> None:
    status, rows = score(write_table(songs / "list.jsonl", [{"id": "1"}, {"id": "2", "path": "a.wav"}]))
    assert status == 1
    assert ["error" in row for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "x", "path": "a"}, {"id": "y", "path": "b"}, {"id": "x", "path": "c"}], "rows 1 and 3 have the same"),
        ([{"id": 1, "path": "a"}, {"id": "1", "path": "b"}], "rows 1 and 2 have the same id, '1'"),
        ([{"id": "x", "path": "a"}, {"id": None, "path": "b"}], "list.jsonl:2: its id is None; expected text or a"),
        ([{"id": " ", "path": "a"}], "list.jsonl:1: its id is ' '; expected text or a whole number"),
        ([{"id": 1.5, "path": "a"}], "list.jsonl:1: its id is 1.5; expected text or a whole number"),
        ([], "list.jsonl: holds no songs; expected one row per song, with its id and its path or URI"),
    ],
)
def test_ids_that_say_nothing_or_two_things_are_refused(
    rows: list, message: str, songs: Path, score: Callable, capsys: pytest.CaptureFixture
) -> None:
    assert score(write_table(songs / "list.jsonl", rows)) == (2, [])
    assert message in capsys.readouterr().err


def test_a_table_stands_alone_and_is_no_list(songs: Path, score: Callable, capsys: pytest.CaptureFixture) -> None:
    table = write_table(songs / "list.csv", ROWS)
    assert score(table, songs / "a.wav")[0] == 2
    assert "list.csv: is a table of songs, which stands alone. Leave the other names out." in capsys.readouterr().err
    assert score("--songs", table)[0] == 2
    assert "list.csv: is named like a table. Pass it without --songs" in capsys.readouterr().err
    for option in ("--id-column", "--audio-column"):
        assert score(songs / "a.wav", option, "x")[0] == 2
        said = capsys.readouterr().err
        assert f"{option} names a column of a table, and {songs}/a.wav is not a table of songs" in said


def test_audio_may_lie_in_the_table(songs: Path, score: Callable) -> None:
    rows = [
        {"id": "1", "audio": {"bytes": (songs / "a.wav").read_bytes(), "path": "x.wav"}},
        {"id": "2", "audio": {"bytes": None, "path": "more/b.wav"}},
        {"id": "3", "audio": {"bytes": None, "path": None}},
    ]
    status, found = score(write_table(songs / "list.parquet", rows))
    assert status == 1
    assert [row["song"] for row in found] == ["1", str(songs / "more/b.wav"), "3"]
    _, alone = score(songs / "a.wav", songs / "more", output="alone.jsonl")
    assert [row["scores"] for row in found[:2]] == [row["scores"] for row in alone]
    assert "list.parquet, row 3: its audio is None" in found[2]["error"]


def test_a_dataset_is_scored_by_its_ids(score: Callable, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 2, "test": 1}, broken=("train-song-1",))
    status, rows = score(dataset)
    assert status == 1
    assert [row["id"] for row in rows] == ["test-song-0", "train-song-0", "train-song-1"]
    assert [row["song"] for row in rows] == [row["id"] for row in rows], "their audio lies in the dataset"


def test_tables_that_lie_beside_songs_make_no_dataset_of_a_folder(songs: Path, score: Callable) -> None:
    status, rows = score(songs, output="songs/scores-00001-of-00002.parquet")
    assert (status, len(rows)) == (0, 2)
    assert score(songs, output="again.jsonl") == (0, [*score(songs / "a.wav", songs / "more", output="t.jsonl")[1]])
    assert open_songs([str(songs)]).splits == {"train": 2}
    assert find_song_source([str(songs)]) is None


def test_the_terminal_has_a_table_too(songs: Path, tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    table = write_table(songs / "list.csv", ROWS[:2])
    assert main(["score", str(table), "--model", str(tiny_folder)]) == 0
    assert str(songs / "more" / "b.wav") in capsys.readouterr().out


@pytest.mark.parametrize("command", ["score", "label"])
def test_shares_of_a_table_are_the_whole(command: str, songs: Path, score: Callable, tmp_path: Path) -> None:
    table = write_table(songs / "list.csv", ROWS)
    _, whole = score(table, command=command, output="whole.jsonl")
    for number in (1, 2):
        score(table, "--shard", f"{number}/2", command=command, output="parts.jsonl")
    merged = tmp_path / "merged.jsonl"
    assert main(["merge", str(tmp_path / "parts-00001-of-00002.jsonl"), "--output", str(merged)]) == 1
    assert merged.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(whole) == 3


def test_a_song_of_a_table_that_changed_is_scored_again(
    songs: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeling_apex import load_scorer
    from modeling_apex.corpus.score_journal import ScoreJournal

    source, scorer = TableSongSource(write_table(songs / "list.csv", ROWS)), load_scorer(tiny_folder)
    for expected in (["007", "b/8", "9"], ["007"]):
        with ScoreJournal(tmp_path / "out.jsonl", {}, has_ids=True) as journal:
            before = len(journal)
            found = [report["song"] for report in SourceSongs(source).score(scorer, journal)]
            assert [Path(song).name for song in found] == [
                Path(row["path"]).name for row in ROWS if row["id"] in expected
            ]
            assert journal.count_done(["007", "b/8", "9", "10"]) == 3
            assert before == (0 if len(expected) == 3 else 3)
        (songs / "a.wav").write_bytes(make_wav(50, 0.15))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_table_of_a_stranger_costs_no_more_than_its_songs(suffix: str, songs: Path, score: Callable) -> None:
    """A null character and half a character stopped the run, and a device without an end was read for ever."""
    places = ["b\0c.ogg", "\ud83dx.ogg", 300 * "x", "a.wav/b.ogg", "/dev/zero", "s3://", "~nobody/x.ogg", "a.wav"]
    ids = ["\x1b[31m", "\ud83d", "=1+1", *range(3, len(places))]
    table = write_table(songs / "list.jsonl", [{"id": n, "path": place} for n, place in zip(ids, places, strict=True)])
    status, rows = score(table, output=f"scores.{suffix}")
    assert status == 1
    assert [bool(row.get("error")) for row in rows] == [True] * 7 + [False]
    assert "cannot be opened" in rows[0]["error"]
    assert "/dev/zero: not a regular file" in rows[4]["error"]
    status, labels = score(table, output=f"labels.{suffix}", command="label")
    assert [row["id"] for row in labels] == [row["id"] for row in rows]
    assert status == 1
