"""
What reading ahead is worth: the same songs scored with decoding in a background thread and without.

    python tests/benchmarks/compare_read_ahead.py --output tests/benchmarks/results/read_ahead.json

The six synthetic sample songs, brought to the ways in which songs come, are scored several times over by the pipeline,
with and without `read_ahead` in turn, in one process. What is written: the median over rounds of the seconds of each
way, on the clock and of the processor, and of the ratio within a round; beside it what perfect overlap would reach,
from how long decoding alone takes. Reports are compared for equality. Ratios on the clock mean something only where a
core is free for the thread: the load of the machine at the start is written too.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from machine_load import add_output, measure_load, write_result

from modeling_apex import load_audio, load_pipeline
from modeling_apex.inference.report_apex import format_table

REPOSITORY = Path(__file__).parent.parent.parent
SAMPLES = sorted((REPOSITORY / "spaces_demo" / "samples").glob("*.ogg"))
# Name of a case: suffix of the file and the rate that it is stored at, in hertz.
CASES: Mapping[str, tuple[str, int]] = {
    "flac at 24000 Hz": (".flac", 24_000),
    "flac at 44100 Hz": (".flac", 44_100),
    "mp3 at 44100 Hz": (".mp3", 44_100),
    "ogg at 48000 Hz": (".ogg", 48_000),
}


def write_songs(folder: Path, suffix: str, rate: int, num_copies: int) -> list[str]:
    """Write the sample songs in one format; copies are the same file again."""
    songs = []
    for sample in SAMPLES:
        path = folder / f"{sample.stem}-{rate}{suffix}"
        soundfile.write(path, load_audio(sample, target_rate=rate), rate)
        songs.append(str(path))
    return songs * num_copies


def time_call(function: Any, *arguments: Any, **options: Any) -> tuple[float, float, Any]:
    """Return seconds on the clock, seconds of the processor in all threads, and the result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function(*arguments, **options)
    return time.perf_counter() - clock, time.process_time() - processor, result


def decode_all(scorer: Any, songs: Sequence[str]) -> None:
    for song in songs:
        for _ in scorer.preprocess(song):
            pass


def compare_case(scorer: Any, songs: Sequence[str], num_rounds: int) -> dict[str, Any]:
    """Score songs both ways in turn, and decode them alone."""
    rounds = []
    for _ in range(num_rounds):
        without, cpu_without, expected = time_call(scorer, songs, read_ahead=False)
        ahead, cpu_ahead, reports = time_call(scorer, songs, read_ahead=True)
        if reports != expected:
            raise RuntimeError("reports differ between reading ahead and not: the comparison is void.")
        decoding, cpu_decoding, _ = time_call(decode_all, scorer, songs)
        # From processor seconds, which other programs disturb least.
        bound = cpu_without / max(cpu_decoding, cpu_without - cpu_decoding)
        rounds.append(
            {
                "seconds_without": without,
                "seconds_ahead": ahead,
                "seconds_decoding": decoding,
                "cpu_seconds_without": cpu_without,
                "cpu_seconds_ahead": cpu_ahead,
                "cpu_seconds_decoding": cpu_decoding,
                "speedup": without / ahead,
                "speedup_of_perfect_overlap": bound,
            }
        )
    return {key: statistics.median(row[key] for row in rounds) for key in rounds[0]}


def compare_read_ahead(num_copies: int, num_rounds: int) -> dict[str, Any]:
    """Compare all cases with apex-tiny on the CPU."""
    torch.set_num_threads(1)  # as many threads for the model as there are cores would leave none free
    scorer = load_pipeline(device="cpu")
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (suffix, rate) in CASES.items():
            songs = write_songs(Path(folder), suffix, rate, num_copies)
            scorer(songs[: len(SAMPLES)])  # the first songs import decoders and build filters
            cases[name] = compare_case(scorer, songs, num_rounds)
    return {
        "command": "python tests/benchmarks/compare_read_ahead.py",
        "model": "apex-tiny",
        "num_songs": len(SAMPLES) * num_copies,
        "num_rounds": num_rounds,
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "cases": cases,
    }


def format_result(result: Mapping[str, Any]) -> str:
    columns = (
        "seconds_without",
        "seconds_ahead",
        "cpu_seconds_without",
        "cpu_seconds_ahead",
        "cpu_seconds_decoding",
        "speedup",
        "speedup_of_perfect_overlap",
    )
    rows = [[name, *(f"{case[column]:.2f}" for column in columns)] for name, case in result["cases"].items()]
    header = ["songs", "s without", "s ahead", "CPU s without", "CPU s ahead", "CPU s decoding", "speedup", "perfect"]
    return format_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=4, help="times that each sample song is scored a round")
    parser.add_argument("--rounds", type=int, default=5)
    add_output(parser)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    result = compare_read_ahead(arguments.copies, arguments.rounds)
    print(format_result(result))
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
