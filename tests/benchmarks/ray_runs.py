"""
Kill workers, nodes and the driver of a corpus on Ray at random moments, and compare what is left at the end.

    python tests/benchmarks/ray_runs.py --runs 20 --output tests/benchmarks/results/ray.json

A cluster of two nodes of this machine scores synthetic songs of 1 s to 10 min, one of 60 min among them and broken
ones. First one process scores them, then the cluster with one worker and no kills: what all processes of Ray compute
beyond the one is the overhead, in CPU seconds, which depend less on what else runs than those of a clock. Then each
run loses a worker, a node and the driver, in random order, each within a quarter of the time that one worker needed;
the node comes back as a new one, and the driver is started again until it ends by itself. Rows are compared with those
of the one process. With `--resume`, what the result file knows is kept and the runs that are missing are made; each
says how busy the machine was when it began. Nothing is killed that does not bear the mark of this command in its
environment.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from modeling_apex.corpus.ray_data import import_ray
from modeling_apex.corpus.ray_job import score_table
from modeling_apex.corpus.scored_tables import SongTableScorer

from small_model import build_small_model

NUM_BROKEN = 12
SAMPLING_RATE = 24_000
SONGS_PER_BLOCK = 8
NUM_ACTORS = 2
MARK = "APEX_RAY_RUNS"
FAULTS = ("rows_lost", "rows_twice", "rows_other")
PATIENCE = 900.0  # seconds after which a driver hangs


def build_world(folder: Path, num_songs: int, longest_seconds: float) -> None:
    """Write a model, songs and their table; most songs are short, the last one is the longest."""
    build_small_model(segment_seconds=10.0, conv_stride=(20, 20)).save_pretrained(folder / "model")
    generator = np.random.default_rng(0)
    seconds = 1 + 599 * generator.random(num_songs - NUM_BROKEN) ** 30
    seconds[-1] = longest_seconds
    noise = generator.uniform(-0.5, 0.5, size=60 * SAMPLING_RATE)
    names = []
    for number, length in enumerate(seconds):
        names.append(f"{number:03d}.wav")
        wave = np.resize(np.roll(noise, number * 997), int(length * SAMPLING_RATE))
        soundfile.write(folder / names[-1], wave, SAMPLING_RATE, subtype="PCM_U8")
    for number in range(NUM_BROKEN):
        names.append(f"broken-{number}.mp3")
        (folder / names[-1]).write_bytes(f"no music {number}".encode() * 100)
    order = generator.permutation(len(names))
    paths = [str(folder / names[position]) for position in order]
    pq.write_table(pa.table({"id": [Path(path).stem for path in paths], "uri": paths}), folder / "songs.parquet")


def read_rows(files: Sequence[Path]) -> Counter:
    """Count rows, each as its JSON."""
    return Counter(json.dumps(row, sort_keys=True) for path in files for row in pq.read_table(path).to_pylist())


def drive(world: Path, output: Path, address: str, num_actors: int) -> int:
    """Be the driver: score the table on the cluster."""
    score_table(
        world / "songs.parquet",
        output,
        world / "model",
        address=address,
        num_actors=num_actors,
        songs_per_block=SONGS_PER_BLOCK,
        device="cpu",
    )
    return 0


def score_alone(world: Path, output: Path) -> int:
    """Be the one process that the cluster is compared with."""
    pq.write_table(SongTableScorer(world / "model", device="cpu")(pq.read_table(world / "songs.parquet")), output)
    return 0


def list_marked(mark: str, name: bytes = b"") -> list[int]:
    """List the processes that this command started, by the mark in their environment and the start of their name."""
    found = []
    for process in (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()):
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{process}/environ").read_bytes()
            line = Path(f"/proc/{process}/cmdline").read_bytes()
            if f"{MARK}={mark}".encode() in environment and line.startswith(name) and process != os.getpid():
                found.append(process)
    return found


class Fleet:
    """Two nodes of this machine, and the driver of one run on them."""

    def __init__(self, ray: Any, mark: str):
        from ray.cluster_utils import Cluster

        self._options = {"num_cpus": 2, "object_store_memory": 80 * 1024**2}
        self.mark = mark
        self.cluster = Cluster(initialize_head=True, head_node_args={**self._options, "include_dashboard": False})
        self.node = self.cluster.add_node(**self._options)

    def start(self, world: Path, output: Path, num_actors: int, log: Path) -> subprocess.Popen:
        words = [sys.executable, __file__, "--drive", str(world), str(output), self.cluster.address, str(num_actors)]
        with log.open("ab") as file:
            return subprocess.Popen(words, stdout=file, stderr=file)

    def kill_worker(self, moments: random.Random, driver: subprocess.Popen) -> bool:
        """Kill a worker as soon as there is one; tell whether there was before the driver ended."""
        workers = list_marked(self.mark, b"ray::MapWorker")
        while not workers and wait(driver, 0.2) is None:
            workers = list_marked(self.mark, b"ray::MapWorker")
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(moments.choice(sorted(workers)), signal.SIGKILL)
        return bool(workers)

    def replace_node(self) -> bool:
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = self.cluster.add_node(**self._options)
        return True

    def stop(self) -> None:
        self.cluster.shutdown()
        for process in list_marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def read_cpu_seconds(process: int) -> float:
    """Read what a process has computed; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def wait(driver: subprocess.Popen, seconds: float) -> int | None:
    """Wait for a driver for so long; return its status, or `None` if it still runs."""
    try:
        return driver.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def run_once(fleet: Fleet, world: Path, folder: Path, seconds: float, moments: random.Random) -> dict[str, Any]:
    """Score the songs once while a worker, a node and the driver die; return what was killed and how it ended."""
    output, log = folder / "out", folder / "log"
    victims = ["worker", "node", "driver"]
    moments.shuffle(victims)
    counts: dict[str, Any] = {"killed_workers": 0, "killed_nodes": 0, "killed_drivers": 0, "starts": 1}
    begin = time.monotonic()
    driver = fleet.start(world, output, NUM_ACTORS, log)
    status = None
    for victim in victims:
        status = wait(driver, moments.uniform(0.05, 0.25) * seconds)
        if status is not None:
            break
        if victim == "worker":
            counts["killed_workers"] += fleet.kill_worker(moments, driver)
        elif victim == "node":
            counts["killed_nodes"] += fleet.replace_node()
        else:
            driver.kill()
            driver.wait()
            counts["killed_drivers"] += 1
            counts["starts"] += 1
            driver = fleet.start(world, output, NUM_ACTORS, log)
    status = wait(driver, PATIENCE) if status is None else status
    if status != 0:
        driver.kill()
        raise RuntimeError(f"the driver ended with {status}:\n{log.read_text(errors='replace')[-3000:]}")
    return counts | {"seconds": round(time.monotonic() - begin, 1)}


