"""Parts of `score --shard` put together: the bytes of one run, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modeling_apex.cli import main

SongFile = Callable[..., Path]


@pytest.fixture
def score(tiny_folder: Path, song_file: SongFile, tmp_path: Path) -> Callable[..., int]:
    """Score five songs, one of them broken and one with a name that CSV must quote."""
    for number in range(3):
        song_file(f"songs/{number}.wav", 0.12 + 0.1 * number, seed=number)
    song_file('songs/3, "quoted".wav', 0.2, seed=3)
    (tmp_path / "songs" / "broken.wav").write_bytes(b"no song")

    def run(output: str, *words: str) -> int:
        model = ["--model", str(tiny_folder), "--output", str(tmp_path / output)]
        return main(["score", str(tmp_path / "songs"), *model, *words])

    return run


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_parts_put_together_are_the_whole(
    suffix: str, score: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert score(f"whole.{suffix}") == 1
    for number in (1, 2, 3):
        assert score(f"parts.{suffix}", "--shard", f"{number}/3") in (0, 1)
    first, merged = tmp_path / f"parts-00001-of-00003.{suffix}", tmp_path / f"merged.{suffix}"
    assert main(["merge", str(first), "--output", str(merged)]) == 1
    assert f"merged.{suffix}: 4 songs scored, 1 failed" in capsys.readouterr().err
    if suffix == "parquet":
        assert pq.read_table(merged).equals(pq.read_table(tmp_path / "whole.parquet"))
    else:
        assert merged.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    assert main(["merge", str(first), "--output", str(merged)]) == 2
    assert "exists. Choose another output, or pass --overwrite" in capsys.readouterr().err
    assert main(["merge", str(first), "--output", str(merged), "--overwrite"]) == 1


def write_parts(folder: Path, *contents: list[dict], suffix: str = ".jsonl") -> list[str]:
    paths = []
    for number, rows in enumerate(contents, start=1):
        path = folder / f"p-{number:05d}-of-{len(contents):05d}{suffix}"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(str(path))
    return paths


ROW = {"song": "a", "model_id": "m"}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (([ROW], [{**ROW, "model_id": "n"}]), "the parts are of several models (model_id: m, n)"),
        (([ROW], [ROW, ROW]), "are not the shares of one list of songs (p-00001-of-00002.jsonl has 1, p-00002"),
        (([ROW, ROW, ROW], [ROW]), "are not the shares of one list of songs"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    contents: tuple, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    parts = write_parts(tmp_path, *contents)
    assert main(["merge", *parts, "--output", str(tmp_path / "whole.jsonl")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "whole.jsonl").exists()


def test_what_is_missing_damaged_or_no_part_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = write_parts(tmp_path, [ROW], [ROW])
    output = str(tmp_path / "whole.jsonl")
    assert main(["merge", first, "--output", str(tmp_path / "whole.csv")]) == 2
    assert "whole.csv: the parts are .jsonl files, so the output must end in .jsonl" in capsys.readouterr().err
    Path(second).write_text("torn")
    assert main(["merge", first, "--output", output]) == 2
    assert "p-00002-of-00002.jsonl: is damaged" in capsys.readouterr().err
    Path(second).unlink()
    assert main(["merge", first, "--output", output]) == 2
    assert "1 of 2 parts are missing: p-00002-of-00002.jsonl. Score these shares" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "scores.jsonl"), "--output", output]) == 2
    assert "scores.jsonl: is not named like a part of `score --shard`" in capsys.readouterr().err
    (tmp_path / "q-00001-of-00001.jsonl").touch()
    assert main(["merge", first, str(tmp_path / "q-00001-of-00001.jsonl"), "--output", output]) == 2
    assert "the parts are of 2 outputs (p-...-of-00002.jsonl, q-...-of-00001.jsonl)" in capsys.readouterr().err
    parquet = tmp_path / "r-00001-of-00001.parquet"
    parquet.write_bytes(b"no table")
    assert main(["merge", str(parquet), "--output", str(tmp_path / "whole.parquet")]) == 2
    assert "r-00001-of-00001.parquet: is damaged" in capsys.readouterr().err


def test_a_part_without_songs_keeps_its_columns(tmp_path: Path) -> None:
    for number, text in ((1, "song,clarity\na,3\n"), (2, "song,clarity\n")):
        (tmp_path / f"p-0000{number}-of-00002.csv").write_text(text)
    assert main(["merge", str(tmp_path / "p-00002-of-00002.csv"), "--output", str(tmp_path / "whole.csv")]) == 0
    assert (tmp_path / "whole.csv").read_text() == "song,clarity\na,3\n"


def test_parts_with_other_columns_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number, header in ((1, "song,clarity"), (2, "song,musicality")):
        (tmp_path / f"p-0000{number}-of-00002.csv").write_text(f"{header}\na,3\n")
    assert main(["merge", str(tmp_path / "p-00001-of-00002.csv"), "--output", str(tmp_path / "whole.csv")]) == 2
    assert "p-00002-of-00002.csv: has other columns than " in capsys.readouterr().err
