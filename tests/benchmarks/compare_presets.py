"""
The preset `improved` against `published`, and all heads against popularity alone, on the same embeddings and seeds.

    python tests/benchmarks/compare_presets.py embeddings/apex-tiny --output compare_presets.json

Each condition trains once a seed and is measured on one split. What is written: Spearman per condition, averaged over
the popularity scores and over the aesthetic ones, each with its mean and 95 % t interval over seeds, and the same for
the differences between conditions, paired by seed.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from modeling_apex.inference.heads_apex import DEFAULT_HEADS
from modeling_apex.inference.report_apex import format_table
from modeling_apex.training.arguments import build_arguments
from modeling_apex.training.evaluate import ALL_PLATFORMS, evaluate_model
from modeling_apex.training.train import train

CONDITIONS: Mapping[str, tuple[str, str]] = {
    "published": ("published", "full"),
    "improved": ("improved", "full"),
    "published, popularity only": ("published", "popularity"),
    "improved, popularity only": ("improved", "popularity"),
}
COMPARISONS = (
    ("improved", "published"),
    ("published", "published, popularity only"),
    ("improved", "improved, popularity only"),
)
GROUP_OF_HEAD = {str(head["name"]): str(head["group"]) for head in DEFAULT_HEADS}


def measure_run(embeddings: Path, folder: Path, preset: str, task: str, seed: int, split: str) -> dict[str, float]:
    """Train once and return Spearman of every score and the mean of each group."""
    arguments = build_arguments(preset, task=task, seed=seed, batch_size=512, report_to="none")
    run = train(embeddings, folder, arguments)
    heads = evaluate_model(run.best, embeddings, splits=[split], num_draws=1)["splits"][split][ALL_PLATFORMS]
    # A score that is the same for every song ranks nothing.
    values = {name: result["spearman"]["value"] or 0.0 for name, result in heads.items()}
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(GROUP_OF_HEAD[name], []).append(value)
    return {**values, **{group: float(np.mean(members)) for group, members in groups.items()}}


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and 95 % t interval."""
    mean = float(np.mean(values))
    half = 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": list(values)}


def compare_presets(embeddings: Path, num_seeds: int, split: str) -> dict[str, Any]:
    """Train all conditions with all seeds."""
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (preset, task) in CONDITIONS.items():
            runs[name] = [
                measure_run(embeddings, Path(folder) / f"{preset}-{task}-{seed}", preset, task, seed, split)
                for seed in range(num_seeds)
            ]
    conditions = {
        name: {key: summarize([run[key] for run in measured]) for key in measured[0]}
        for name, measured in runs.items()
    }
    differences = {}
    for first, second in COMPARISONS:
        shared = [key for key in runs[first][0] if key in runs[second][0]]
        differences[f"{first} minus {second}"] = {
            key: summarize([one[key] - two[key] for one, two in zip(runs[first], runs[second], strict=True)])
            for key in shared
        }
    return {
        "embeddings": embeddings.name,
        "split": split,
        "num_seeds": num_seeds,
        "metric": "spearman",
        "conditions": conditions,
        "differences": differences,
    }


def format_comparison(result: Mapping[str, Any]) -> str:
    rows = []
    for name, groups in {**result["conditions"], **result["differences"]}.items():
        cells = [_format_interval(groups[key]) if key in groups else "-" for key in ("popularity", "aesthetics")]
        rows.append([name, *cells])
    return format_table(["Spearman, mean over seeds", "popularity", "aesthetics"], rows)


def _format_interval(summary: Mapping[str, Any]) -> str:
    return f"{summary['mean']:.3f} [{summary['low']:.3f}, {summary['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path, help="folder written by apex-music embed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", default="test")
    parser.add_argument("--output", help="write the result as JSON")
    arguments = parser.parse_args()
    result = compare_presets(arguments.embeddings, arguments.seeds, arguments.split)
    print(format_comparison(result))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
