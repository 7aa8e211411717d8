"""What the benchmarks measured keeps what README and CONTRIBUTING promise; a result that does not is not kept."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "tests" / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return result


WRITING = ("score", "embed", "train", "build", "convert", "export", "publish", "arena", "conditions", "calibrate")


def test_no_command_is_listed_that_this_does_not_hold_to_account() -> None:
    assert set(load("kills.json")["commands"]) == set(WRITING)


@pytest.mark.parametrize("command", WRITING)
def test_fifty_kills_lose_nothing(command: str) -> None:
    found = load("kills.json")["commands"][command]
    assert found["kills"] >= 50
    assert found["interrupts"] >= 10
    assert found["terminations"] >= 10
    assert found["kills_at_renames"] >= 1
    # The kills must hit work, not its beginning; what is written within a blink is hit at its renames above all.
    least = 0.5 * found["kills"] if found["seconds_of_output"] > 0.1 else 10
    assert found["kills_after_first_output"] > least
    faults = ("rows_lost", "rows_twice", "other_hash", "leftovers", "half_folders")
    assert [found[fault] for fault in faults] == [0, 0, 0, 0, 0]


def test_twenty_runs_on_a_cluster_that_is_killed_lose_nothing() -> None:
    found = load("ray.json")
    assert len(found["runs"]) >= 20
    assert (found["num_songs"], found["num_broken"], found["longest_seconds"]) == (300, 12, 3600.0)
    for kind in ("workers", "nodes", "drivers"):
        assert sum(run[f"killed_{kind}"] for run in found["runs"]) >= 10, kind
    for run in (found["peace"], *found["runs"]):
        assert [run[fault] for fault in ("rows_lost", "rows_twice", "rows_other")] == [0, 0, 0]


def test_ten_thousand_songs_leave_nothing_behind() -> None:
    found = load("leaks.json")
    assert found["songs"] >= 10_000
    assert found["broken_songs"] > 0
    assert found["megabytes_grown_after_the_first_hundredth"] < 5


def test_the_tests_notice_what_mutation_changes() -> None:
    found = load("mutation.json")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(found["files"]) == set(project["tool"]["mutmut"]["only_mutate"])
    for name, entry in found["files"].items():
        assert entry["score"] >= 0.85, name
    assert found["score"] == round(found["noticed"] / found["mutants"], 4)
    assert len(found["survivors"]) == found["mutants"] - found["noticed"] - found["timed_out"]
