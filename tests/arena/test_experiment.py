"""The whole experiment: every part is there, symmetric, seeded, and says what it could not do."""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_apex.arena import published_results
from modeling_apex.arena.aesthetics_effect import build_conclusion, describe_effect, summarize_aesthetics_effect
from modeling_apex.arena.arena_plots import save_plots
from modeling_apex.arena.arena_report import EARLIER_VERSION, build_report, format_interval, save_results
from modeling_apex.arena.battle_files import build_battle_table, join_truth
from modeling_apex.arena.battle_table import BattleTable, drop_missing_scores
from modeling_apex.arena.classifiers import PUBLISHED_RECIPE_DIFFERENCES
from modeling_apex.arena.experiment import ArenaOptions, run_arena
from modeling_apex.arena.protocols import PROTOCOLS
from modeling_apex.cli import build_parser
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.statistics.pair_metrics import compute_f1

from result_schemas import check_result
from simulated_battles import build_rows, build_table, swap_sides

QUICK: dict[str, Any] = {"num_folds": 3, "num_draws": 100, "num_refits": 100, "num_permutations": 0}
OPTIONS = ArenaOptions(**QUICK, classifiers=("logistic_regression", "adaboost"))
# One test needs 400 permutations, those of all protocols 2,000.
TESTED = ArenaOptions(
    **{**QUICK, "num_permutations": None}, classifiers=("logistic_regression",), protocols=("leave_one_system_out",)
)
EFFECTS = {"popularity_effect": 1.0, "aesthetics_effect": 6.0, "system_effect": 0.5, "tie_share": 0.05}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> BattleTable:
    rows = build_rows(320, both_bad_share=0.05, num_systems=4, **EFFECTS)
    rows[5]["clarity_a"] = None
    names = {"system-0": "a-v1", "system-1": "a-v2", "system-2": "b", "system-3": "c"}
    rows = [row | {side: names[row[side]] for side in ("system_a", "system_b")} for row in rows]
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
    rows = results["aesthetics_effect"]["rows"]
    assert len(rows) == 10
    reasons = {row["classifier"]: row["reason"] for row in rows}
    assert {row["verdict"] for row in rows} == {"not testable"}
    assert reasons["logistic_regression"] == "no permutations were asked for"
    assert "--permute adaboost does that" in reasons["adaboost"]
    assert results["options"]["seed"] == 0
    assert results["resampled"]["unit"] == "user"
    json.dumps(results, allow_nan=False)
    check_result(results)


def test_known_truth_is_a_ceiling_and_no_feature(results: dict[str, Any]) -> None:
    ceiling = results["direct_rules"]["true_appeal"]["all"]["auc"]["estimate"]
    reached = [
        sets["popularity_and_aesthetics"]["all"]["auc"]["estimate"]
        for sets in results["protocols"]["random_folds"]["classifiers"].values()
    ]
    assert 0.5 < max(reached) <= ceiling
    assert "true_appeal" not in results["preference_head"]["weights"]


def test_planted_effect_gives_a_yes_and_its_absence_a_no(table: BattleTable) -> None:
    planted, _ = run_arena(table, TESTED)
    assert planted["conclusion"].startswith("Yes: aesthetic scores help")
    (primary,) = planted["aesthetics_effect"]["rows"]
    assert (primary["verdict"], primary["num_permutations"]) == ("helps", 400)
    assert primary["excess"] > primary["smallest_effect"] > 0
    assert primary["low"] <= primary["estimate"] <= primary["high"]
    assert_same(planted["aesthetics_effect"], run_arena(swap_sides(table), TESTED)[0]["aesthetics_effect"])
    nothing, _ = run_arena(build_table(200, popularity_effect=2.0, seed=1), TESTED)
    assert nothing["conclusion"].startswith("No: there is no evidence that aesthetic scores help")
    check_result(nothing)