def compare(expected: Counter, output: Path) -> dict[str, int]:
    """Count rows that are missing, there twice, or others than one process makes."""
    found = read_rows(sorted(output.glob("*.parquet")))
    ids = Counter(json.loads(row)["id"] for row in found.elements())
    wanted = {json.loads(row)["id"] for row in expected}
    return {
        "rows_lost": len(wanted - ids.keys()),
        "rows_twice": sum(number - 1 for number in ids.values()),
        "rows_other": sum(row not in expected for row in found),
    }


def score_in_one_process(world: Path, output: Path) -> dict[str, float]:
    """Score in one process; return what it took."""
    begin, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, __file__, "--alone", str(world), str(output)], check=True)
    after = os.times()
    cpu_seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "one_process_seconds": round(time.monotonic() - begin, 1),
        "one_process_cpu_seconds": round(cpu_seconds, 1),
    }


def score_in_peace(fleet: Fleet, world: Path, folder: Path) -> dict[str, float]:
    """Score on the cluster with one worker; return what it and all of Ray took."""
    begin = time.monotonic()
    before = {process: read_cpu_seconds(process) for process in list_marked(fleet.mark)}
    driver = fleet.start(world, folder / "out", 1, folder / "log")
    computed: dict[int, float] = {}
    while (status := wait(driver, 0.5)) is None and time.monotonic() < begin + PATIENCE:
        for process in list_marked(fleet.mark):
            computed[process] = max(computed.get(process, 0.0), read_cpu_seconds(process))
    if status != 0:
        raise RuntimeError(f"the driver ended with {status}:\n{(folder / 'log').read_text(errors='replace')[-3000:]}")
    cpu_seconds = sum(seconds - before.get(process, 0.0) for process, seconds in computed.items())
    return {
        "one_worker_seconds": round(time.monotonic() - begin, 1),
        "one_worker_cpu_seconds": round(cpu_seconds, 1),
    }


