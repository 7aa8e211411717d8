"""
What a second process is worth to `apex-music embed`: the same songs by one process and by two, in turns.

Songs are noise at the model's own rate, embedded by apex-tiny with one thread a process. Wall seconds of `embed_songs`
under `torchrun`, the least of several rounds; CPU seconds of all processes together say what sharing costs.

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

NUM_SONGS, SONG_SECONDS = 32, 60


def write_songs(folder: Path) -> None:
    """Write songs of noise."""
    import numpy as np
    import soundfile

    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(NUM_SONGS):
        noise = 0.1 * generator.standard_normal(SONG_SECONDS * 24_000, dtype=np.float32)
        soundfile.write(folder / f"{number:03d}.wav", noise, 24_000)


def embed_as_worker(folder: Path, output: Path) -> None:
    """Embed as one of the processes that `torchrun` starts, and leave the times beside the embeddings."""
    import torch

    torch.set_num_threads(1)
    from accelerate import PartialState

    from modeling_apex.registration import EMBEDDED_MODEL
    from modeling_apex.training.embed import embed_songs

    state = PartialState(cpu=True)
    state.wait_for_everyone()
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    summary = embed_songs(folder, output, EMBEDDED_MODEL, songs_per_shard=4)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert summary.num_songs == NUM_SONGS
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    (output.parent / f"{output.name}.{state.process_index}.json").write_text(json.dumps(times))


def run_processes(folder: Path, output: Path, num_processes: int) -> dict[str, float]:
    """Embed with a number of processes; wall seconds of the slowest, CPU seconds of all."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(num_processes)]
    command += [str(Path(__file__)), "--worker", str(folder), str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    times = [json.loads((output.parent / f"{output.name}.{rank}.json").read_text()) for rank in range(num_processes)]
    return {"seconds": max(row["seconds"] for row in times), "cpu_seconds": sum(row["cpu_seconds"] for row in times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="write the result as JSON")
    parser.add_argument("--worker", nargs=2, metavar=("SONGS", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        embed_as_worker(Path(arguments.worker[0]), Path(arguments.worker[1]))
        return
    rounds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_songs(folder / "songs")
        for number in range(arguments.rounds):
            for num_processes, times in rounds.items():
                times.append(run_processes(folder / "songs", folder / f"{num_processes}-{number}", num_processes))
    best: dict[int, dict[str, Any]] = {
        num_processes: {key: min(row[key] for row in times) for key in ("seconds", "cpu_seconds")}
        for num_processes, times in rounds.items()
    }
    result = {
        "command": "python tests/benchmarks/bench_embed_processes.py",
        "model": "apex-tiny",
        "songs": f"{NUM_SONGS} songs of noise, {SONG_SECONDS} s each",
        "num_cores": os.cpu_count(),
        "num_rounds": arguments.rounds,
        "load_before": os.getloadavg()[0],
        "one_process": best[1],
        "two_processes": best[2],
        "speed_up": best[1]["seconds"] / best[2]["seconds"],
        "cpu_seconds_ratio": best[2]["cpu_seconds"] / best[1]["cpu_seconds"],
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
