"""The preference head and anchor calibration."""

import csv
import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_apex.arena import arena_report, preference
from modeling_apex.arena.anchors import compute_anchor_gains, fit_system_offsets
from modeling_apex.arena.battle_files import join_truth
from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.preference import PreferenceHead, fit_preference_head, score_preference
from modeling_apex.cli import main

from result_schemas import check_result
from simulated_battles import build_rows, build_table, swap_sides

HEAD = PreferenceHead({"musicality": 2.0, "score_likes": 0.1}, position_bias=-0.3)


def build_report(musicality: float, likes: float) -> dict[str, Any]:
    return {"scores": {"musicality": musicality, "score_likes": likes, "clarity": 3.0}, "duration_seconds": 30.0}


def test_preference_is_bradley_terry_and_symmetric() -> None:
    songs = [build_report(3.0, 20.0), build_report(4.0, 10.0), build_report(2.0, 90.0)]
    for a in songs:
        for b in songs:
            assert score_preference(a, b, HEAD) == pytest.approx(1.0 - score_preference(b, a, HEAD))
    assert score_preference(songs[1], songs[0], HEAD) == pytest.approx(1.0 / (1.0 + np.exp(-1.0)))
    ordered = sorted(songs, key=HEAD.compute_strength, reverse=True)
    assert all(score_preference(better, worse, HEAD) > 0.5 for better, worse in pairwise(ordered))
    assert score_preference(songs[0], songs[0], HEAD, use_position_bias=True) < 0.5
    assert score_preference(songs[0]["scores"], songs[0], HEAD) == 0.5


def test_extreme_reports_give_probabilities_and_not_overflow() -> None:
    head = PreferenceHead({"musicality": 1e6})
    assert score_preference({"musicality": 5.0}, {"musicality": 1.0}, head) == 1.0
    assert score_preference({"musicality": 1.0}, {"musicality": 5.0}, head) == 0.0


def test_head_survives_its_file(tmp_path: Path) -> None:
    path = HEAD.save_pretrained(tmp_path / "model")
    assert PreferenceHead.from_pretrained(tmp_path / "model") == HEAD
    assert PreferenceHead.from_pretrained(path) == HEAD


def test_head_says_whether_its_votes_were_simulated(tmp_path: Path) -> None:
    table = build_table(60)
    assert fit_preference_head(table).training["votes"] == "people"
    truth = tmp_path / "truth.jsonl"
    rows = [{"battle_uuid": str(name), "appeal_a": 1.0, "appeal_b": 0.5} for name in table.battle_ids]
    truth.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert fit_preference_head(join_truth(table, truth)).training["votes"] == "simulated"


def test_fitted_head_prefers_what_people_prefer_and_is_calibrated() -> None:
    table = build_table(600, aesthetics_effect=5.0)
    head = fit_preference_head(table, seed=3)
    assert head == fit_preference_head(table, seed=3)
    per_deviation = head.training["weights_per_standard_deviation"]
    assert all(per_deviation[name] > 0 for name in ("coherence", "musicality", "clarity"))
    assert head.training["held_out_auc"] > 0.75
    assert head.training["expected_calibration_error"] < 0.1


def build_collinear_table(group: str = "popularity") -> BattleTable:
    """Battles that musicality decides, beside a noisy copy of it: a free fit sets the copy against the original."""
    table = build_table(400, aesthetics_effect=4.0, seed=2)
    generator = np.random.default_rng(5)
    likes, copied = (
        [column.name for column in table.score_columns].index(name) for name in ("score_likes", "musicality")
    )
    appeal = table.scores[:, :, 2:].mean(axis=-1)
    table.scores[:, :, copied] = appeal + generator.normal(0.0, 0.2, appeal.shape)
    table.scores[:, :, likes] = 20.0 * (2.0 * table.scores[:, :, copied] - appeal)
    columns = [
        replace(column, group=group) if column.name == "score_likes" else column for column in table.score_columns
    ]
    return replace(table, score_columns=columns)


