"""Types of reports: JSON Lines are loaded together whether all songs of a shard failed or none, in either order."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from modeling_apex import load_scorer
from modeling_apex.cli import main
from modeling_apex.corpus.report_features import build_report_features
from modeling_apex.corpus.score_columns import list_score_columns

from fusion_models import build_fusion_model
from published_songeval import write_muq_folder, write_songeval_head
from song_folders import make_wav

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=["tiny", "calibrated", "songeval", "fusion"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "fusion":
        build_fusion_model().save_pretrained(tmp_path / "fusion")
    elif request.param == "songeval":
        write_muq_folder(tmp_path / "muq")
        write_songeval_head(tmp_path / "head" / "model.safetensors")
        words = ["--muq", str(tmp_path / "muq"), "--songeval", str(tmp_path / "head")]
        assert main(["convert", *words, "--output", str(tmp_path / "songeval")]) == 0
    elif request.param == "calibrated":
        (tmp_path / "known").mkdir()
        for number in range(20):
            (tmp_path / "known" / f"{number}.wav").write_bytes(make_wav(number, 0.3))
        tiny = str(request.getfixturevalue("tiny_folder"))
        assert main(["calibrate", tiny, str(tmp_path / "known"), "--output", str(tmp_path / "calibrated")]) == 0
    else:
        return str(request.getfixturevalue("tiny_folder"))
    return str(tmp_path / request.param)


def test_reports_are_loaded_whether_or_not_songs_failed(model: str, tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "good.wav").write_bytes(make_wav(1, 0.5))
    (tmp_path / "songs" / "bad.wav").write_bytes(b"no song")
    options = ["--segments", "--embeddings"] if Path(model).name in ("tiny-model", "calibrated") else []
    for name in ("good", "bad"):
        words = ["score", str(tmp_path / "songs" / f"{name}.wav"), "--model", model, *options]
        assert main([*words, "--output", str(tmp_path / f"{name}.jsonl")]) == (name == "bad")
    has_more = {"has_segments": bool(options), "has_embedding": bool(options)}
    features = build_report_features(load_scorer(model).model.config, **has_more)
    for names in (["good", "bad"], ["bad", "good"]):
        rows = load(tmp_path, names, features)
        assert [row["error"] is None for row in rows] == [name == "good" for name in names]
        (row,) = (row for row in rows if row["error"] is None)
        report = json.loads((tmp_path / "good.jsonl").read_text())
        assert {name: value for name, value in row.items() if value is not None} == report


def load(folder: Path, names: Sequence[str], features: Any) -> list[dict[str, Any]]:
    paths = [str(folder / f"{name}.jsonl") for name in names]
    options = {"features": features, "cache_dir": str(folder / "-".join(names))}
    rows: list[dict[str, Any]] = load_dataset("json", data_files=paths, split="train", **options).to_list()
    return rows


def test_every_column_of_a_table_of_scores_is_explained(model: str) -> None:
    config = load_scorer(model).model.config
    page = (REPOSITORY / "docs" / "score-many-songs.md").read_text(encoding="utf-8")
    heads = sorted((head["name"] for head in config.heads), key=len, reverse=True)
    for column in ("id", *list_score_columns(config)):
        head = next((name for name in heads if column.startswith(name)), None)
        assert f"`{column.replace(head, '<score>', 1) if head else column}`" in page
