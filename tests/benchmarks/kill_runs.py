"""
Kill the commands without warning at random moments, and compare what is left at the end.

    python tests/benchmarks/kill_runs.py --kills 50 --output tests/benchmarks/results/kills.json

Each command first runs undisturbed. Then the same command is started again and again on one output, killed by SIGKILL,
and started again, until it ends by itself; what it wrote is compared with the peaceful run: rows lost, rows there
twice, hash of the files. Then the next output, until there were enough kills. A kill comes after a random share of the
time that the undisturbed run took; three of four times the clock starts with the first change of its output, so that
the kill hits the writing. Ctrl-C and SIGTERM are tried in the same way. At last a kill comes right before each of the
moments at which something gets its name. After every kill, what bears its final name must be whole. Processes are
forked from one that has imported everything: a kill hits work, not imports. What is published goes to a Hub on the
loopback. With `--resume`, commands that the result file knows already are passed over.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import kill_jobs  # noqa: F401  # before torch: it sets the number of threads, and where modules are found
import torch
import transformers
from kill_jobs import BUILDERS, TEMPORARY_NAME, Job, list_all

from modeling_apex.storage.stop_signals import StopSignals

from small_model import build_small_model

# What follows the kills, each with what is counted of it.
STOPS = {signal.SIGINT: "interrupts", signal.SIGTERM: "terminations"}
LEFTOVERS = (".lock", ".writing", ".partial", ".part", ".old", ".build")
# What must not be found; the last one are folders that bear their final name and are not whole.
FAULTS = ("rows_lost", "rows_twice", "other_hash", "leftovers", "half_folders")
# How many of the stops count from the first change of the output.
FROM_OUTPUT = 0.75


@dataclass(frozen=True)
class Stop:
    """A signal to a run, so many seconds after its start or after the first change of its output."""

    seconds: float
    number: int = signal.SIGKILL
    is_from_output: bool = False


@dataclass(frozen=True)
class Run:
    """How a run ended, and its seconds up to the first change of its output and after it."""

    status: int
    before: float
    after: float


def take_stock(place: Path) -> set[tuple[Path, int]]:
    """Note the files that a run has written so far, and when each changed; locks are no output."""
    found = set()
    for folder, _, names in os.walk(place):
        for path in (Path(folder, name) for name in names if not name.endswith(".lock")):
            with contextlib.suppress(OSError):  # it got another name meanwhile
                found.add((path, path.stat().st_mtime_ns))
    return found


def take_stops_when_handled() -> None:
    """Let signals that are held back since the fork come once this process handles them, whenever that is."""
    install = StopSignals.install

    def install_and_take(signals: StopSignals) -> None:
        install(signals)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    StopSignals.install = install_and_take  # type: ignore[method-assign]


def run_in_fork(run: Callable[[], int], log: Path, place: Path, stop: Stop | None = None) -> Run:
    """Run in a process of its own that writes below a place, and maybe stop it."""
    stock = take_stock(place)
    start = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # before the fork: a stop may come at once
    process = os.fork()
    if process == 0:
        status = 99
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
        take_stops_when_handled()
        torch.set_num_threads(2)  # segments side by side; the parent has one thread, as a fork leaves others behind
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            status = run()
        except BaseException:
            logging.exception("the command failed")
        finally:
            sys.stdout.flush()
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    begin = None
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        now = time.monotonic()
        if begin is None and (ended or take_stock(place) != stock):
            begin = now
        if ended:
            return Run(os.waitstatus_to_exitcode(status), begin - start, now - begin)
        origin = begin if stop is not None and stop.is_from_output else start
        if stop is not None and origin is not None and now >= origin + stop.seconds:
            os.kill(process, stop.number)
            stop = None
        time.sleep(0.002 if begin is not None else 0.005)


def choose_stop(number: int, peaceful: Run, moments: random.Random) -> Stop:
    """Choose when a run is stopped."""
    if moments.random() < FROM_OUTPUT:
        return Stop(moments.uniform(0, peaceful.after), number, is_from_output=True)
    return Stop(moments.uniform(0.0, peaceful.before + peaceful.after), number)


def die_at_rename(run: Callable[[], int], rename: int, counted: Path) -> int:
    """Run, die right before the nth time that a file or a folder gets its name, and count these times."""
    found = count(1)

    def look(event: str, _: object) -> None:
        if event == "os.rename":
            if (number := next(found)) == rename:
                os.kill(os.getpid(), signal.SIGKILL)
            counted.write_text(str(number))

    sys.addaudithook(look)
    return run()


class Trial:
    """
    The runs of one job, and what is counted of them.

    Args:
        job ([`Job`]): The job.
        folder (`Path`): Where its runs write.
    """

    def __init__(self, job: Job, folder: Path):
        self.job, self.folder, self.log = job, folder, folder / "log"
        self.output = folder / "peaceful" / "out"
        self.output.parent.mkdir(parents=True)
        warm = folder / "warm" / "out"
        warm.parent.mkdir()
        run_in_fork(lambda: job.run(warm), self.log, warm.parent)  # the first run fills caches of the file system
        self.num_renames = folder / "renames"
        self.peaceful = self._run(lambda: die_at_rename(lambda: job.run(self.output), 0, self.num_renames))
        if self.peaceful.status != 0:
            raise RuntimeError(
                f"the undisturbed run ended with {self.peaceful.status}:\n{self.log.read_text()[-3000:]}"
            )
        self.expected, self.rows = job.compute_hash(self.output), Counter(job.list_rows(self.output))
        self.folders = self._list_whole()
        names = ("kills", "kills_after_first_output", *STOPS.values(), "kills_at_renames", "finished_runs", "starts")
        self.counts = dict.fromkeys(names, 0) | {"rows_per_run": self.rows.total(), **dict.fromkeys(FAULTS, 0)}

    def _run(self, run: Callable[[], int], stop: Stop | None = None) -> Run:
        return run_in_fork(run, self.log, self.output.parent, stop)

    def _list_whole(self) -> dict[str, set[str]]:
        found = {
            str(folder.relative_to(self.output.parent)): {f"{each.relative_to(folder)}" for each in list_all(folder)}
            for folder in self.job.list_folders(self.output)
        }
        return {name: names for name, names in found.items() if names - {".lock"}}

    def _look_at_killed(self) -> bool:
        """Count folders that bear their name and are not whole; tell whether anything was written."""
        for name, names in self._list_whole().items():
            self.counts["half_folders"] += names - {".lock"} != self.folders[name]
        return bool(take_stock(self.output.parent))

    def stop_until_done(self, choose: Callable[[], tuple[int, Callable[[], int], Stop | None]]) -> None:
        """Start a new output, and stop the command and start it again until it ends; then compare."""
        self.output = self.folder / "killed" / "out"
        self.output.parent.mkdir(parents=True)
        while True:
            number, run, stop = choose()
            status = self._run(run, stop).status
            self.counts["starts"] += 1
            if status == 0:
                break
            if status == -signal.SIGKILL:
                name = "kills" if stop is not None else "kills_at_renames"
                self.counts[name] += 1
                self.counts["kills_after_first_output"] += self._look_at_killed() and name == "kills"
            elif number in STOPS and status == 128 + number:
                self.counts[STOPS[signal.Signals(number)]] += 1
            else:
                raise RuntimeError(f"a run that was taken up ended with {status}:\n{self.log.read_text()[-3000:]}")
        found = Counter(self.job.list_rows(self.output))
        self.counts["rows_lost"] += (self.rows - found).total()
        self.counts["rows_twice"] += (found - self.rows).total()
        self.counts["other_hash"] += self.job.compute_hash(self.output) != self.expected
        shutil.rmtree(self.output.parent / TEMPORARY_NAME, ignore_errors=True)
        self.counts["leftovers"] += sum(path.name.endswith(LEFTOVERS) for path in self.output.parent.rglob("*"))
        self.counts["finished_runs"] += 1
        shutil.rmtree(self.output.parent)


def measure_job(job: Job, folder: Path, num_kills: int, num_stops: int, moments: random.Random) -> dict[str, object]:
    """Kill a job, and stop it as Ctrl-C and SIGTERM do, until there was enough of each; see the module."""
    trial = Trial(job, folder)
    wanted = {signal.SIGKILL: ("kills", num_kills)} | {each: (name, num_stops) for each, name in STOPS.items()}

    def choose() -> tuple[int, Callable[[], int], Stop | None]:
        # What is handled comes last.
        number = next((each for each, (name, enough) in wanted.items() if trial.counts[name] < enough), 0)
        stop = choose_stop(number, trial.peaceful, moments) if number else None
        return number, lambda: job.run(trial.output), stop

    while any(trial.counts[name] < number for name, number in wanted.values()):
        trial.stop_until_done(choose)
    num_renames = int(trial.num_renames.read_text()) if trial.num_renames.is_file() else 0
    num_tried = min(num_renames, max(num_kills // 5, 1))
    for number in range(num_tried):  # spread over all of them, the last included
        rename = num_renames - number * num_renames // num_tried
        runs = iter([lambda rename=rename: die_at_rename(lambda: job.run(trial.output), rename, folder / "unused")])
        trial.stop_until_done(lambda runs=runs: (0, next(runs, lambda: job.run(trial.output)), None))
    seconds = trial.peaceful.before + trial.peaceful.after
    return {"seconds_in_peace": round(seconds, 2), "seconds_of_output": round(trial.peaceful.after, 2), **trial.counts}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; the status is 1 if any run ended with other rows or other bytes."""
    parser = argparse.ArgumentParser(description="Kill commands at random moments and compare what is left.")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="kills of each command (%(default)s)")
    parser.add_argument(
        "--interrupts", type=int, default=10, metavar="N", help="Ctrl-C and SIGTERM of each (%(default)s)"
    )
    parser.add_argument("--commands", nargs="+", choices=BUILDERS, default=BUILDERS, help="which (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="pass over commands that the result file knows")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    command = f"python tests/benchmarks/kill_runs.py --kills {options.kills} --interrupts {options.interrupts}"
    content = {"command": command, "seed": options.seed, "commands": {}}
    if options.resume and options.output and options.output.is_file():
        found = json.loads(options.output.read_text(encoding="utf-8"))
        if (found["command"], found["seed"]) == (command, options.seed):
            content = found
    results = content["commands"]
    with tempfile.TemporaryDirectory(prefix="apex-kills-") as place:
        model = Path(place) / "model"
        build_small_model().save_pretrained(model)
        for name in (each for each in options.commands if each not in results):
            folder = Path(place) / name
            folder.mkdir()
            job = BUILDERS[name](folder, model)
            results[name] = measure_job(
                job, folder, options.kills, options.interrupts, random.Random(f"{options.seed} {name}")
            )
            print(name, json.dumps(results[name]), flush=True)
            if options.output:
                options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return int(any(result[fault] for result in results.values() for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