def test_a_higher_score_never_counts_against_a_song() -> None:
    head = fit_preference_head(build_collinear_table())
    assert head.weights["score_likes"] == 0.0
    assert head.training["never_below_zero"] == list(head.weights)
    assert min(head.weights.values()) >= 0.0
    for better in head.weights:
        report = {"scores": dict.fromkeys(head.weights, 3.0)}
        raised = {"scores": {**report["scores"], better: 4.0}}
        assert score_preference(raised, report, head) >= 0.5
    # Of a group that nobody gave a direction, the weight is what the battles say.
    free = fit_preference_head(build_collinear_table("other"))
    assert free.weights["score_likes"] < 0.0
    assert "score_likes" not in free.training["never_below_zero"]


def test_bounded_weights_are_the_best_of_those_allowed() -> None:
    table = build_collinear_table()
    differences = table.scores[:, 0] - table.scores[:, 1]
    differences /= np.sqrt((differences**2).mean(axis=0))
    bounded = preference._fit_difference_weights(differences, table.outcomes, np.ones(7, bool))
    # At the best weights the loss falls nowhere: level along each weight, or rising from zero up.
    slopes = differences.T @ (1.0 / (1.0 + np.exp(-differences @ bounded)) - table.outcomes) + bounded
    assert (bounded >= 0.0).all()
    assert (bounded == 0.0).any()
    assert slopes[bounded > 0.0] == pytest.approx(0.0, abs=1e-5)
    assert (slopes[bounded == 0.0] > 0.0).all()


def test_what_the_bounds_cost_stands_beside_the_accuracy() -> None:
    head = fit_preference_head(build_collinear_table())
    for found in head.training["held_out"].values():
        own, free = found["accuracy"]["estimate"], found["accuracy_without_bounds"]["estimate"]
        assert found["accuracy"]["low"] < own < found["accuracy"]["high"]
        assert own - free == pytest.approx(found["accuracy_difference"]["estimate"])
        assert found["accuracy_difference"]["low"] <= own - free <= found["accuracy_difference"]["high"]
    text = arena_report._build_preference({"preference_head": asdict(head)})
    assert "a fit whose weights may be below zero reaches" in text
    held_out = head.training["held_out"]["random_folds"]
    assert f"the bounds change it by {held_out['accuracy_difference']['estimate']:.3f}" in text
    # What was written before there were bounds still reads.
    del held_out["accuracy_difference"], head.training["held_out"]["leave_one_system_out"]
    assert "bounds" not in arena_report._build_preference({"preference_head": asdict(head)})


def test_position_bias_is_found_and_kept_apart() -> None:
    table = build_table(600)
    generator = np.random.default_rng(0)
    table.preferences[:] = np.where(generator.random(600) < 0.3, "A", "B")
    head = fit_preference_head(table)
    assert head.position_bias == pytest.approx(np.log(0.3 / 0.7), abs=0.3)
    report = {"scores": {column.name: 3.0 for column in table.score_columns}}
    assert score_preference(report, report, head) == 0.5


def test_swapping_sides_keeps_the_weights_and_turns_the_bias() -> None:
    table = build_table(200, aesthetics_effect=3.0)
    head, swapped = fit_preference_head(table), fit_preference_head(swap_sides(table))
    assert swapped.weights == pytest.approx(head.weights)
    assert swapped.position_bias == pytest.approx(-head.position_bias)


def test_scores_without_information_give_even_odds_and_never_a_reversed_sign() -> None:
    table = build_table(200, seed=4)
    head = fit_preference_head(table)
    assert head.temperature > 1.0
    assert head.training["expected_calibration_error"] < 0.15


@pytest.mark.parametrize("report", [{"scores": {"musicality": 3.0}}, {"error": "broken"}, build_report(np.nan, 1.0)])
def test_incomplete_reports_are_refused(report: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"weighs the score .* Pass reports of the model"):
        HEAD.compute_strength(report)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="must be a mapping with `scores`, received float"):
        HEAD.compute_strength(3.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one weight"):
        PreferenceHead({})
    with pytest.raises(ValueError, match="temperature above zero"):
        PreferenceHead({"musicality": 1.0}, temperature=0.0)
    with pytest.raises(FileNotFoundError, match="no preference head at"):
        PreferenceHead.from_pretrained(tmp_path)
    path = tmp_path / "preference_head.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="is not a preference head"):
        PreferenceHead.from_pretrained(tmp_path)
    path.write_text(json.dumps({"format_version": 9, "weights": {"musicality": 1.0}}))
    with pytest.raises(ValueError, match="format version 9"):
        PreferenceHead.from_pretrained(tmp_path)
    path.write_text(json.dumps({"format_version": 1, "weigths": {"musicality": 1.0}}))
    with pytest.raises(ValueError, match="does not hold the fields"):
        PreferenceHead.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="at least 20 decisive battles, received 7 scores and 10"):
        fit_preference_head(build_table(10))
    table = build_table(40)
    table.scores[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="A score is missing"):
        fit_preference_head(table)


