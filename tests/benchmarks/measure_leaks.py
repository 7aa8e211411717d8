"""
Memory of one pipeline that scores many short songs, one call a song, as a server does.

    python tests/benchmarks/measure_leaks.py --songs 10000 --output tests/benchmarks/results/leaks.json

The songs are arrays and file bytes of 0.5 to 5 s, hardly two of one length, made here, through the whole pipeline
with apex-tiny; a part of them is broken on purpose, since errors hold on to what they mention. Resident memory is read
after a collection of garbage.
"""

import argparse
import gc
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from machine_load import add_output, measure_load, write_result

from modeling_apex import load_pipeline

RATE = 24_000


def make_song(number: int) -> object:
    """Make a song: an array, the bytes of a file, or, once in fifty, bytes that are none."""
    if number % 50 == 49:
        return f"not audio {number}".encode() * 100
    generator = np.random.default_rng(number)
    waveform = generator.normal(0, 0.1, int(RATE * generator.uniform(0.5, 5.0))).astype(np.float32)
    if number % 2:
        return {"array": waveform, "sampling_rate": RATE}
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE, format="FLAC")
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory of many scored songs.")
    parser.add_argument("--songs", type=int, default=10_000, metavar="N", help="songs (%(default)s)")
    add_output(parser)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    torch.set_num_threads(1)
    scorer = load_pipeline()
    process = psutil.Process()
    marks = {max(arguments.songs * share // 100, 1) for share in (1, 10, 20, 50, 100)}
    megabytes, num_failed, start = {}, 0, time.perf_counter()
    for number in range(arguments.songs):
        report = scorer(make_song(number), on_error="report", return_timeline=number % 3 == 0)
        num_failed += "error" in report
        if number + 1 in marks:
            gc.collect()
            megabytes[str(number + 1)] = round(process.memory_info().rss / 1e6, 1)
            print(number + 1, megabytes[str(number + 1)], flush=True)
    values = list(megabytes.values())
    result = {
        "command": f"python tests/benchmarks/measure_leaks.py --songs {arguments.songs}",
        "model": "apex-tiny",
        "songs": arguments.songs,
        "broken_songs": num_failed,
        "resident_megabytes_after": megabytes,
        "megabytes_grown_after_the_first_hundredth": round(values[-1] - values[0], 1),
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result, indent=2))
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
