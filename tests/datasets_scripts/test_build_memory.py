"""Memory of a build: fifty bytes of numbers a row, and none of its text."""

import os
import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_memory_grows_with_the_numbers_of_a_table_alone(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(REPOSITORY / "tests" / "benchmarks")
    measure_build = runpy.run_path(str(REPOSITORY / "tests" / "benchmarks" / "measure_build_memory.py"))[
        "measure_build"
    ]
    small, large = measure_build(50_000), measure_build(300_000)
    assert small["status"] == large["status"] == 0
    # A quarter of a million rows more hold a quarter of a gigabyte of text. Two gigabytes are 200 bytes for each of
    # ten million rows: 50 of counts and keys, their percentiles, and what sorting them takes for a moment.
    assert large["megabytes_peak"] - small["megabytes_peak"] < 50
