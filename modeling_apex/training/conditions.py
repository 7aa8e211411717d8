"""
The 24 published conditions, and a table of ours beside the paper's numbers.

A condition is mode x task x loss x trunk depth (arXiv 2605.03395). Each is a run of its own in one folder; finished
runs are not run again, interrupted ones are resumed.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from modeling_apex.corpus.song_source import SongSource
from modeling_apex.inference.report_apex import format_table
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.evaluate import ALL_PLATFORMS, evaluate_model
from modeling_apex.training.train import train

AXES = ("mode", "task", "loss", "num_shared_layers")
NUM_DRAWS = 200  # bootstrap resamples

# Test results that the paper states for its best condition (arXiv 2605.03395): the aesthetic ones against
# pseudo-labels of another model, as a range over the five scores. What is not here is shown as unknown.
PUBLISHED: Mapping[tuple[str, str, str, int], Mapping[str, Mapping[str, str]]] = {
    ("song", "full", "uncertainty", 2): {
        "score_streams": {"mse": "701", "pearson": "0.35"},
        "score_likes": {"mse": "662", "pearson": "0.41"},
        "aesthetics": {"pearson": "0.73 to 0.75"},
    }
}


def build_conditions(arguments: ApexTrainingArguments) -> dict[str, ApexTrainingArguments]:
    """Build the arguments of all 24 conditions by name, such as `"song-full-uncertainty-2"`; all else stays."""
    choices = {option.name: option.metadata["choices"] for option in fields(arguments)}
    return {
        "-".join(map(str, values)): replace(arguments, **dict(zip(AXES, values, strict=True)))
        for values in itertools.product(*(choices[axis] for axis in AXES))
    }


def run_conditions(
    embeddings: str | os.PathLike,
    output: str | os.PathLike,
    arguments: ApexTrainingArguments,
    *,
    model: str | os.PathLike | None = None,
    songs: str | os.PathLike | SongSource | None = None,
    rereads: bool = False,
    only: Sequence[str] | None = None,
    split: str = "test",
    show_progress: bool = False,
) -> dict[str, Any]:
    """
    Train and evaluate conditions.

    Args:
        embeddings (`str` or `os.PathLike`):
            A finished folder of `embed_songs`.
        output (`str` or `os.PathLike`):
            Folder of the runs, one sub-folder each.
        arguments ([`ApexTrainingArguments`]):
            Everything that is not a condition.
        model, songs, rereads, show_progress:
            As for [`train`].
        only (`Sequence[str]`, *optional*):
            Names of conditions; defaults to all 24.
        split (`str`, defaults to `"test"`):
            What to evaluate on.

    Returns:
        `dict`: results of `evaluate_model` by condition.

    Raises:
        `ValueError`: If `only` names no condition.
    """
    conditions = build_conditions(arguments)
    unknown = sorted(set(only or ()) - set(conditions))
    if unknown:
        raise ValueError(f"unknown conditions {', '.join(unknown)}; there are {', '.join(conditions)}.")
    labels: dict[str, Any] = {"songs": songs, "rereads": rereads}
    options: dict[str, Any] = {"model": model, "show_progress": show_progress, **labels}
    results = {}
    for name in only or conditions:
        folder = Path(output) / name
        has_run = (folder / "arguments.json").is_file()
        run = train(embeddings, folder, conditions[name], resume=has_run, **options)
        results[name] = evaluate_model(run.best, embeddings, splits=[split], num_draws=NUM_DRAWS, **labels)
    return results


def format_conditions(results: Mapping[str, Any], *, split: str = "test") -> str:
    """Return one line a condition and score: our metrics, and the published ones where the paper states them."""
    rows = []
    for name, result in results.items():
        *choices, depth = name.split("-")
        published = PUBLISHED.get((choices[0], choices[1], choices[2], int(depth)), {})
        for head, metrics in result["splits"][split][ALL_PLATFORMS].items():
            stated = published.get(head, {}) if head.startswith("score_") else published.get("aesthetics", {})
            cells = []
            for metric in ("mse", "pearson", "spearman"):
                value = metrics[metric]["value"]
                cells += ["-" if value is None else f"{value:.3f}", stated.get(metric, "-")]
            rows.append([name, head, *cells])
    header = ["condition", "score", "MSE", "published", "Pearson", "published", "Spearman", "published"]
    note = (
        "published: arXiv 2605.03395, on its own test songs, so only the order of magnitude compares; its aesthetic "
        "labels are another model's output."
    )
    return format_table(header, rows) + "\n" + note
