"""Bad audio files: a sample of the corpus that `tests/benchmarks/hostile_audio.py` runs as a whole."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from hostile_corpus import HostileCase, build_clips, iterate_cases

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS / "results"
SAMPLE_SIZE = 100
SLOW_KINDS = ("bomb",)  # made in seconds, and run as a whole by the benchmark


@pytest.fixture
def hostile_audio(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import hostile_audio

    return hostile_audio


def choose_sample() -> list[HostileCase]:
    """Choose cases of every kind, the more of a kind the more there are."""
    by_kind = defaultdict(list)
    for case in iterate_cases(build_clips(1.0)):
        if case.kind not in SLOW_KINDS:
            by_kind[case.kind].append(case)
    total = sum(map(len, by_kind.values()))
    chosen = []
    for cases in by_kind.values():
        count = max(3, SAMPLE_SIZE * len(cases) // total)
        chosen += cases[:: max(1, len(cases) // count)][:count]
    return chosen


def test_no_case_breaks_anything(hostile_audio: Any, tmp_path: Path) -> None:
    sample = choose_sample()
    result = hostile_audio.run_cases(sample, tmp_path, score_every=10)
    assert result["num_cases"] == len(sample) >= SAMPLE_SIZE
    assert result["fault_cases"] == []
    assert result["outcomes"]["scored"] > 0
    assert result["outcomes"]["refused: AudioError"] > 10
    assert result["largest_megabytes"] < hostile_audio.MEMORY_LIMIT_MB


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in iterate_cases(dict.fromkeys(("wav", "flac", "mp3"), bytes(4096)))]
    assert len(set(names)) == len(names)


def test_the_whole_corpus_was_run() -> None:
    result = json.loads((RESULTS / "hostile_audio.json").read_text())
    num_cases = sum(1 for _ in iterate_cases(build_clips(0.2)))
    assert result["num_cases"] == num_cases >= 2000, "run `make hostile`"
    assert not any(result["faults"].values())
    assert result["largest_megabytes"] <= result["limits"]["memory_megabytes"]
    assert result["longest_processor_seconds"] <= result["limits"]["processor_seconds"]
    assert not result["command_line"]["has_traceback"]


def test_the_fuzzer_ran_and_found_nothing_that_is_left() -> None:
    result = json.loads((RESULTS / "fuzz.json").read_text())
    assert result["executions"] > 1000
    assert result["coverage_points"] > 100
    assert (result["crashes"], result["hangs"], result["out_of_memory"], result["exit_status"]) == (0, 0, 0, 0)


class TestWatch:
    """The watch itself: a case that crashes, hangs or fails in a way that nobody planned is seen."""

    def test_outcomes(self, hostile_audio: Any, tmp_path: Path) -> None:
        def fail(path: str) -> None:
            raise KeyError(path)

        def refuse(path: str) -> None:
            raise FileNotFoundError("no such song")

        scorer = type("Scorer", (), {"preprocess": staticmethod(fail)})
        assert hostile_audio._run_case(scorer, "song.wav", False)["outcome"] == "unexplained error"
        scorer.preprocess = staticmethod(refuse)
        assert hostile_audio._run_case(scorer, "song.wav", False)["outcome"] == "unnamed error"

    def test_a_worker_that_dies_or_hangs_is_replaced(
        self, hostile_audio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hostile_audio, "work", pretend_to_work)
        monkeypatch.setattr(hostile_audio, "HANG_SECONDS", 1.5)
        with hostile_audio.WatchedWorker() as worker:
            assert worker.run(Path("die"), False)["outcome"] == "crash"
            assert worker.run(Path("spin"), False)["outcome"] == "hang"
            assert worker.run(Path("answer"), False)["outcome"] == "decoded"
            assert worker.run(Path("grow"), False)["outcome"] == "memory"


def pretend_to_work(connection: Any) -> None:
    import os

    connection.send({"outcome": "ready", "megabytes": 1.0})
    while (task := connection.recv()) is not None:
        if task[0] == "die":
            os.abort()
        while task[0] == "spin":
            pass
        connection.send({"outcome": "decoded", "megabytes": 5000.0 if task[0] == "grow" else 1.0})
