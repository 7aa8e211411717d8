"""The evaluate modules, loaded by path and offline, against the package's own computation."""

import shutil
import sys
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest

import modeling_apex
from modeling_apex.arena.leaderboard import compute_leaderboard
from modeling_apex.statistics.pair_metrics import compute_accuracy

from simulated_battles import build_table

MODULES = Path(modeling_apex.__file__).parent / "statistics" / "evaluate_modules"


@pytest.fixture(scope="module")
def accuracy() -> Any:
    return evaluate.load(str(MODULES / "pairwise_accuracy"))


@pytest.fixture(scope="module")
def agreement() -> Any:
    return evaluate.load(str(MODULES / "bradley_terry_agreement"))


def test_pairwise_accuracy_on_a_case_worked_by_hand(accuracy: Any) -> None:
    found = accuracy.compute(predictions=[1.0, -1.0, 0.0, 0.05, 2.0], references=["A", "A", "B", "TIE", "BOTH_BAD"])
    assert found == {
        "accuracy": 0.5,
        "accuracy_with_ties": 0.25,
        "num_decisive": 3,
        "num_ties": 1,
        "num_both_bad": 1,
    }
    wide = accuracy.compute(predictions=[1.0, 0.05], references=["A", "TIE"], tie_margin=0.1)
    assert wide["accuracy_with_ties"] == 1.0
    assert type(wide["accuracy"]) is float


def test_pairwise_accuracy_agrees_with_the_package(accuracy: Any) -> None:
    table = build_table(100, tie_share=0.2, both_bad_share=0.1)
    margins = table.scores[:, 0, 0] - table.scores[:, 1, 0]
    found = accuracy.compute(predictions=margins, references=table.preferences.tolist())
    assert found["accuracy"] == pytest.approx(compute_accuracy(margins, table.outcomes)[0])


def test_agreement_agrees_with_the_package(agreement: Any) -> None:
    table = build_table(300, system_effect=1.0, tie_share=0.1, both_bad_share=0.1)
    margins = table.scores[:, 0, 0] - table.scores[:, 1, 0]
    systems_a, systems_b = table.systems.T.tolist()
    votes = table.preferences.tolist()
    found = agreement.compute(predictions=margins, references=votes, systems_a=systems_a, systems_b=systems_b)
    board = compute_leaderboard(table, {"rule": margins}, num_draws=100)
    assert found["rank_correlation"] == pytest.approx(board["rank_correlations"]["rule"]["estimate"])
    for entry in board["systems"]:
        assert found["human_scores"][entry["system"]] == pytest.approx(entry["human"]["estimate"])
        assert found["predicted_scores"][entry["system"]] == pytest.approx(entry["rule"]["estimate"])


def test_agreement_needs_three_listed_systems(agreement: Any) -> None:
    battles = {"references": ["A", "B"], "systems_a": ["s", "t"], "systems_b": ["t", "u"]}
    assert agreement.compute(predictions=[1.0, 1.0], **battles)["rank_correlation"] is None
    assert agreement.compute(predictions=[1.0, 1.0], minimum_votes=1, **battles)["num_systems"] == 3


def test_agreement_counts_no_system_against_itself_and_ranks_only_what_battles_connect(agreement: Any) -> None:
    battles = {"references": ["A", "B", "A", "A", "A"], "systems_a": ["s", "t", "u", "v", "s"]}
    battles |= {"systems_b": ["t", "u", "s", "w", "s"], "predictions": [1.0] * 5}
    found = agreement.compute(minimum_votes=1, **battles)
    assert sorted(found["human_scores"]) == ["s", "t", "u"]
    assert agreement.compute(minimum_votes=3, **battles)["num_systems"] == 0


@pytest.mark.parametrize("name", ["apex_regression", "bradley_terry_agreement", "pairwise_accuracy"])
def test_a_copied_module_asks_for_the_package(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(MODULES / name, tmp_path / name)
    assert evaluate.load(str(folder)).name == name
    monkeypatch.setitem(sys.modules, "modeling_apex", None)
    with pytest.raises(ImportError, match="pip install apex-music'"):
        evaluate.load(str(folder))


def test_refusals(accuracy: Any, agreement: Any) -> None:
    with pytest.raises(ValueError, match=r"Unknown votes \['C'\]"):
        accuracy.compute(predictions=[1.0], references=["C"])
    with pytest.raises(ValueError, match="`tie_margin` is -1"):
        accuracy.compute(predictions=[1.0], references=["A"], tie_margin=-1)
    with pytest.raises(ValueError, match="NaN or infinite margin"):
        accuracy.compute(predictions=[np.nan], references=["A"])
    systems = {"systems_a": ["s"], "systems_b": ["t"]}
    with pytest.raises(ValueError, match=r"Unknown votes \['C'\]"):
        agreement.compute(predictions=[1.0], references=["C"], **systems)
    with pytest.raises(ValueError, match="at least one vote"):
        agreement.compute(predictions=[1.0], references=["BOTH_BAD"], **systems)
