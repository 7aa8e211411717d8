"""The whole experiment: every part is there, symmetric, seeded, and says what it could not do."""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_apex.arena import published_results
from modeling_apex.arena.arena_plots import save_plots
from modeling_apex.arena.arena_report import build_report, format_interval, save_results
from modeling_apex.arena.battle_files import build_battle_table, join_truth
from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.experiment import ArenaOptions, build_conclusion, run_arena
from modeling_apex.arena.protocols import PROTOCOLS
from modeling_apex.cli import build_parser

from simulated_battles import build_rows, build_table, swap_sides

OPTIONS = ArenaOptions(num_folds=3, num_draws=100, classifiers=("logistic_regression", "adaboost"))
EFFECTS = {"popularity_effect": 1.0, "aesthetics_effect": 6.0, "system_effect": 0.5, "tie_share": 0.05}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> BattleTable:
    rows = build_rows(320, both_bad_share=0.05, num_systems=4, **EFFECTS)
    rows[5]["clarity_a"] = None
    path = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return join_truth(build_battle_table(rows), path)


@pytest.fixture(scope="module")
def results(table: BattleTable) -> dict[str, Any]:
    return run_arena(table, OPTIONS)[0]


def test_every_part_is_there(results: dict[str, Any]) -> None:
    assert list(results["protocols"]) == list(PROTOCOLS)
    assert results["missing_scores"]["battle_ids"] == ["battle-5"]
    for protocol, found in results["protocols"].items():
        assert set(found["classifiers"]) == {"logistic_regression", "adaboost"}, protocol
        assert {"system_tags_only", "duration_and_loudness_only"} <= set(found["baselines"])
        for compared in found["with_minus_without_aesthetics"].values():
            assert set(compared) == {"all", "instrumental", "vocal"}
            assert 0 < compared["all"]["auc"]["p_value"] <= 1
    assert len(results["aesthetics_effect"]["rows"]) == 8
    assert results["options"]["seed"] == 0
    json.dumps(results, allow_nan=False)


def test_known_truth_is_a_ceiling_and_no_feature(results: dict[str, Any]) -> None:
    ceiling = results["direct_rules"]["true_appeal"]["all"]["auc"]["estimate"]
    reached = [
        sets["popularity_and_aesthetics"]["all"]["auc"]["estimate"]
        for sets in results["protocols"]["random_folds"]["classifiers"].values()
    ]
    assert 0.5 < max(reached) <= ceiling
    assert "true_appeal" not in results["preference_head"]["weights"]


def test_planted_effect_gives_a_yes_and_its_absence_a_no(results: dict[str, Any]) -> None:
    assert results["conclusion"].startswith("Yes: aesthetic scores help")
    options = ArenaOptions(
        num_folds=3, num_draws=100, classifiers=("logistic_regression",), protocols=("leave_one_system_out",)
    )
    nothing, _ = run_arena(build_table(200, popularity_effect=2.0, seed=1), options)
    assert nothing["conclusion"].startswith("No: there is no evidence that aesthetic scores help")


def test_conclusion_follows_the_numbers(results: dict[str, Any]) -> None:
    effect = results["aesthetics_effect"]
    row = {"protocol": "leave_one_system_out", "classifier": "logistic_regression", "low": -0.2, "high": -0.1}
    worse = {**results, "aesthetics_effect": {**effect, "rows": [{**row, "estimate": -0.15, "p_value": 0.01}]}}
    assert build_conclusion(worse).startswith("No: aesthetic scores hurt")
    assert "could not be made" in build_conclusion({**results, "aesthetics_effect": {**effect, "rows": []}})


