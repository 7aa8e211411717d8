"""The command that simulates what the statistics promise: it runs, goes on, and says what it found."""

import json
from pathlib import Path

import pytest

from simulate_statistics import COVERAGE, EFFECTS, list_scenarios, main


def test_it_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "statistics.json"
    words = ["--quick", "--jobs", "1", "--output", str(output)]
    assert main([*words, "--only", "coverage: 200 songs"]) == 0
    (found,) = json.loads(output.read_text())["scenarios"].values()
    assert found["nominal"] == 0.95
    assert set(found["coverage"]) == {"spearman", "pearson", "mse", "mae"}
    assert all(0 <= row["low"] <= row["share"] <= row["high"] <= 1 for row in found["coverage"].values())
    before = output.read_bytes()
    capsys.readouterr()
    assert main([*words, "--only", "coverage: 200 songs"]) == 0
    assert output.read_bytes() == before
    assert capsys.readouterr().out == f"{output}\n"
    assert main([*words, "--only", "effect: noise, 600 battles, leave_one_system_out"]) == 0
    effect = json.loads(output.read_text())["scenarios"]["effect: noise, 600 battles, leave_one_system_out"]
    assert effect["num_simulations"] == 2
    assert not effect["has_effect"]
    assert 0 <= effect["helps"]["low"] <= effect["helps"]["share"] <= effect["helps"]["high"] <= 1


def test_every_question_is_simulated() -> None:
    names = " ".join(list_scenarios(is_quick=True))
    assert all(name in names for name in (*EFFECTS, *COVERAGE))
    assert all(words in names for words in ("noise", "by system", "repeat", "planted", "artists", "users", "too sure"))
