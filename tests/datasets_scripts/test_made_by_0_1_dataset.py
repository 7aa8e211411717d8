"""A dataset that version 0.1.0 (commit ac80edb) built of `songs.jsonl` loads, and building on it again is refused."""

import shutil
from pathlib import Path

import pytest
from datasets import load_dataset

from datasets_scripts.build import main

FILES = Path(__file__).parent / "made_by_0_1"


def test_it_loads(tmp_path: Path) -> None:
    splits = load_dataset(str(FILES / "built"), cache_dir=str(tmp_path))
    assert sum(split.num_rows for split in splits.values()) == 12
    assert "score_streams" in splits["train"].column_names


def test_building_on_it_again_is_refused_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(FILES / "built", tmp_path / "built")
    words = ["training", "--source", str(FILES / "songs.jsonl"), "none", "suno", "--split-method", "quota"]
    assert main([*words, "--splits", "60:20:20", "--output", str(tmp_path / "built")]) != 0
    assert "of an earlier version, which did not record the content of its sources" in capsys.readouterr().err
