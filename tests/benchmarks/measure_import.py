"""
What `import modeling_apex` costs above `import transformers`, each in a fresh process, taking turns.

    python tests/benchmarks/measure_import.py --output tests/benchmarks/results/import.json
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from machine_load import add_output, measure_load, write_result

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import time
start = time.perf_counter()
import transformers
between = time.perf_counter()
import modeling_apex
print(between - start, time.perf_counter() - between)
"""


def measure_imports() -> tuple[float, float]:
    """Return the seconds of `import transformers`, and of `import modeling_apex` after it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    seconds = done.stdout.split()
    return float(seconds[0]), float(seconds[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what importing the package costs.")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="processes (%(default)s)")
    add_output(parser)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    measure_imports()  # fills the cache of the file system
    rows = [measure_imports() for _ in range(arguments.runs)]
    result = {
        "command": "python tests/benchmarks/measure_import.py",
        "runs": arguments.runs,
        "transformers_seconds": round(statistics.median(row[0] for row in rows), 4),
        "apex_seconds_above": round(statistics.median(row[1] for row in rows), 4),
        "largest_apex_seconds_above": round(max(row[1] for row in rows), 4),
        "versions": {"python": platform.python_version(), "transformers": version("transformers")},
    }
    print(json.dumps(result, indent=2))
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