def test_conclusion_follows_the_numbers(results: dict[str, Any]) -> None:
    effect = results["aesthetics_effect"]
    place = {"protocol": "leave_one_system_out", "classifier": "logistic_regression"}
    null = np.random.default_rng(0).normal(0.0, 0.02, 400)

    def conclude(estimate: float, null: np.ndarray | None, reason: str | None = None) -> str:
        compared = {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1}
        row = {**place, **describe_effect(compared, null, reason)}
        return build_conclusion({**results, "aesthetics_effect": summarize_aesthetics_effect([row], "songs", 400)})

    assert conclude(0.15, null).startswith("Yes: aesthetic scores help")
    assert conclude(-0.15, null).startswith("No: aesthetic scores hurt")
    nothing = conclude(0.001, null)
    assert nothing.startswith("No: there is no evidence that aesthetic scores help")
    assert "would have been found in 4 of 5 such tables" in nothing
    assert "permuted aesthetics change nothing here" in conclude(0.0, np.zeros(400))
    assert conclude(0.0, None, "they are asleep").startswith("Not testable with logistic_regression")
    other = {**results, "aesthetics_effect": {**effect, "rows": []}}
    assert build_conclusion(other).startswith("Not testable: logistic_regression under leave_one_system_out could not")


def test_what_beats_noise_columns_and_still_costs_is_no_help() -> None:
    null = np.random.default_rng(0).normal(-0.05, 0.005, 400)
    row = describe_effect({"estimate": -0.01, "low": -0.02, "high": 0.0}, null)
    assert row["p_value"] < 0.01
    assert row["verdict"] == "no evidence"


def assert_same(first: Any, second: Any, where: str = "") -> None:
    if isinstance(first, dict):
        assert set(first) == set(second), where
        for key in set(first) - {"f1_of_a"}:  # the paper's F1 is of "A wins": exchanging A and B changes it
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
    assert results["aesthetics_effect"]["rows"] == []
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
        **QUICK, classifiers=("logistic_regression", "svm"), recipe="published", protocols=PROTOCOLS[:1]
    )
    results, _ = run_arena(build_table(150), options)
    assert results["protocols"]["random_folds"]["is_symmetric"] is False
    report = build_report(results)
    assert "not symmetric in A and B" in report
    for note in PUBLISHED_RECIPE_DIFFERENCES:
        assert note in results["notes"]
        assert note[1:] in report


def test_too_few_permutations_are_refused_with_the_number(table: BattleTable) -> None:
    options = ArenaOptions(
        num_draws=100, num_permutations=500, classifiers=("logistic_regression",), protocols=PROTOCOLS[:2]
    )
    with pytest.raises(
        ValueError, match=r"`num_permutations` is 500, but .* over the 2 tests .*--num-permutations 800"
    ):
        run_arena(table, options)


def test_one_rare_system_changes_nothing_for_the_others() -> None:
    """It once stopped the run, and dropping it changed the number of battles and the headline."""
    table = build_table(150)
    table.systems[:4, 0] = "newcomer"
    results, _ = run_arena(table, ArenaOptions(**QUICK, classifiers=("logistic_regression",)))
    assert results["battles"]["num_decisive"] == 150
    assert results["battles"]["rare_systems"] == {}
    results, _ = run_arena(table, ArenaOptions(**{**QUICK, "num_folds": 10}, classifiers=("logistic_regression",)))
    assert results["battles"]["rare_systems"] == {"newcomer": 4}
    assert results["battles"]["num_decisive"] == 150
    assert results["anchors"]["left_out"]["newcomer"] == 4
    assert any("few decisive battles: {'newcomer': 4}" in note for note in results["notes"])


def test_a_table_without_systems_serves_all_that_needs_none() -> None:
    rows = [
        {name: value for name, value in row.items() if not name.startswith("system")}
        for row in build_rows(120, aesthetics_effect=4.0)
    ]
    options = ArenaOptions(**QUICK, classifiers=("logistic_regression",))
    results, head = run_arena(build_battle_table(rows), options)
    assert results["direct_rules"]["musicality"]["all"]["auc"]["estimate"] > 0.5
    assert results["protocols"]["random_folds"]["classifiers"]
    for protocol in ("leave_one_system_out", "leave_one_family_out"):
        assert "there are only 0 systems" in results["protocols"][protocol]["unavailable"]
    assert results["protocols"]["within_system_pairs"]["unavailable"] == "the table names no systems"
    baselines = results["protocols"]["random_folds"]["baselines"]
    assert baselines["system_tags_only"]["unavailable"] == "the table names no systems"
    assert results["human_leaderboards"] == {"all": None, "instrumental": None, "vocal": None}
    assert results["anchors"] == {"unavailable": "the table names no systems"}
    assert head is not None
    assert head.training["held_out"]["leave_one_system_out"]["unavailable"].startswith("there are only 0 systems")
    assert "Not testable" in results["conclusion"]
    check_result(results)
    assert "the table names no systems" in build_report(results)


