"""
What this package makes of bad audio files, as JSON: how many were scored, how many refused, and by which error.

    python tests/benchmarks/hostile_audio.py --output tests/benchmarks/results/hostile_audio.json

Every case of `tests/hostile_corpus.py` goes through the pipeline's own way from a path to normalised segments (decode,
resample, split, feature extractor), and every fifth that gets there through the model as well. Cases run in a worker
process that is watched from outside: a worker that dies is a crash, one that computes for 30 s or waits for 120 s is a
hang (processor time, because other work on the machine slows the clock's), and the peak of its resident memory is read
after each case. The command line scores a folder of cases at the end.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile_corpus import HostileCase, build_clips, iterate_cases
from worker_process import WorkerProcess

HANG_SECONDS = 30.0  # of processor time
WAIT_SECONDS = 120.0  # of the clock
MEMORY_LIMIT_MB = 1024
SCORE_EVERY = 5
COMMAND_EVERY = 60
# What a refusal may be; anything else is an error that nobody planned.
REFUSALS = ("AudioError", "FileNotFoundError", "IsADirectoryError", "PermissionError")
FAULTS = ("crash", "hang", "memory", "not finite", "unexplained error", "unnamed error")


def work(connection: Any) -> None:
    """Score cases as they come, in a process of its own."""
    from modeling_apex.loading import load_pipeline

    scorer = load_pipeline()
    connection.send({"outcome": "ready", "megabytes": _read_peak_megabytes()})
    while (task := connection.recv()) is not None:
        _reset_peak()
        start = time.process_time()
        result = _run_case(scorer, *task)
        result["seconds"] = time.process_time() - start
        result["megabytes"] = _read_peak_megabytes()
        connection.send(result)


def _run_case(scorer: Any, path: str, is_scored: bool) -> dict[str, Any]:
    import torch

    try:
        num_segments = 0
        for item in scorer.preprocess(path):
            num_segments += 1
            if not torch.isfinite(item["input_values"]).all():
                return {"outcome": "not finite", "detail": "features"}
        if not is_scored:
            return {"outcome": "decoded", "num_segments": num_segments}
        report = scorer(path)
        numbers = [*report["scores"].values(), *report["percentiles"].values(), report["duration_seconds"]]
        if not all(math.isfinite(number) for number in numbers):
            return {"outcome": "not finite", "detail": "scores"}
        json.dumps(report, allow_nan=False)
        return {"outcome": "scored", "num_segments": num_segments}
    except Exception as error:
        kind = type(error).__name__
        if kind not in REFUSALS:
            return {"outcome": "unexplained error", "detail": traceback.format_exc()[-2000:]}
        if os.path.basename(path) not in str(error):
            return {"outcome": "unnamed error", "detail": f"{kind}: {error}"[:2000]}
        return {"outcome": "refused", "error": kind, "detail": str(error)}


def _reset_peak() -> None:
    # Linux: the peak of resident memory starts anew from what is resident now.
    Path("/proc/self/clear_refs").write_text("5")


def _read_peak_megabytes() -> float:
    match = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


class WatchedWorker(WorkerProcess):
    """A worker process that runs cases, and is replaced when it dies or hangs."""

    def __init__(self) -> None:
        super().__init__(work)
        self.baseline_megabytes = 0.0

    def start(self) -> None:
        """Start the process, and wait until it has loaded the model."""
        super().start()
        self.baseline_megabytes = self._connection.recv()["megabytes"]

    def _read_cpu_seconds(self) -> float:
        """Return the processor time of the worker so far, in seconds; 0 once it is gone."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, path: Path, is_scored: bool) -> dict[str, Any]:
        """Run one case to its result, whatever becomes of the worker."""
        self._connection.send((str(path), is_scored))
        start, cpu_start = time.monotonic(), self._read_cpu_seconds()
        cpu_seconds = seconds = 0.0
        while not self._connection.poll(1.0) and cpu_seconds < HANG_SECONDS and seconds < WAIT_SECONDS:
            cpu_seconds, seconds = self._read_cpu_seconds() - cpu_start, time.monotonic() - start
        if not self._connection.poll():
            result = {"outcome": "hang", "detail": f"no answer in {cpu_seconds:.0f} s of computing, {seconds:.0f} s"}
        else:
            try:
                received: dict[str, Any] = self._connection.recv()
                if received["megabytes"] > MEMORY_LIMIT_MB:
                    received |= {"outcome": "memory", "detail": f"{received['megabytes']:.0f} MB"}
                return received
            except EOFError:
                self._process.join()
                result = {"outcome": "crash", "detail": f"exit code {self._process.exitcode}"}
        self.end()
        self.start()
        return result


