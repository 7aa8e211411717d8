"""Distillation: the published result keeps its promise, and the command that makes it runs."""

import json
import sys
from pathlib import Path

import distil
import pytest
from update_readme import describe_distillation


def test_the_student_follows_its_teacher_closer_than_the_mean_and_than_who_learnt_the_truth() -> None:
    result = json.loads(distil.RESULT.read_text(encoding="utf-8"))
    assert set(result["scores"]) == set(distil.AESTHETICS)
    assert result["num_parameters"]["teacher"] > 4 * result["num_parameters"]["student"]
    for score, targets in result["scores"].items():
        judges = targets["following the teacher"]
        assert judges["distilled"]["mae"]["high"] < judges["mean"]["mae"], score
        assert judges["distilled"]["mae"]["high"] < judges["informed"]["mae"]["low"], score
        assert f"`{score}`" in describe_distillation(result)


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--num-teacher-songs", "24", "--num-student-songs", "24", "--seconds", "2", "--num-epochs", "2"]
    words = ["distil.py", *sizes, "--num-draws", "20", "--output", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", words)
    distil.main()
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["num_songs"]["student"]["test"] > 0
    assert describe_distillation(result).count("| `") == len(distil.AESTHETICS)
