"""
The page from raw songs to a trained model: its own commands run, one after the other, on a small synthetic world.
"""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modeling_apex.cli import main

from executed_pages import find_broken_links, list_blocks, list_programs, run_programs
from published_songeval import write_muq_folder, write_songeval_head

PAGE = Path(__file__).parents[2] / "docs" / "from-raw-songs.md"
# The page's own variables: few songs, short ones, and no look at a hub.
INPUTS = {
    "NUM_SONGS": "32",
    "SONG_SECONDS": "2",
    "SPLITS": "50:25:25",
    "NUM_EPOCHS": "2",
    "BATCH_SIZE": "8",
    "MUQ": "published/muq",
    "SONGEVAL": "published/songeval/model.safetensors",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the whole page ran."""
    folder = tmp_path_factory.mktemp("page")
    write_muq_folder(folder / "published" / "muq")
    write_songeval_head(folder / "published" / "songeval" / "model.safetensors")
    for words, status in run_programs(list_programs(list_blocks(PAGE), folder, INPUTS), folder):
        assert status == 0, words
    return folder


def test_the_labels_are_the_teachers(ran: Path) -> None:
    rows = pq.read_table(ran / "labels.parquet").to_pylist()
    assert len(rows) == int(INPUTS["NUM_SONGS"])
    assert {row["teacher"] for row in rows} == {"songeval"}
    (match, _) = json.loads((ran / "dataset" / "manifest.json").read_text())["matches"]
    assert match["num_matched_songs"] == match["num_songs"] == len(rows)
    assert match["teacher"]["teacher_sha256"] == rows[0]["teacher_sha256"]
    assert "**pseudo-labels of songeval**" in (ran / "dataset" / "README.md").read_text()


def test_the_model_is_trained_on_them_and_says_so(ran: Path) -> None:
    results = json.loads((ran / "runs" / "student" / "best" / "results.json").read_text())
    (source,) = results["label_sources"]
    assert re.fullmatch(r"pseudo-labels of songeval \(SHA-256 [0-9a-f]{12}, \d{4}-\d\d-\d\d\)", source)
    card = (ran / "card" / "README.md").read_text()
    assert f"the output of {source.removeprefix('pseudo-labels of ')}, not of people.**" in card
    assert (ran / "runs" / "student" / "best" / "model.safetensors").is_file()


def test_the_corpus_has_the_scores_of_the_student(ran: Path, capsys: pytest.CaptureFixture) -> None:
    scores = {row["song"]: row for row in pq.read_table(ran / "scores.parquet").to_pylist()}
    data = [row for path in (ran / "dataset" / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert set(scores) == {row["id"] for row in data}
    song, output = data[0], ran / "one.jsonl"
    audio = ran / "world" / "audio" / song["audio"]["path"]
    assert main(["score", str(audio), "--model", str(ran / "runs/student/best"), "--output", str(output)]) == 0
    report = json.loads(output.read_text())
    assert report["scores"] == {name: scores[song["id"]][name] for name in report["scores"]}


def test_links_to_files_lead_somewhere() -> None:
    assert find_broken_links(PAGE) == []
