"""Memory of a build: it is the same for a small table and a large one."""

import os
import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    measure_build = runpy.run_path(str(REPOSITORY / "tests" / "benchmarks" / "measure_build_memory.py"))[
        "measure_build"
    ]
    small, large = measure_build(50_000), measure_build(300_000)
    assert small["status"] == large["status"] == 0
    # A quarter of a million rows more hold a quarter of a gigabyte of text, and 14 MB of counts and keys.
    assert large["megabytes_peak"] - small["megabytes_peak"] < 10
