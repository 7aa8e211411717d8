"""The longest song is refused and never cut, by every door; dots, capitals and seven outputs keep their names."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from modeling_apex import load_pipeline
from modeling_apex.checkpoints.convert_songeval import SongEvalConversion
from modeling_apex.checkpoints.export import export_model
from modeling_apex.cli import main
from modeling_apex.inference.audio_limits_apex import AudioError
from spaces_demo.scoring import Scorer, SongRefusedError
from spaces_demo.settings import SpaceSettings

from strangers import run_elsewhere

SongFile = Callable[..., Path]
REFUSAL = "lasts more than 1 s, the longest song that this model scores; it scores whole songs and does not cut"


@pytest.fixture
def limited(conversion: SongEvalConversion, tmp_path: Path) -> Path:
    """The model as a folder whose longest song is one second."""
    folder = tmp_path / "limited"
    shutil.copytree(conversion.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_song_seconds": 1.0}))
    return folder


@pytest.fixture
def songs(song_file: SongFile, tmp_path: Path) -> Path:
    """A folder with a song that is too long, and one that is not."""
    song_file("songs/long.wav", 1.1)
    song_file("songs/short.wav", 0.9)
    return tmp_path / "songs"


def test_the_pipeline_refuses_a_long_song(limited: Path, songs: Path) -> None:
    with pytest.raises(AudioError, match=f"long.wav: {REFUSAL}"):
        load_pipeline(limited)(str(songs / "long.wav"))


def test_commands_refuse_a_long_song_and_score_the_other(
    limited: Path, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scores, labels = tmp_path / "scores.csv", tmp_path / "labels.csv"
    assert main(["score", str(songs), "--model", str(limited), "--output", str(scores)]) == 1
    assert main(["label", str(songs), "--teacher", str(limited), "--output", str(labels)]) == 1
    assert capsys.readouterr().err.count(REFUSAL) >= 2
    for table in (scores, labels):
        with open(table, newline="") as file:
            long, short = sorted(csv.DictReader(file), key=lambda row: row["error"] == "")
        assert REFUSAL in long["error"]
        assert not long["musicality"]
        assert 1 <= float(short["musicality"]) <= 5


def test_the_space_refuses_a_long_song(limited: Path, songs: Path) -> None:
    scorer = Scorer(SpaceSettings(models=(str(limited),)))
    with pytest.raises(SongRefusedError, match=REFUSAL):
        scorer.score(str(songs / "long.wav"))
    assert scorer.score(str(songs / "short.wav"))["scores"]


def test_the_arena_scores_no_battle_by_a_part(limited: Path, songs: Path, tmp_path: Path) -> None:
    long, short = ({"bytes": (songs / name).read_bytes(), "path": None} for name in ("long.wav", "short.wav"))
    rows = [
        {"battle_uuid": str(number), "preference": "AB"[number % 2], "system_a": "s", "system_b": "t"}
        | {"audio_a": short, "audio_b": short if number else long}
        for number in range(3)
    ]
    (tmp_path / "battles").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "battles" / "test-00000-of-00001.parquet")
    words = ["--model", str(limited), "--output", str(tmp_path / "run"), "--num-draws", "100", "--no-plots"]
    words += ["--num-permutations", "0", "--num-folds", "3", "--protocols", "random_folds"]
    main(["arena", str(tmp_path / "battles"), *words])  # too few battles for results, but all are scored
    scored = (tmp_path / "run" / "battle_scores.jsonl").read_text()
    assert scored.count(REFUSAL) == 1


def test_an_exported_model_refuses_a_long_song(limited: Path, songs: Path, tmp_path: Path) -> None:
    exported = export_model(limited, tmp_path / "exported")
    program = """
import json, sys
from transformers import pipeline
scorer = pipeline("apex-popularity", model=sys.argv[1], trust_remote_code=True)
try:
    scorer(sys.argv[2])
except ValueError as error:
    print(json.dumps({"said": str(error)}))
"""
    words = (str(exported), str(songs / "long.wav"))
    assert REFUSAL in run_elsewhere(program, tmp_path, *words, having=("soxr",))["said"]


def test_names_with_dots_and_capitals_stay_apart(
    conversion: SongEvalConversion, song_file: SongFile, tmp_path: Path
) -> None:
    """The published script calls a song by its name up to the first dot, and stops at `.WAV`."""
    for name, seconds in (("a.1.wav", 0.5), ("a.2.wav", 0.6)):
        song_file(f"songs/{name}", seconds)
    (tmp_path / "songs" / "a.2.wav").rename(tmp_path / "songs" / "a.2.WAV")
    output = tmp_path / "scores.jsonl"
    words = [str(tmp_path / "songs"), "--model", str(conversion.folder), "--output", str(output)]
    assert main(["score", *words]) == 0
    first, second = (json.loads(line) for line in output.read_text().splitlines())
    assert (Path(first["song"]).name, Path(second["song"]).name) == ("a.1.wav", "a.2.WAV")
    assert first["scores"] != second["scores"]
    assert any(round(score, 4) != score for score in first["scores"].values()), "scores are not rounded to 4 digits"


@pytest.fixture
def seven(published, tmp_path: Path) -> Path:
    """SongBench's head: the five scores and two more."""
    import published_songeval

    head = tmp_path / "SongBench" / "model.safetensors"
    published_songeval.write_songeval_head(head, published_songeval.build_songeval_head(num_outputs=7))
    names = ["melody", "coherence", "musicality", "memorability", "clarity", "naturalness", "vocals"]
    words = ["--muq", str(published.encoder), "--songeval", str(head), "--scores", *names]
    assert main(["convert", *words, "--output", str(tmp_path / "seven")]) == 0
    return tmp_path / "seven"


def test_seven_outputs_teach_by_their_names(seven: Path, songs: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.csv"
    assert main(["label", str(songs), "--teacher", str(seven), "--output", str(output)]) == 0
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    scorer = load_pipeline(seven)
    for row in rows:
        report = scorer(str(songs / row["id"]))
        assert {name: float(row[name]) for name in report["scores"]} == report["scores"]
        assert row["teacher"] == "seven"


def test_seven_outputs_without_the_five_cannot_teach(
    published, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import published_songeval

    head = tmp_path / "head" / "model.safetensors"
    published_songeval.write_songeval_head(head, published_songeval.build_songeval_head(num_outputs=7))
    words = ["--muq", str(published.encoder), "--songeval", str(head), "--scores", *"abcdefg"]
    assert main(["convert", *words, "--output", str(tmp_path / "letters")]) == 0
    words = [str(songs), "--teacher", str(tmp_path / "letters"), "--output", str(tmp_path / "labels.csv")]
    assert main(["label", *words]) == 2
    assert "cannot be a teacher, because it has no score coherence" in capsys.readouterr().err


def test_seven_outputs_are_exported_with_their_licences(seven: Path, songs: Path, tmp_path: Path) -> None:
    exported = export_model(seven, tmp_path / "exported")
    card = (exported / "README.md").read_text()
    assert "CC BY-NC-SA 4.0" in card
    song = str(songs / "short.wav")
    assert load_pipeline(exported)(song)["scores"] == load_pipeline(seven)(song)["scores"]
