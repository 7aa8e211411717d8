"""From files to the table of battles: readers and refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_apex.arena.battle_files import build_battle_table, build_score_columns, join_truth, load_battle_table
from modeling_apex.arena.battle_table import ScoreColumn

from simulated_battles import build_rows


def build_row(**changes: Any) -> dict[str, Any]:
    return {"battle_uuid": "x", "preference": "A", "system_a": "s", "system_b": "t", **changes}


def write_csv(path: Path, rows: list[dict[str, Any]], encoding: str = "utf-8", delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    rows = build_rows(20, tie_share=0.2, both_bad_share=0.2)
    rows[3]["musicality_a"] = None
    rows[4]["is_instrumental"] = None
    path = tmp_path / f"battles{suffix}"
    if suffix == ".csv":
        write_csv(path, rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    expected, loaded = build_battle_table(rows), load_battle_table(path)
    np.testing.assert_allclose(loaded.scores, expected.scores)
    assert np.isnan(loaded.scores[3, 0]).sum() == 1
    for name in ("battle_ids", "preferences", "systems", "instrumental", "prompts", "users"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(expected, name))
    assert loaded.instrumental[4] == -1


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8-sig", ","), ("utf-16", "\t"), ("utf-8", ";"), ("utf-8", "\t")],
)
def test_spreadsheets_save_tables_in_their_own_ways(tmp_path: Path, encoding: str, delimiter: str) -> None:
    rows = build_rows(5)
    loaded = load_battle_table(write_csv(tmp_path / "battles.csv", rows, encoding, delimiter))
    np.testing.assert_array_equal(loaded.battle_ids, build_battle_table(rows).battle_ids)
    np.testing.assert_allclose(loaded.scores, build_battle_table(rows).scores)


def test_what_is_written_for_nothing_is_unknown(tmp_path: Path) -> None:
    words = ["nan", "None", "N/A", " ", "unknown"]
    rows = [build_row(battle_uuid=str(n), user_pseudonym=word, prompt=word, is_instrumental=word, duration_a=word)
            for n, word in enumerate(words)]  # fmt: skip
    for table in (build_battle_table(rows), load_battle_table(write_csv(tmp_path / "battles.csv", rows))):
        assert not any(table.users)
        assert not any(table.prompts)
        assert set(table.instrumental.tolist()) == {-1}
        assert np.isnan(table.durations).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"duration_a": 174315}, r"battles\.jsonl:2: duration_a is 174315, .* Is it in milliseconds\?"),
        ({"duration_b": -1}, r"battles\.jsonl:2: duration_b is -1 seconds, expected a number that is not negative"),
        ({"loudness_a": 10**400}, r"'loudness_a' holds '1000+' in .*battles\.jsonl:2\. Expected a finite number"),
        ({"battle_uuid": None}, r"Column 'battle_uuid' is empty in .*battles\.jsonl:2"),
    ],
)
def test_numbers_are_held_to_their_units_and_named_by_line(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "battles.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (build_row(), build_row(battle_uuid="y") | changes)))
    with pytest.raises(ValueError, match=message):
        load_battle_table(path)


def test_ids_may_be_called_battle_id_and_scores_may_be_absent() -> None:
    table = build_battle_table([{"battle_id": "x", "preference": "B", "system_a": "s", "system_b": "t"}])
    assert table.score_columns == ()
    assert table.outcomes.tolist() == [0.0]


@pytest.mark.parametrize("vote", ["a", "", None, "BOTH_GOOD", "TIE "])
def test_unknown_votes_are_refused_and_name_the_row(vote: Any) -> None:
    with pytest.raises(ValueError, match=r"Unknown preference .* in row 2 of the table.* never counted as a tie"):
        build_battle_table([build_row(), build_row(battle_uuid="y", preference=vote)])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no battles"),
        ([{"preference": "A"}], r"lacks the columns \['battle_uuid'\]"),
        ([{"system_a": "s"}], r"lacks the columns \['battle_uuid', 'preference', 'system_b'\]"),
        ([build_row(), build_row()], "Battle 'x' appears in row 1 and again in row 2"),
        ([build_row(system_a=" ")], "Column 'system_a' is empty in row 1"),
        ([build_row(musicality_a="loud", musicality_b=1)], "'musicality_a' holds 'loud' in row 1"),
        ([build_row(musicality_a="inf", musicality_b=1)], "'musicality_a' holds 'inf' .* finite"),
        ([build_row(musicality_a=1.0)], r"'musicality' needs the columns .* lacks \['musicality_b'\]"),
        ([build_row(is_instrumental="perhaps")], "'is_instrumental' holds 'perhaps' in row 1"),
    ],
)
def test_broken_tables_are_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_battle_table(rows)


@pytest.mark.parametrize(
    ("value", "expected"), [(True, 1), ("False", 0), ("true", 1), (None, -1), ("", -1), (0, 0), (float("nan"), -1)]
)
def test_instrumental_flags_are_read_as_the_source_writes_them(value: Any, expected: int) -> None:
    assert build_battle_table([build_row(is_instrumental=value)]).instrumental[0] == expected


def test_score_declarations() -> None:
    (column,) = build_score_columns(["x", "y"], ["other_model:aesthetics=x,y"])
    assert column == ScoreColumn("other_model", "aesthetics", "x", "y")
    assert build_score_columns(["musicality_a", "musicality_b"], ["musicality"])[0].group == "aesthetics"
    assert build_score_columns(["q_a", "q_b"], ["q"])[0].group == "other"
    with pytest.raises(ValueError, match="cannot be read"):
        build_score_columns(["x"], ["q=x"])
    with pytest.raises(ValueError, match="must be unique"):
        build_score_columns(["q_a", "q_b"], ["q", "q"])
    with pytest.raises(ValueError, match="Group 'beauty' of score 'q' is unknown"):
        build_score_columns(["q_a", "q_b"], ["q:beauty"])


def test_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no table of battles at"):
        load_battle_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is not a table"):
        load_battle_table(tmp_path / "none.xlsx")
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(build_row()) + "\n{")
    with pytest.raises(ValueError, match=r"broken\.jsonl:2 is not JSON"):
        load_battle_table(broken)
    broken.write_text("[]\n")
    with pytest.raises(ValueError, match=r"broken\.jsonl:1 holds a JSON list"):
        load_battle_table(broken)


def test_truth_is_joined_by_battle(tmp_path: Path) -> None:
    rows = build_rows(5)
    path = tmp_path / "truth.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    table = join_truth(build_battle_table(rows), path)
    assert table.score_columns[-1].group == "truth"
    np.testing.assert_allclose(table.scores[:, 0, -1], [row["appeal_a"] for row in rows])
    path.write_text(json.dumps(rows[0]))
    with pytest.raises(ValueError, match=r"for 4 of 5 battles, the first being 'battle-1'"):
        join_truth(table, path)
    with pytest.raises(FileNotFoundError, match="no truth file"):
        join_truth(table, tmp_path / "none.jsonl")
