"""
Run the fuzz target for a bounded time and write what it did as JSON: executions, coverage, crashes.

    python tests/fuzz/run_fuzz.py --seconds 300 --output tests/benchmarks/results/fuzz.json

It starts from a fifth of a second of a sample song in every format that this package reads. The inputs that reach new
code are kept in `build/fuzz`, so the next run goes on from there; an input that fails is kept there too, and named.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile_corpus import build_clips

REPOSITORY = Path(__file__).parent.parent.parent
TARGET = Path(__file__).parent / "fuzz_audio.py"
HANG_SECONDS = 30
MEMORY_LIMIT_MB = 1024
MAX_INPUT_BYTES = 65_536


def run_fuzzer(folder: Path, seconds: int, seed: int) -> dict[str, Any]:
    """Fuzz for a number of seconds; return counts."""
    seeds, found, faults = folder / "seeds", folder / "corpus", folder / "faults"
    for place in (seeds, found, faults):
        place.mkdir(parents=True, exist_ok=True)
    clips = build_clips(0.2)
    for ending, clip in clips.items():
        (seeds / f"clip.{ending}").write_bytes(clip + b"\x00")
    before = set(faults.iterdir())
    command = [
        *(sys.executable, str(TARGET), str(found), str(seeds)),
        *(f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={MAX_INPUT_BYTES}", f"-timeout={HANG_SECONDS}"),
        *(f"-rss_limit_mb={MEMORY_LIMIT_MB}", f"-artifact_prefix={faults}/", "-print_final_stats=1"),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, check=False, text=True, errors="replace")
    (folder / "log.txt").write_text(done.stderr, encoding="utf-8")
    new_faults = sorted(path.name for path in set(faults.iterdir()) - before)
    states = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr)
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    coverage, features, corpus = map(int, states[-1]) if states else (0, 0, 0)
    return {
        "seconds": seconds,
        "seed": seed,
        "num_seed_files": len(clips),
        "executions": int(stats.get("number_of_executed_units", 0)),
        "coverage_points": coverage,
        "coverage_features": features,
        "corpus_files": corpus,
        "peak_megabytes": int(stats.get("peak_rss_mb", 0)),
        "exit_status": done.returncode,
        "crashes": sum(name.startswith("crash") for name in new_faults),
        "hangs": sum(name.startswith(("timeout", "slow")) for name in new_faults),
        "out_of_memory": sum(name.startswith("oom") for name in new_faults),
        "fault_files": new_faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz decoding, resampling, splitting and the feature extractor.")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "fuzz")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    result = run_fuzzer(arguments.folder, arguments.seconds, arguments.seed)
    limits = {"hang_seconds": HANG_SECONDS, "memory_megabytes": MEMORY_LIMIT_MB, "max_input_bytes": MAX_INPUT_BYTES}
    result = {
        "command": "python tests/fuzz/run_fuzz.py --output tests/benchmarks/results/fuzz.json",
        "what": "atheris over bytes and arrays: decode, resample, split, feature extractor",
        "limits": limits,
        **result,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 1 if result["fault_files"] or result["exit_status"] else 0


if __name__ == "__main__":
    sys.exit(main())
