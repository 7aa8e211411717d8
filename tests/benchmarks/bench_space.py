"""
Measure what the Space adds to the time that a song takes: upload, queue, rendering of the answer.

    python tests/benchmarks/bench_space.py [--requests 10]

A Space is started on this machine and asked through its public endpoint, in turns with the same song scored in the
same process. Result: results/space.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file
from machine_load import add_output, measure_load, write_result

from modeling_apex import load_pipeline
from spaces_demo.app import build_app, build_launch_options
from spaces_demo.settings import SpaceSettings

RESULT = Path(__file__).parent / "results" / "space.json"
SAMPLES = Path(__file__).parents[2] / "spaces_demo" / "samples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10, help="turns (default: 10)")
    add_output(parser, RESULT)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    song = next(path for path in sorted(SAMPLES.iterdir()) if path.suffix in (".flac", ".ogg"))
    scorer = load_pipeline(device="cpu")
    settings = SpaceSettings()
    app = build_app(settings)
    _, url, _ = app.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **build_launch_options(settings)
    )
    try:
        client = Client(url, verbose=False)
        times: dict[str, list[float]] = {"space": [], "direct": []}
        for turn in range(arguments.requests + 1):
            elapsed = {
                "space": measure(lambda: client.predict(handle_file(str(song)), api_name="/score")),
                "direct": measure(lambda: scorer(str(song), return_timeline=True)),
            }
            for name, seconds in elapsed.items() if turn else ():
                times[name].append(seconds)
    finally:
        app.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "command": "python tests/benchmarks/bench_space.py",
        "song": song.name,
        "seconds": {name: {"median": medians[name], "all": values} for name, values in times.items()},
        "added_seconds": medians["space"] - medians["direct"],
    }
    write_result(arguments, result, load)
    print(json.dumps(result, indent=2))


def measure(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
