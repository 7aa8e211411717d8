"""
What a second core is worth to `apex-music embed`: one thread, two threads of one process, and two processes, in turns.

Songs are noise at the model's own rate. Two models: apex-tiny, where decoding is a large part of the work and already
overlaps with the encoder of a single process, and the shape of MERT-v1-95M with random weights, where the encoder is
nearly all of it. Wall seconds of `embed_songs` under `torchrun`, the least of several rounds; CPU seconds of all
processes together say what sharing costs.

    python tests/benchmarks/bench_embed_processes.py --output tests/benchmarks/results/embed_processes.json
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
from typing import Any

from machine_load import add_output, measure_load, write_result

NUM_SHARDS = 4
# Name, songs and seconds of each.
MODELS = {"apex-tiny": (64, 60), "MERT-v1-95M, random weights": (4, 60)}
# Processes, and threads of each.
WAYS = {"one_thread": (1, 1), "two_threads": (1, 2), "two_processes": (2, 1)}


def build_model(name: str, folder: Path) -> Path:
    """Return the folder of a model, made if need be."""
    from modeling_apex import ApexConfig, ApexModel
    from modeling_apex.registration import EMBEDDED_MODEL

    if name == "apex-tiny":
        return Path(EMBEDDED_MODEL)
    ApexModel(ApexConfig()).save_pretrained(folder)
    return folder


def write_songs(folder: Path, num_songs: int, song_seconds: float) -> None:
    """Write songs of noise."""
    import numpy as np
    import soundfile

    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(num_songs):
        noise = 0.1 * generator.standard_normal(round(song_seconds * 24_000), dtype=np.float32)
        soundfile.write(folder / f"{number:03d}.wav", noise, 24_000)


def embed_as_worker(folder: Path, output: Path, model: Path, num_threads: int) -> None:
    """Embed as one of the processes that `torchrun` starts, and leave the times beside the embeddings."""
    import torch

    torch.set_num_threads(num_threads)
    from accelerate import PartialState

    from modeling_apex.corpus.embed import embed_songs

    state = PartialState(cpu=True)
    state.wait_for_everyone()
    num_songs = len(list(folder.iterdir()))
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    summary = embed_songs(folder, output, model, songs_per_shard=num_songs // NUM_SHARDS)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert summary.num_songs == num_songs
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    (output.parent / f"{output.name}.{state.process_index}.json").write_text(json.dumps(times))


def run_processes(folder: Path, output: Path, model: Path, num_processes: int, num_threads: int) -> dict[str, float]:
    """Embed one way; wall seconds of the slowest process, CPU seconds of all."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(num_processes)]
    command += [str(Path(__file__)), "--worker", str(folder), str(output), str(model), str(num_threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    times = [json.loads((output.parent / f"{output.name}.{rank}.json").read_text()) for rank in range(num_processes)]
    return {"seconds": max(row["seconds"] for row in times), "cpu_seconds": sum(row["cpu_seconds"] for row in times)}


def measure(name: str, folder: Path, num_rounds: int) -> dict[str, Any]:
    """Embed the songs of one model every way in turns."""
    num_songs, song_seconds = MODELS[name]
    write_songs(folder / "songs", num_songs, song_seconds)
    model = build_model(name, folder / "model")
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(num_rounds):
        for way, (num_processes, num_threads) in WAYS.items():
            output = folder / f"{way}-{number}"
            rounds[way].append(run_processes(folder / "songs", output, model, num_processes, num_threads))
    best = {way: {key: min(row[key] for row in times) for key in times[0]} for way, times in rounds.items()}
    return {
        "songs": f"{num_songs} songs of {song_seconds} s",
        **best,
        "speed_up": {way: best["one_thread"]["seconds"] / best[way]["seconds"] for way in WAYS},
        "cpu_seconds_ratio": {way: best[way]["cpu_seconds"] / best["one_thread"]["cpu_seconds"] for way in WAYS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    add_output(parser)
    parser.add_argument("--worker", nargs=4, metavar=("SONGS", "OUTPUT", "MODEL", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        songs, output, model, num_threads = arguments.worker
        embed_as_worker(Path(songs), Path(output), Path(model), int(num_threads))
        return
    load, models = measure_load(parser, arguments), {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            models[name] = measure(name, Path(folder), arguments.rounds)
    result = {
        "command": "python tests/benchmarks/bench_embed_processes.py",
        "num_cores": os.cpu_count(),
        "num_rounds": arguments.rounds,
        "models": models,
    }
    print(json.dumps(result, indent=2))
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
