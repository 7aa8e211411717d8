"""
How long the first score takes, from the start of the process.

    python tests/benchmarks/measure_cold_start.py --output tests/benchmarks/results/cold_start.json

Whole processes, started in turn so that whatever else the machine does meets all of them alike: `import transformers,
torch`, the measure that the others are divided by; `import transformers` alone and with this package; `apex-music
score` of a 10 s clip with apex-tiny on the CPU; and the same score through the pipeline. What is written: the median
of wall and of CPU seconds, each ratio as the median of the ratios within one round, and versions.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from machine_load import add_output, measure_load, write_result

from modeling_apex.inference.report_apex import format_table

REPOSITORY = Path(__file__).parent.parent.parent
BASELINE, PACKAGE_BASELINE = "import transformers, torch", "import transformers"
PIPELINE_PROGRAM = "import sys, modeling_apex\nprint(modeling_apex.load_pipeline(device='cpu')(sys.argv[1])['scores'])"
CLIP_SECONDS, CLIP_RATE = 10, 44_100


def list_programs(clip: Path) -> dict[str, list[str]]:
    """Name the words after `python` of each program."""
    return {
        BASELINE: ["-c", BASELINE],
        PACKAGE_BASELINE: ["-c", PACKAGE_BASELINE],
        "import transformers, modeling_apex": ["-c", "import transformers, modeling_apex"],
        "apex-music score": ["-m", "modeling_apex.cli", "score", str(clip), "--device", "cpu"],
        "pipeline": ["-c", PIPELINE_PROGRAM, str(clip)],
    }


def measure_process(words: Sequence[str]) -> dict[str, float]:
    """Run a Python process and return its seconds."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def measure_cold_start(num_rounds: int) -> dict[str, Any]:
    """Measure all programs, one after the other, in rounds."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.wav"
        times = np.arange(CLIP_SECONDS * CLIP_RATE) / CLIP_RATE
        waveform = sum(np.sin(2 * np.pi * pitch * times) / (2 + index) for index, pitch in enumerate((110, 220, 330)))
        soundfile.write(clip, waveform * 0.3, CLIP_RATE)
        programs = list_programs(clip)
        for words in programs.values():  # the first run reads files that later ones find in memory
            measure_process(words)
        rounds = [{name: measure_process(words) for name, words in programs.items()} for _ in range(num_rounds)]
    return {
        "command": "python tests/benchmarks/measure_cold_start.py",
        "num_rounds": num_rounds,
        "num_threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "clip": f"{CLIP_SECONDS} s of tones at {CLIP_RATE} Hz",
        "programs": {name: summarize(rounds, name) for name in programs},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }


def summarize(rounds: Sequence[Mapping[str, Mapping[str, float]]], name: str) -> dict[str, float]:
    """Return medians over rounds: seconds, and ratios to the two imports within a round."""
    result = {}
    for unit in ("wall", "cpu"):
        result[f"{unit}_seconds"] = statistics.median(row[name][unit] for row in rounds)
        for key, baseline in (("imports", BASELINE), ("transformers", PACKAGE_BASELINE)):
            result[f"{unit}_over_{key}"] = statistics.median(row[name][unit] / row[baseline][unit] for row in rounds)
    return result


def format_result(result: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            *(
                f"{program[key]:.2f}"
                for key in ("wall_seconds", "cpu_seconds", "wall_over_imports", "cpu_over_imports")
            ),
        ]
        for name, program in result["programs"].items()
    ]
    return format_table(["process", "wall s", "CPU s", f"wall / {BASELINE}", "CPU / same"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    add_output(parser)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    result = measure_cold_start(arguments.rounds)
    print(format_result(result))
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