def test_offsets_shrink_to_zero_without_anchors_and_follow_many() -> None:
    assert fit_system_offsets(np.zeros((3, 0)), np.zeros((3, 0))).tolist() == [0.0, 0.0, 0.0]
    outcomes = (np.arange(1000) % 4 > 0).astype(float)
    assert fit_system_offsets(np.zeros((1, 1000)), outcomes[None])[0] == pytest.approx(np.log(3.0), abs=0.02)
    assert fit_system_offsets(np.zeros((1, 4)), outcomes[None, :4])[0] < np.log(3.0)


def test_anchors_help_where_systems_differ() -> None:
    table = build_table(400, system_effect=2.0, aesthetics_effect=1.0)
    found = compute_anchor_gains(table, counts=(0, 20), num_repeats=10, num_draws=100)
    none, many = found["gains"]
    assert none["accuracy_gain"]["estimate"] == 0.0
    assert many["accuracy_gain"]["estimate"] > 0.05
    assert many["log_loss_gain"]["estimate"] > 0.0
    assert len(found["per_system"]) == 5


def test_systems_with_too_few_battles_for_anchors_are_listed() -> None:
    found = compute_anchor_gains(build_table(60), counts=(0, 100), num_repeats=2, num_draws=100)
    assert found["gains"] == []
    assert len(found["left_out"]) == 5
    with pytest.raises(ValueError, match="must hold 0"):
        compute_anchor_gains(build_table(60), counts=(5,))


def test_calibration_stands_beside_what_a_calibrated_head_would_show_and_on_unseen_systems() -> None:
    head = fit_preference_head(build_table(200, aesthetics_effect=3.0))
    held_out = head.training["held_out"]
    assert set(held_out) == {"random_folds", "leave_one_system_out"}
    for found in held_out.values():
        error = found["calibration_error"]
        assert error["low"] <= error["estimate"] <= error["high"]
        assert 0.02 < error["expected_if_calibrated"] < 0.15
        assert found["resampled"]["unit"] == "user"
        assert found["auc"]["low"] < found["auc"]["estimate"] < found["auc"]["high"]
    assert held_out["random_folds"]["auc"]["estimate"] == head.training["held_out_auc"]
    assert held_out["random_folds"]["calibration_error"]["estimate"] == head.training["expected_calibration_error"]
    two = fit_preference_head(build_table(60, num_systems=2)).training["held_out"]["leave_one_system_out"]
    assert two == {"unavailable": "there are only 2 systems, and at least 3 are needed"}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_anchor_calibration_is_a_command_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write_csv(tmp_path / "battles.csv", build_rows(150, system_effect=1.0))
    words = ["--counts", "0", "10", "--num-repeats", "3", "--num-draws", "100", "--output", str(tmp_path / "out")]
    assert main(["anchors", str(table), *words]) == 0
    assert "Means over 5 systems" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "anchors.json").read_text())
    check_result(stored)
    assert stored["resampled"] == {"unit": "system", "num_units": {"system": 5}}
    assert [row["num_anchors"] for row in stored["gains"]] == [0, 10]
    for row in stored["gains"]:
        assert row["accuracy"]["low"] <= row["accuracy"]["estimate"] <= row["accuracy"]["high"]
    rows = [{name: row[name] for name in ("battle_uuid", "preference")} for row in build_rows(10)]
    nothing = write_csv(tmp_path / "nothing.csv", rows)
    assert main(["anchors", str(nothing), "--output", str(tmp_path / "none")]) == 2
    assert "Anchor battles need systems and scores" in capsys.readouterr().err
