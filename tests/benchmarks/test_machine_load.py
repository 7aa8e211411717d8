"""A benchmark writes no result from a busy machine unless it is told to, and says how busy it was."""

import argparse
import json
import os
import re
import sys
from pathlib import Path

import machine_load
import pytest
from machine_load import MAX_LOAD_PER_CORE, NUM_WAITS, add_output, measure_load, write_result

BOUND = MAX_LOAD_PER_CORE * (os.cpu_count() or 1)
BENCHMARKS = Path(machine_load.__file__).parent


def start(monkeypatch: pytest.MonkeyPatch, loads: list[float], *words: str) -> tuple[argparse.Namespace, float]:
    """Begin a benchmark on a machine with one load after another, the last of which stays."""
    values = iter(loads)
    monkeypatch.setattr(os, "getloadavg", lambda: (next(values, loads[-1]), 0.0, 0.0))
    monkeypatch.setattr(machine_load.time, "sleep", lambda seconds: None)
    parser = argparse.ArgumentParser()
    add_output(parser)
    arguments = parser.parse_args(words)
    return arguments, measure_load(parser, arguments)


def test_a_busy_machine_is_refused_and_nothing_is_written(tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        start(monkeypatch, [BOUND + 3], "--output", str(tmp_path / "result.json"))
    message = " ".join(capsys.readouterr().err.split())
    assert f"the machine is busy: its load is {BOUND + 3:.1f}, and for a result it must be at most" in message
    assert "End what else runs, or pass --busy to write" in message
    assert not list(tmp_path.iterdir())


def test_what_ended_just_now_is_waited_for(tmp_path, monkeypatch) -> None:
    falling = [BOUND + 3, BOUND + 1, BOUND / 2]
    assert start(monkeypatch, falling, "--output", str(tmp_path / "result.json"))[1] == BOUND / 2
    late = [BOUND + 1] * NUM_WAITS + [BOUND]
    assert start(monkeypatch, late, "--output", str(tmp_path / "result.json"))[1] == BOUND


def test_told_to_it_writes_and_records_the_load(tmp_path, monkeypatch) -> None:
    arguments, load = start(monkeypatch, [BOUND + 3], "--busy", "--output", str(tmp_path / "new" / "result.json"))
    write_result(arguments, {"seconds": 1.5}, load)
    assert json.loads(arguments.output.read_text()) == {"seconds": 1.5, "load_at_start": BOUND + 3}


def test_without_a_result_to_write_it_measures_on_any_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, load = start(monkeypatch, [BOUND + 3])
    write_result(arguments, {}, load)
    assert load == BOUND + 3
    assert not list(tmp_path.iterdir())


def test_every_benchmark_of_make_bench_asks() -> None:
    """By its words, since a run takes minutes; the refusals of some are run below."""
    makefile = (BENCHMARKS.parents[1] / "Makefile").read_text()
    target = makefile.partition("\nbench:")[2].partition("\n\n")[0]
    names = re.findall(r"tests/benchmarks/((?:bench|compare|measure)_\w+\.py)(.*)", target)
    assert len(names) > 14
    for name, words in names:
        assert ">" not in words, f"{name}: a redirection empties the result before the benchmark can refuse"
        text = (BENCHMARKS / name).read_text()
        assert "measure_load(parser, arguments)" in text, name
        assert words.endswith("$(BUSY)"), f"{name}: `make bench BUSY=--busy` does not reach it"


@pytest.mark.parametrize("name", ["bench_heads", "compare_resamplers", "measure_build_memory", "bench_decoding"])
def test_a_benchmark_refuses_before_it_measures(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (BOUND + 3, 0.0, 0.0))
    monkeypatch.setattr(machine_load.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(sys, "argv", [name, "--output", str(tmp_path / "result.json")])
    with pytest.raises(SystemExit, match="2"):
        __import__(name).main()
    assert not list(tmp_path.iterdir())