def assert_same(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, dict):
        assert set(first) == set(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for one, other in zip(first, second, strict=True):
            assert_same(one, other, where)
    elif isinstance(first, float):
        assert second == pytest.approx(first, abs=1e-7), where
    else:
        assert first == second, where


def test_swapping_a_and_b_everywhere_changes_nothing(table: BattleTable, results: dict[str, Any]) -> None:
    swapped, _ = run_arena(swap_sides(table), OPTIONS)
    for part in ("direct_rules", "aesthetics_effect", "leaderboards", "human_leaderboards", "anchors", "conclusion"):
        assert_same(results[part], swapped[part], part)
    for protocol, found in results["protocols"].items():
        other = swapped["protocols"][protocol]
        assert_same(found["classifiers"], other["classifiers"], protocol)
        for baseline in ("system_tags_only", "duration_and_loudness_only"):
            assert_same(found["baselines"][baseline], other["baselines"][baseline], f"{protocol}/{baseline}")


def test_the_same_seed_gives_the_same_results(table: BattleTable, results: dict[str, Any]) -> None:
    again, _ = run_arena(table, OPTIONS)
    assert again == results


def test_tables_without_scores_still_give_baselines_and_leaderboard() -> None:
    rows = [
        {name: row[name] for name in ("battle_uuid", "preference", "system_a", "system_b")}
        for row in build_rows(200, system_effect=1.0)
    ]
    results, head = run_arena(build_battle_table(rows), OPTIONS)
    assert head is None
    found = results["protocols"]["random_folds"]
    assert found["classifiers"] == {}
    assert found["baselines"]["system_tags_only"]["all"]["auc"]["estimate"] > 0.6
    assert "known for 0 of 200" in found["baselines"]["duration_and_loudness_only"]["unavailable"]
    assert results["human_leaderboards"]["all"]["systems"]
    assert "neither prompts nor users" in results["protocols"]["grouped_by_prompt_and_user"]["unavailable"]
    assert results["conclusion"].startswith("Whether aesthetics help cannot be said")
    report = build_report(results)
    assert "Not available: the table has no scores" in report
    assert published_results.SOURCE not in report.split("## Protocol: random folds")[1].split("##")[0]


def test_scores_of_other_systems_only() -> None:
    rows = build_rows(120, aesthetics_effect=4.0)
    results, head = run_arena(build_battle_table(rows, scores=["songeval:other=musicality_a,musicality_b"]), OPTIONS)
    assert list(results["protocols"]["random_folds"]["classifiers"]["adaboost"]) == ["all_scores"]
    assert head is not None
    assert head.weights["songeval"] > 0


def test_published_recipe_is_said_to_be_asymmetric() -> None:
    options = ArenaOptions(
        num_folds=3, num_draws=100, classifiers=("logistic_regression",), recipe="published", protocols=PROTOCOLS[:1]
    )
    results, _ = run_arena(build_table(150), options)
    assert results["protocols"]["random_folds"]["is_symmetric"] is False
    assert "not symmetric in A and B" in build_report(results)


def test_battles_without_duration_are_left_out_of_that_baseline_and_listed() -> None:
    table = build_table(150)
    table.durations[7, 0] = np.nan
    results, _ = run_arena(table, ArenaOptions(num_folds=3, num_draws=100, classifiers=(), protocols=PROTOCOLS[:1]))
    baseline = results["protocols"]["random_folds"]["baselines"]["duration_and_loudness_only"]
    assert baseline["battles_left_out"] == ["battle-7"]


def test_human_leaderboard_keeps_votes_whose_scores_are_missing(results: dict[str, Any]) -> None:
    human, agreed = results["human_leaderboards"]["all"], results["leaderboards"]["all"]
    assert human["num_battles"] == agreed["num_battles"] + 1


def test_report_and_files(results: dict[str, Any], tmp_path: Path) -> None:
    paths = save_results(results, tmp_path)
    assert [path.name for path in paths] == ["results.json", "predictions.json", "report.md"]
    stored = json.loads((tmp_path / "results.json").read_text())
    assert "margins" not in stored["protocols"]["random_folds"]
    report = (tmp_path / "report.md").read_text()
    for part in ("known truth of the simulation", "published (arXiv 2605.03395)", "Holm", "Preference head", "coin"):
        assert part in report
    plots = save_plots(results, tmp_path)
    assert {path.stem for path in plots} == {"roc", "calibration", "leaderboard", "aesthetics_effect"}
    assert {path.suffix for path in plots} == {".png", ".svg"}
    before = [path.read_bytes() for path in plots]
    assert before == [path.read_bytes() for path in save_plots(results, tmp_path)]


def test_small_formats() -> None:
    assert format_interval(None) == format_interval({"estimate": None, "low": None, "high": None}) == "–"
    assert format_interval({"estimate": 0.5, "low": None, "high": None}) == "0.500"


def test_plots_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "apex-music\[eval\]"'):
        save_plots({}, tmp_path)


def test_option_refusals() -> None:
    with pytest.raises(ValueError, match=r"Unknown protocols \['none'\]"):
        ArenaOptions(protocols=("none",))
    with pytest.raises(ValueError, match="Feature recipe 'own' is unknown"):
        ArenaOptions(recipe="own")
    with pytest.raises(ValueError, match="at least 100 bootstrap draws"):
        ArenaOptions(num_draws=5)


def parse(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["arena", *words])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = build_rows(150, aesthetics_effect=3.0)
    rows[0]["clarity_a"] = ""
    path, output, model = tmp_path / "battles.csv", tmp_path / "output", tmp_path / "model"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    words = ["--num-folds", "3", "--num-draws", "100", "--classifiers", "logistic_regression"]
    words += ["--protocols", "leave_one_system_out"]
    arguments = parse(str(path), "--output", str(output), "--save-head-to", str(model), "--no-plots", *words)
    assert arguments.run(arguments) == 0
    printed = capsys.readouterr()
    assert "1 battles lack a score" in printed.err
    assert "aesthetic scores" in printed.out
    assert (output / "preference_head.json").read_bytes() == (model / "preference_head.json").read_bytes()
    assert sorted(file.suffix for file in output.iterdir()) == [".json", ".json", ".json", ".md"]


def test_command_refusals(tmp_path: Path) -> None:
    arguments = parse("some/dataset", "--output", str(tmp_path))
    with pytest.raises(ValueError, match=r"is not a table .* pass --model"):
        arguments.run(arguments)
    arguments = parse("some/dataset", "--output", str(tmp_path), "--model", "m", "--score", "q")
    with pytest.raises(ValueError, match="pass one of the two"):
        arguments.run(arguments)


def test_using_a_head_and_ranking_need_no_extra() -> None:
    code = (
        "import sys; from modeling_apex.arena import ranking; "
        "from modeling_apex.arena.preference import PreferenceHead, score_preference; "
        "score_preference({'q': 1.0}, {'q': 2.0}, PreferenceHead({'q': 1.0})); ranking.compute_places([1.0, 2.0]); "
        "found = {'scipy', 'sklearn', 'matplotlib', 'pyarrow', 'datasets'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
