"""
Measure how many songs an hour one core scores from a folder, by the command line as a user runs it.

    python tests/benchmarks/bench_corpus.py [--songs 200] [--seconds 120] [--model M]

The songs are the repository's samples, repeated to the length of a song and written as flac files. Scoring runs in a
process of its own that may use one core; its processor time is what counts, start-up included. Result:
results/corpus.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from machine_load import add_output, measure_load, write_result

RESULT = Path(__file__).parent / "results" / "corpus.json"
SAMPLES = Path(__file__).parents[2] / "spaces_demo" / "samples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120, help="length of a song (default: 120)")
    parser.add_argument("--model", help="folder or Hub id (default: the embedded demonstration model)")
    add_output(parser, RESULT)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_songs(folder / "songs", arguments.songs, arguments.seconds)
        command = [sys.executable, "-m", "modeling_apex.cli", "score", str(folder / "songs")]
        command += ["--output", str(folder / "scores.jsonl"), "--device", "cpu"]
        command += ["--model", arguments.model] if arguments.model else []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        num_scored = len((folder / "scores.jsonl").read_text().splitlines())
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = {
        "command": "python tests/benchmarks/bench_corpus.py",
        "model": arguments.model or "apex-tiny",
        "num_songs": num_scored,
        "song_seconds": arguments.seconds,
        "wall_seconds": wall,
        "processor_seconds": processor,
        "songs_per_core_hour": num_scored / processor * 3600,
        "times_real_time": num_scored * arguments.seconds / processor,
    }
    write_result(arguments, result, load)
    print(json.dumps(result, indent=2))


def write_songs(folder: Path, num_songs: int, seconds: float) -> None:
    """Write songs that differ: each starts the samples at another place."""
    folder.mkdir()
    paths = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".flac", ".ogg"))
    clips = [soundfile.read(path, dtype="float32", always_2d=True) for path in paths]
    for index in range(num_songs):
        samples, rate = clips[index % len(clips)]
        length = round(seconds * rate)
        repeated = np.tile(samples, (-(-length // len(samples)), 1))[:length]
        soundfile.write(folder / f"song_{index:04d}.flac", np.roll(repeated, 997 * index, axis=0), rate)


if __name__ == "__main__":
    main()
