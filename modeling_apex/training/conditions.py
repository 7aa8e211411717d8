"""
The 24 published conditions, and a table of ours beside the paper's numbers.

A condition is mode x task x loss x trunk depth (arXiv 2605.03395). Each is a run of its own in one folder; finished
runs are not run again, interrupted ones are resumed. All are compared on the validation songs; the best of them alone
is evaluated on the test songs, since the best of 24 on the test songs is best by luck, too.
"""

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeling_apex.corpus.song_source import SongSource
from modeling_apex.inference.report_apex import format_table
from modeling_apex.statistics.metrics import compute_mean_spearman
from modeling_apex.statistics.result_schema import build_opening
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.evaluate import ALL_PLATFORMS, evaluate_model, format_findings
from modeling_apex.training.train import train

logger = logging.getLogger(__name__)

AXES = ("mode", "task", "loss", "num_shared_layers")
NUM_DRAWS = 200  # bootstrap resamples
CHOOSING_SPLIT = "validation"

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
        embeddings (`str` or `os.PathLike`): A finished folder of `embed_songs`.
        output (`str` or `os.PathLike`): Folder of the runs, one sub-folder each.
        arguments ([`ApexTrainingArguments`]): Everything that is not a condition.
        model, songs, rereads, show_progress:
            As for [`train`].
        only (`Sequence[str]`, *optional*):
            Names of conditions; defaults to all 24.
        split (`str`, defaults to `"test"`):
            What to evaluate the chosen condition on, once.

    Returns:
        `dict`: as the schema `"conditions"` of `result_schema` says: `conditions` on the validation songs, and `test`
        of the chosen one alone.

    Raises:
        `ValueError`: If `only` names no condition, `split` is the one that chooses, or no validation song has a label.
    """
    if split == CHOOSING_SPLIT:
        raise ValueError(f"the split {split!r} makes the choice, so its best result is partly luck; pass another.")
    conditions = build_conditions(arguments)
    unknown = sorted(set(only or ()) - set(conditions))
    if unknown:
        raise ValueError(f"unknown conditions {', '.join(unknown)}; there are {', '.join(conditions)}.")
    labels: dict[str, Any] = {"songs": songs, "rereads": rereads}
    results, best = {}, {}
    for name in only or conditions:
        folder = Path(output) / name
        has_run = (folder / "arguments.json").is_file()
        run = train(
            embeddings, folder, conditions[name], resume=has_run, model=model, show_progress=show_progress, **labels
        )
        best[name] = run.best
        results[name] = evaluate_model(run.best, embeddings, splits=[CHOOSING_SPLIT], num_draws=NUM_DRAWS, **labels)
    means, scores = average_conditions(results)
    chosen = max(means, key=means.__getitem__)
    test = evaluate_model(best[chosen], embeddings, splits=[split], num_draws=NUM_DRAWS, **labels)
    return {
        **build_opening("conditions", **{name: test[name] for name in ("model", "model_sha256", "input_sha256")}),
        "chosen": chosen,
        "chosen_on": f"{CHOOSING_SPLIT}, mean Spearman of {', '.join(scores)}",
        "mean_spearman": means,
        "conditions": results,
        "test": test,
    }


def average_conditions(results: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """
    Average how well each condition ranks the validation songs, over the scores that all conditions have.

    Args:
        results (`dict`): Results of `evaluate_model` by condition.

    Returns:
        `tuple[dict[str, float], list[str]]`: mean Spearman of each condition, and the scores that it is a mean of.

    Raises:
        `ValueError`: If no song has a label of these scores.
    """
    heads = {name: result["splits"][CHOOSING_SPLIT][ALL_PLATFORMS] for name, result in results.items()}
    common = [score for score in next(iter(heads.values())) if all(score in found for found in heads.values())]
    means = {
        name: compute_mean_spearman(
            {score: {metric: _read_value(found[score][metric]) for metric in ("mse", "spearman")} for score in common}
        )
        for name, found in heads.items()
    }
    if any(np.isnan(mean) for mean in means.values()):
        raise ValueError(
            f"no song of the split {CHOOSING_SPLIT!r} has a label of {', '.join(common)}, so nothing can choose among "
            "the conditions. Label some of them, or train and evaluate one condition by `train` and `evaluate`."
        )
    return means, common


def _read_value(result: Mapping[str, Any]) -> float:
    return float("nan") if result["value"] is None else float(result["value"])


def format_conditions(results: Mapping[str, Any]) -> str:
    """
    Return the conditions in the order of what chooses, one line a condition and score on the songs that choose, and
    last the chosen one on the test songs: our metrics, and the published ones where the paper states them.
    """
    split = next(iter(results["test"]["splits"]))
    means = results["mean_spearman"]
    order = [[name, f"{means[name]:.3f}"] for name in sorted(means, key=means.__getitem__, reverse=True)]
    chosen = f"chosen on {results['chosen_on']}: {results['chosen']}; it alone is evaluated on {split}, once."
    note = (
        "published: arXiv 2605.03395, on its own test songs, so only the order of magnitude compares; its aesthetic "
        "labels are another model's output."
    )
    parts = [
        _format_table(results["conditions"], CHOOSING_SPLIT),
        format_table([f"condition, {CHOOSING_SPLIT}", "mean Spearman"], order),
        chosen,
        _format_table({results["chosen"]: results["test"]}, split),
        note,
    ]
    return "\n\n".join([*parts, *format_findings(results["test"])])


def save_conditions_plot(results: Mapping[str, Any], path: str | os.PathLike) -> bool:
    """Draw what chose among the conditions, the chosen one in another colour; false if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        logger.info("matplotlib is not installed, so there is no plot.")
        return False
    means = results["mean_spearman"]
    names = sorted(means, key=means.__getitem__)
    figure = Figure(figsize=(7, 1.2 + 0.25 * len(names)), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:orange" if name == results["chosen"] else "tab:blue" for name in names]
    axes.barh(names, [means[name] for name in names], color=colours)
    axes.set(xlabel=f"mean Spearman, {CHOOSING_SPLIT}", title=f"chosen: {results['chosen']}")
    figure.savefig(path, dpi=120)
    return True


def _format_table(results: Mapping[str, Any], split: str) -> str:
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
    header = [f"condition, {split}", "score", "MSE", "published", "Pearson", "published", "Spearman", "published"]
    return format_table(header, rows)
