"""
What a second process is worth to `apex-music score`: the whole command with one process and with two, in turns.

One process of one thread is what two processes, of one thread each, are compared with; two threads of one process are
beside it, since that is what a machine of two cores does by default.

Songs are noise at the model's own rate. Two models: apex-tiny, where decoding is a large part of the work and already
overlaps with the encoder of a single process, and the shape of MERT-v1-95M with random weights, where the encoder is
nearly all of it. Wall seconds and CPU seconds of the command, the start of its processes included; each round gives
one ratio, and their median counts. All ways must write the same bytes.

    python tests/benchmarks/bench_score_processes.py --output tests/benchmarks/results/score_processes.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_embed_processes import build_model, write_songs
from machine_load import add_output, measure_load, write_result

# Name, songs and seconds of each.
MODELS = {"apex-tiny": (400, 60.0), "MERT-v1-95M, random weights": (6, 60.0)}
# Processes, and threads of each.
WAYS = {"one_process": (1, 1), "two_threads": (1, 2), "two_processes": (2, 1)}


def run_command(songs: Path, model: Path, output: Path, num_processes: int, num_threads: int) -> dict[str, float]:
    """Score songs by the command; wall seconds, and CPU seconds of it and of the processes that it started."""
    words = [sys.executable, "-m", "modeling_apex.cli", "score", str(songs), "--model", str(model), "--device", "cpu"]
    words += ["--output", str(output), "--num-processes", str(num_processes)]
    before, started = os.times(), time.perf_counter()
    subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": str(num_threads)}, check=True, capture_output=True)
    seconds, after = time.perf_counter() - started, os.times()
    return {"seconds": seconds, "cpu_seconds": sum(after[2:4]) - sum(before[2:4])}


def describe_spread(values: list[float]) -> dict[str, float]:
    """Give the median of values, and the least and the largest."""
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def measure(name: str, folder: Path, num_songs: int, song_seconds: float, num_rounds: int) -> dict[str, Any]:
    """Score the songs of one model every way in turns."""
    write_songs(folder / "songs", num_songs, song_seconds)
    model = build_model(name, folder / "model")
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(num_rounds):
        outputs = {way: folder / f"{way}-{number}.jsonl" for way in WAYS}
        for way, sizes in WAYS.items():
            rounds[way].append(run_command(folder / "songs", model, outputs[way], *sizes))
        if len({output.read_bytes() for output in outputs.values()}) != 1:
            raise RuntimeError(f"{name}: the ways do not write the same scores.")

    def compare(way: str, key: str) -> list[float]:
        pairs = zip(rounds["one_process"], rounds[way], strict=True)
        return [first[key] / other[key] for first, other in pairs]

    return {
        "songs": f"{num_songs} songs of {song_seconds:g} s",
        **{way: describe_spread([times["seconds"] for times in rounds[way]]) for way in WAYS},
        "speed_up": {way: describe_spread(compare(way, "seconds")) for way in WAYS},
        "cpu_seconds_ratio": {
            way: statistics.median(1 / ratio for ratio in compare(way, "cpu_seconds")) for way in WAYS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--songs", type=int, help="songs of each model, for a trial")
    parser.add_argument("--seconds", type=float, help="length of a song, for a trial")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="for a trial")
    add_output(parser)
    arguments = parser.parse_args()
    load, models = measure_load(parser, arguments), {}
    for name in arguments.models:
        num_songs, song_seconds = MODELS[name]
        sizes = arguments.songs or num_songs, arguments.seconds or song_seconds
        with tempfile.TemporaryDirectory() as folder:
            models[name] = measure(name, Path(folder), *sizes, arguments.rounds)
    result = {
        "command": "python tests/benchmarks/bench_score_processes.py",
        "num_cores": os.cpu_count(),
        "num_rounds": arguments.rounds,
        "models": models,
    }
    write_result(arguments, result, load)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
