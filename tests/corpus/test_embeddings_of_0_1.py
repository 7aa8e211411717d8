"""Embeddings that version 0.1.0 made: trained on with the labels of now, never taken for those of the same audio."""

import json
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_apex.cli import main
from modeling_apex.corpus.embedding_store import open_embedding_store

HERE = Path(__file__).parent
MODEL = str(HERE.parent / "made_by_0_1" / "apex")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that it was made in, whose manifest names `dataset`."""
    shutil.copytree(HERE / "made_by_0_1", tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def change_label(folder: Path) -> None:
    path = folder / "dataset" / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    position = table.schema.get_field_index("coherence")
    labels = pa.array([4.0, *table["coherence"].to_pylist()[1:]], pa.float32())
    pq.write_table(table.set_column(position, "coherence", labels), path)


def test_labels_come_from_the_dataset_and_not_from_the_old_copies(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = pq.read_table(folder / "embeddings" / "train-00000.parquet")
    assert shard["coherence"][0].as_py() != 4.0
    change_label(folder)
    with caplog.at_level(logging.WARNING):
        store = open_embedding_store("embeddings")
    assert "made by apex-music 0.1, which did not record the audio" in caplog.text
    split = store.get_split("train")
    assert split.list_values("coherence")[0] == 4.0
    assert split.segments[:].tolist() == shard["embedding"].to_pylist()


def test_they_are_trained_on(folder: Path) -> None:
    words = ["--model", MODEL, "--num-epochs", "1", "--batch-size", "2", "--report-to", "none"]
    assert main(["train", "embeddings", "--output", "run", *words]) == 0
    assert json.loads((folder / "run" / "data.json").read_text())["dataset_sha256"]


def test_without_their_dataset_they_are_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "dataset").rename(folder / "elsewhere")
    assert main(["train", "embeddings", "--output", "run", "--model", MODEL]) == 2
    assert "'dataset', which the manifest names, was not found" in capsys.readouterr().err
    assert open_embedding_store("embeddings", songs="elsewhere").get_split("train").num_songs == 2


def test_embedding_again_is_refused_with_the_command(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["embed", "dataset", "--model", MODEL, "--songs-per-shard", "2", "--output"]
    assert main([*words, "embeddings"]) == 2
    said = capsys.readouterr().err
    assert "made by apex-music 0.1, which did not record the audio, so it is not known whether it is" in said
    assert "Embed into a new folder: apex-music embed dataset --output FOLDER" in said
    assert main([*words, "new"]) == 0
    old, new = (open_embedding_store(name).get_split("train").segments[:] for name in ("embeddings", "new"))
    assert new == pytest.approx(old, rel=1e-4, abs=1e-5)
