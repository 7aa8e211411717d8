"""
Peak memory of building training songs from metadata tables of growing size.

Run as `python tests/benchmarks/measure_build_memory.py 100000 1000000 10000000`. Tables are made on the fly as
JSONL.zst, and each build runs in a process of its own, so that one build's peak is not the other's. The peak counts
every resident page of the process, those of mapped files among them; the second peak, sampled, is what the process
allocated. Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import zstandard
from machine_load import add_output, measure_load, write_result

BUILD = """
import json, resource, sys, threading
from datasets_scripts.build import main

def read_memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) // 1024

def watch():
    while not is_over.wait(0.02):
        anonymous.append(read_memory("RssAnon:"))

before, anonymous, is_over = read_memory("VmHWM:"), [read_memory("RssAnon:")], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
status = main(sys.argv[1:])
is_over.set()
watcher.join()
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "status": status,
    "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    "megabytes_after_import": before,
    "megabytes_peak": read_memory("VmHWM:"),
    "megabytes_peak_without_mapped_files": max(anonymous),
}))
"""


def save_table(path: Path, num_rows: int) -> None:
    """Write a table of song objects with about a kilobyte of text each."""
    with open(path, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as stream:
        for number in range(num_rows):
            row = {
                "id": f"{number:032x}",
                "title": f"Song {number}",
                "created_at": "2025-03-01T12:00:00.000Z",
                "play_count": 1 + (number * 7919) % 100_003,
                "upvote_count": (number * 104_729) % 5003,
                "user_id": f"user-{number // 5}",
                "metadata": {
                    "prompt": f"words of song {number} " * 40,
                    "gpt_description_prompt": f"a song about {number // 2}",
                    "duration": 120.0,
                    "has_vocal": number % 3 > 0,
                },
            }
            stream.write(json.dumps(row).encode() + b"\n")


def measure_build(num_rows: int) -> dict[str, float]:
    """Build a table of `num_rows` songs without audio in a fresh process, and tell its peak memory in megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        table, output = Path(folder, "songs.jsonl.zst"), Path(folder, "out")
        save_table(table, num_rows)
        arguments = ["training", "--source", str(table), "none", "suno", "--output", str(output)]
        done = subprocess.run([sys.executable, "-c", BUILD, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return {"num_rows": num_rows, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rows", nargs="*", type=int, default=[100_000, 1_000_000, 10_000_000], help="rows of each table"
    )
    add_output(parser)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    result = {
        "command": f"python tests/benchmarks/measure_build_memory.py {' '.join(map(str, arguments.rows))}",
        "tables": [measure_build(num_rows) for num_rows in arguments.rows],
    }
    print(json.dumps(result, indent=2))
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