def run_cases(cases: Iterable[HostileCase], folder: Path, *, score_every: int = SCORE_EVERY) -> dict[str, Any]:
    """
    Run cases one after the other.

    Args:
        cases (`Iterable[HostileCase]`):
            The cases.
        folder (`Path`):
            Where to put their files; each is deleted after its turn.
        score_every (`int`, defaults to 5):
            Every how manieth case goes through the model too.

    Returns:
        `dict`: counts by kind and outcome, peaks, and one entry a fault.
    """
    counts: dict[str, Counter[str]] = {}
    faults = []
    peak_megabytes = peak_seconds = 0.0
    slowest = largest = ""
    num_cases = 0
    with WatchedWorker() as worker:
        baseline = worker.baseline_megabytes
        for number, case in enumerate(cases):
            place = folder / "case"
            place.mkdir()
            path = place / case.name
            case.place(path)
            result = worker.run(path, number % score_every == 0)
            shutil.rmtree(place)
            num_cases += 1
            outcome = result["outcome"]
            label = f"refused: {result['error']}" if outcome == "refused" else outcome
            counts.setdefault(case.kind, Counter())[label] += 1
            if outcome in FAULTS:
                faults.append({"kind": case.kind, "name": case.name, "outcome": outcome, "detail": result["detail"]})
            if result.get("megabytes", 0) > peak_megabytes:
                peak_megabytes, largest = result["megabytes"], case.name
            if result.get("seconds", 0) > peak_seconds:
                peak_seconds, slowest = result["seconds"], case.name
    totals = sum(counts.values(), Counter())
    return {
        "num_cases": num_cases,
        "outcomes": dict(sorted(totals.items())),
        "faults": {outcome: totals[outcome] for outcome in FAULTS},
        "fault_cases": faults,
        "worker_megabytes_before_first_case": round(baseline),
        "largest_megabytes": round(peak_megabytes),
        "largest_case": largest,
        "longest_processor_seconds": round(peak_seconds, 2),
        "longest_case": slowest,
        "by_kind": {kind: dict(sorted(count.items())) for kind, count in sorted(counts.items())},
    }


def run_command_line(cases: Iterable[HostileCase], folder: Path) -> dict[str, Any]:
    """Score a folder of cases by `apex-music score`; it must name every failure and score the rest."""
    songs, output = folder / "songs", folder / "reports.jsonl"
    songs.mkdir()
    for case in cases:
        case.place(songs / case.name)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "modeling_apex.cli", "score", str(songs), "--output", str(output)],
        capture_output=True,
        check=False,
    )
    reports = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] if output.exists() else []
    return {
        "num_files": len(reports),
        "scored": sum("error" not in report for report in reports),
        "failed": sum("error" in report for report in reports),
        "exit_status": done.returncode,
        "has_traceback": b"Traceback" in done.stderr,
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the corpus of bad audio files.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="run every n-th case only")
    arguments = parser.parse_args()
    start = time.perf_counter()
    cases = list(iterate_cases(build_clips()))[:: arguments.every]
    with tempfile.TemporaryDirectory() as folder:
        result = run_cases(cases, Path(folder))
        chosen = [*cases[::COMMAND_EVERY], *(case for case in cases if case.kind == "odd name")]
        command = run_command_line({case.name: case for case in chosen}.values(), Path(folder))
    result = {
        "command": "python tests/benchmarks/hostile_audio.py --output tests/benchmarks/results/hostile_audio.json",
        "what": "each case: path to normalised segments by the pipeline; every fifth also through apex-tiny",
        "limits": {
            "processor_seconds": HANG_SECONDS,
            "waiting_seconds": WAIT_SECONDS,
            "memory_megabytes": MEMORY_LIMIT_MB,
        },
        "seconds": round(time.perf_counter() - start),
        **result,
        "command_line": command,
    }
    arguments.output.write_text(json.dumps(result, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
    faults = {outcome: count for outcome, count in result["faults"].items() if count}
    print(f"{result['num_cases']} cases in {result['seconds']} s; faults: {faults or 'none'}; command line: {command}")
    return 1 if faults or command["has_traceback"] else 0


if __name__ == "__main__":
    sys.exit(main())