def test_both_f1_stand_in_every_result(results: dict[str, Any], table: BattleTable) -> None:
    found = results["direct_rules"]["musicality"]["all"]
    used = drop_missing_scores(table)[0]
    used = used.select(used.is_voted)
    margins = used.scores[:, 0, 3] - used.scores[:, 1, 3]
    assert found["f1_of_a"]["estimate"] == pytest.approx(compute_f1(margins, used.outcomes, average="a")[0])
    assert found["f1"]["estimate"] == pytest.approx(compute_f1(margins, used.outcomes)[0])
    assert found["f1"]["estimate"] != found["f1_of_a"]["estimate"]
    report = build_report(results)
    assert "F1 of A wins, all" in report
    assert "macro F1 all" in report


def test_shares_are_never_certain(results: dict[str, Any]) -> None:
    share = results["share_won_by_a"]["all"]
    assert share["low"] < share["estimate"] < share["high"]
    sure = build_table(40, system_effect=0.0)
    sure.scores[:, 0, 0], sure.scores[:, 1, 0] = sure.outcomes, 1.0 - sure.outcomes
    found, _ = run_arena(sure, ArenaOptions(**QUICK, classifiers=(), protocols=PROTOCOLS[:1]))
    accuracy = found["direct_rules"]["score_streams"]["all"]["accuracy"]
    assert accuracy["estimate"] == accuracy["high"] == 1.0
    assert 0.6 < accuracy["low"] < 0.92


def test_battles_without_duration_are_left_out_of_that_baseline_and_listed() -> None:
    table = build_table(150)
    table.durations[7, 0] = np.nan
    results, _ = run_arena(table, ArenaOptions(**QUICK, classifiers=(), protocols=PROTOCOLS[:1]))
    baseline = results["protocols"]["random_folds"]["baselines"]["duration_and_loudness_only"]
    assert baseline["battles_left_out"] == ["battle-7"]


def test_human_leaderboard_keeps_votes_whose_scores_are_missing(results: dict[str, Any]) -> None:
    human, agreed = results["human_leaderboards"]["all"], results["leaderboards"]["all"]
    assert human["num_battles"] == agreed["num_battles"] + 1


def test_report_and_files(results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save_results(results, tmp_path)
    assert [path.name for path in paths] == ["results.json", "predictions.json", "report.md"]
    stored = json.loads((tmp_path / "results.json").read_text())
    assert "margins" not in stored["protocols"]["random_folds"]
    # Cut off while the files of another run are replaced, it leaves none that says what the others belong to.
    with monkeypatch.context() as patch:
        patch.setattr("modeling_apex.storage.output_folder.replace_text", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            save_results(results, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.json", "report.md"]
    assert save_results(results, tmp_path) == paths
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
    with pytest.raises(ValueError, match=r"Unknown classifiers \['oracle'\]"):
        ArenaOptions(permuted_classifiers=("oracle",))
    with pytest.raises(ValueError, match="`claim` is 'all'"):
        ArenaOptions(claim="all")
    with pytest.raises(ValueError, match="`resample` is 'day'"):
        ArenaOptions(resample="day")
    with pytest.raises(ValueError, match="`num_permutations` is -1"):
        ArenaOptions(num_permutations=-1)
    with pytest.raises(ValueError, match=r"Family 'suno' cannot be read\. Expected SYSTEM=FAMILY"):
        ArenaOptions(families=("suno",))


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
    words += ["--protocols", "leave_one_system_out", "--num-permutations", "400"]
    arguments = parse(str(path), "--output", str(output), "--save-head-to", str(model), "--no-plots", *words)
    assert arguments.run(arguments) == 0
    printed = capsys.readouterr()
    assert "1 battles lack a score" in printed.err
    assert "aesthetic scores" in printed.out
    stored = json.loads((output / "results.json").read_text())
    check_result(stored)
    assert stored["input_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
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


def test_results_of_an_earlier_version_are_shown_and_say_that_they_are() -> None:
    results = json.loads((EMBEDDED_MODEL / "arena" / "results.json").read_text())
    results.pop("schema_version", None)
    assert EARLIER_VERSION[1:] in build_report(results)
