"""
The README of apex-tiny's folder: what the model is, and its results in words, with no number that is not in
`results.json`.
"""

from collections.abc import Mapping
from typing import Any

from modeling_apex.storage.markdown import build_table
from modeling_apex.training.tiny.evaluation import TITLES, find_missed_targets, format_number

INTRODUCTION = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: audio-classification
tags: [apex-music, music, popularity, aesthetics, synthetic-data]
---

# apex-tiny

A demonstration model: it lets `apex-music score` and `pipeline("apex-popularity")` run anywhere, offline \
and at once. It has only ever heard songs that a program rendered, so its scores say nothing about real \
music. For that, name the published weights: `amaai-lab/apex`.

A HuBERT-shaped encoder and seven heads, {num_parameters:,} parameters together, trained end to end from 24 kHz \
waveforms on {num_songs:,} synthetic songs of {song_seconds:.0f} s by `{command}`.

Aesthetic labels are means of sixteen simulated raters; popularity labels are percentiles of simulated play \
and like counts. The ceiling is the rank correlation of a listener who knows the truth of the simulation, \
from which raters and counts differ by chance. All factors of the test songs were drawn independently, so no \
score can ride on another's.
"""
TABLE_HEAD = ("score", "Spearman", "95 % interval", "ceiling", "MAE", "MAE of the median", "MSE", "MSE of the mean")
NOTHING_MISSED = "Every score reaches the rank correlation that was asked of it; the targets are in `results.json`."


def build_readme(results: Mapping[str, Any]) -> str:
    """Write the README of the model folder from the content of `results.json`, with a model card's front matter."""
    missed = "\n".join(f"- {sentence}" for sentence in find_missed_targets(results))
    parts = [INTRODUCTION.format(**results["training"])]
    parts += [_describe_evaluation(name, evaluation) for name, evaluation in results["evaluations"].items()]
    return "\n".join([*parts, f"## What falls short\n\n{missed or NOTHING_MISSED}\n"])


def _describe_evaluation(name: str, evaluation: Mapping[str, Any]) -> str:
    rows = []
    for score, numbers in evaluation["scores"].items():
        spearman, baselines = numbers["spearman"], numbers["baselines"]
        interval = f"{format_number(spearman['low'])} to {format_number(spearman['high'])}"
        cells = [f"`{score}`", format_number(spearman["value"]), interval, format_number(numbers["spearman_ceiling"])]
        for error, constant in (("mae", "median"), ("mse", "mean")):
            cells += [format_number(numbers[error]["value"]), format_number(baselines[constant][error])]
        rows.append(cells)
    heading = f"## {TITLES[name]}\n\n{evaluation['num_songs']} songs, seed {evaluation['seed']}."
    return f"{heading}\n\n{build_table(TABLE_HEAD, rows)}\n"