def run_all(options: argparse.Namespace, content: dict[str, Any], save: Callable[[], None]) -> None:
    """Make the runs that are missing."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ray = import_ray()
    with tempfile.TemporaryDirectory(prefix="apex-ray-runs-") as place:
        world = Path(place) / "world"
        world.mkdir()
        build_world(world, options.songs, options.longest_seconds)
        fleet = Fleet(ray, mark)
        try:
            folder = Path(place) / "peace"
            folder.mkdir()
            alone, load = score_in_one_process(world, folder / "alone.parquet"), os.getloadavg()[0]
            expected = read_rows([folder / "alone.parquet"])
            if "peace" not in content:
                peace = {"load": round(load, 1), **alone, **score_in_peace(fleet, world, folder)}
                overhead = (peace["one_worker_cpu_seconds"] - peace["one_process_cpu_seconds"]) / options.songs
                peace["overhead_cpu_seconds_per_song"] = round(overhead, 3)
                content["peace"] = peace | compare(expected, folder / "out")
                print(json.dumps(content["peace"]), flush=True)
                save()
            for number in range(len(content["runs"]), options.runs):
                folder = Path(place) / f"run-{number}"
                folder.mkdir()
                moments = random.Random(f"{options.seed} {number}")
                load = os.getloadavg()[0]
                run = run_once(fleet, world, folder, content["peace"]["one_worker_seconds"], moments)
                content["runs"].append({"load": round(load, 1), **run, **compare(expected, folder / "out")})
                print(json.dumps(content["runs"][-1]), flush=True)
                save()
        finally:
            fleet.stop()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; the status is 1 if a row was lost, there twice or another."""
    parser = argparse.ArgumentParser(description="Kill workers, nodes and drivers of a corpus on Ray.")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="runs with kills (%(default)s)")
    parser.add_argument("--songs", type=int, default=300, metavar="N", help="songs, broken ones too (%(default)s)")
    parser.add_argument(
        "--longest-seconds", type=float, default=3600.0, metavar="S", help="the longest song (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="keep the runs that the result file has")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.drive:
        world, output, address, num_actors = options.drive
        return drive(Path(world), Path(output), address, int(num_actors))
    if options.alone:
        return score_alone(*map(Path, options.alone))
    content: dict[str, Any] = {
        "command": f"python tests/benchmarks/ray_runs.py --runs {options.runs}",
        "num_songs": options.songs,
        "num_broken": NUM_BROKEN,
        "longest_seconds": options.longest_seconds,
        "seed": options.seed,
        "runs": [],
    }
    if options.resume and options.output and options.output.is_file():
        found = json.loads(options.output.read_text(encoding="utf-8"))
        if all(found[name] == content[name] for name in ("num_songs", "longest_seconds", "seed")):
            content |= {name: found[name] for name in ("peace", "runs") if name in found}

    def save() -> None:
        if options.output:
            options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    run_all(options, content, save)
    return int(any(run[fault] for run in [content["peace"], *content["runs"]] for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
