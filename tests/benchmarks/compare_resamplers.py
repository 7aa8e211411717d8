"""
Measure what the choice of resampler does to scores.

The sample songs are rendered at 44,100 and 48,000 Hz, where resampling has work to do, and scored behind the published
filter and behind soxr. Result: tests/benchmarks/results/resamplers.json, the source of the table in README.md.

    python tests/benchmarks/compare_resamplers.py [--model M]
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from machine_load import add_output, measure_load, write_result

from datasets_scripts.synthetic import render_song
from datasets_scripts.synthetic.samples import build_sample_specs
from modeling_apex import load_pipeline

RESULT = Path(__file__).parent / "results" / "resamplers.json"
RATES = (44_100, 48_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder or Hub id (default: the embedded demonstration model)")
    add_output(parser, RESULT)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    scorer = load_pipeline(arguments.model)
    rows = []
    for spec in build_sample_specs().values():
        for rate in RATES:
            song = {"array": render_song(dataclasses.replace(spec, sampling_rate=rate)), "sampling_rate": rate}
            scores = {method: scorer(song, resampler=method)["scores"] for method in ("sinc", "soxr")}
            rows.append({name: abs(scores["sinc"][name] - scores["soxr"][name]) for name in scores["sinc"]})
    result = {
        "command": "python tests/benchmarks/compare_resamplers.py",
        "model": scorer.model_id,
        "songs": f"the {len(rows) // len(RATES)} synthetic sample songs, rendered at {RATES[0]} and {RATES[1]} Hz",
        "difference": {
            name: {
                "mean": float(np.mean([row[name] for row in rows])),
                "largest": float(np.max([row[name] for row in rows])),
            }
            for name in rows[0]
        },
    }
    write_result(arguments, result, load)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
