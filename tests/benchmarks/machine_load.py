"""
Where a benchmark writes its result, and whether this machine is quiet enough for one.

A busy machine has other work in its caches and on its cores, and what is measured there is not written unless
`--busy` is given; the load is part of every result.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_LOAD_PER_CORE = 0.5  # of the last minute
NUM_WAITS, WAIT_SECONDS = 12, 15  # what ended just now, the benchmark before included, is in the load for a while


def add_output(parser: argparse.ArgumentParser, default: Path | None = None) -> None:
    """Declare where the result goes, and what says that a busy machine is meant."""
    parser.add_argument("--output", type=Path, default=default, help="write the result as JSON (default: %(default)s)")
    parser.add_argument("--busy", action="store_true", help="write it although the machine is busy")


def measure_load(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> float:
    """
    Return the load of the last minute, once it is low enough for a result; without one to write, as it is.

    Ends the program with status 2 if the machine stays busy.
    """
    bound = MAX_LOAD_PER_CORE * (os.cpu_count() or 1)
    load = os.getloadavg()[0]
    if arguments.output is None or arguments.busy:
        return load
    for _ in range(NUM_WAITS):
        if load <= bound:
            return load
        time.sleep(WAIT_SECONDS)
        load = os.getloadavg()[0]
    if load > bound:
        parser.error(
            f"the machine is busy: its load is {load:.1f}, and for a result it must be at most {bound:.1f}. End what "
            f"else runs, or pass --busy to write {arguments.output} all the same."
        )
    return load


def write_result(arguments: argparse.Namespace, result: Mapping[str, Any], load: float) -> None:
    """Write a result, with the load at the start of its measurement, if it has somewhere to go."""
    if arguments.output is not None:
        arguments.output.parent.mkdir(exist_ok=True)
        text = json.dumps({**result, "load_at_start": load}, indent=2)
        arguments.output.write_text(text + "\n", encoding="utf-8")
