"""
What a training run came to, in numbers and in words: `results.json` of the run folder, and what a person must be told.

What comes in is a finished task and its history; what leaves is one dict, whose `findings` are sentences: an epoch of
too few steps, a run that was still improving when its epochs ended, scores that a constant would beat.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.statistics.bootstrap import drop_undefined
from modeling_apex.statistics.metrics import BASELINES, METRICS, compute_baseline
from modeling_apex.statistics.result_schema import build_opening
from modeling_apex.training.arguments import MINIMUM_NUM_STEPS, ApexTrainingArguments, choose_batch_size
from modeling_apex.training.batches import count_steps

# Each constant is held against by the error that it is best at.
ERRORS_OF_CONSTANTS: Mapping[str, str] = {"mean": "mse", "median": "mae"}


def list_better_constants(errors: Mapping[str, float | None], baselines: Mapping[str, Any]) -> list[str]:
    """
    List the constants that do better than a score: the training mean by squared error, the median by absolute error.

    Args:
        errors (`dict`): `mse` and `mae` of the score; `None` or NaN where there are no labels.
        baselines (`dict`): `mean` and `median`, each with its `mse` and `mae`.

    Returns:
        `list[str]`: some of `"mean"` and `"median"`; what is not defined is not better.
    """
    better = []
    for kind, error in ERRORS_OF_CONSTANTS.items():
        ours, constant = errors[error], baselines[kind][error]
        if ours is not None and constant is not None and constant < ours:
            better.append(kind)
    return better


def describe_better_constants(head: str, result: Mapping[str, Any], place: str) -> list[str]:
    """Say of each constant in `worse_than` of a result that it does better than the head."""
    sentences = []
    for kind in result["worse_than"]:
        error = ERRORS_OF_CONSTANTS[kind]
        value = result[error]["value"] if isinstance(result[error], Mapping) else result[error]
        sentences.append(
            f"{head} is worse than always saying the {kind} of the training labels: {error.upper()} {value:.4g}, of "
            f"the {kind} {result['baselines'][kind][error]:.4g} ({place})."
        )
    return sentences


def add_better_constants(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `compute_head_results` says of a score, with `worse_than`; see `list_better_constants`."""
    errors = {error: result[error]["value"] for error in ERRORS_OF_CONSTANTS.values()}
    return {**result, "worse_than": list_better_constants(errors, result["baselines"])}


def is_still_improving(best_epoch: int, num_epochs: int, arguments: ApexTrainingArguments) -> bool:
    """Tell whether the epochs ended, not patience, while the best one was the last or among the last tenth."""
    recent = min(arguments.patience, max(1, arguments.num_epochs // 10))
    return num_epochs >= arguments.num_epochs and num_epochs - best_epoch <= recent


def measure_heads(
    metrics: Mapping[str, Mapping[str, float]], labels: NDArray[np.float32], training_labels: NDArray[np.float32]
) -> dict[str, dict[str, Any]]:
    """
    Set the metrics of each head beside the constants.

    Args:
        metrics (`dict`): `mse`, `mae`, `pearson` and `spearman` of each head.
        labels (`np.ndarray` of shape `(num_songs, num_heads)`): What they were measured by.
        training_labels (`np.ndarray` of shape `(num_training_songs, num_heads)`): Where the constants come from.

    Returns:
        `dict`: by head `num_songs`, the metrics, `baselines`, and `worse_than`. Survives JSON.
    """
    results = {}
    for column, (name, found) in enumerate(metrics.items()):
        wanted, known = labels[:, column].astype(np.float64), training_labels[:, column].astype(np.float64)
        baselines = {kind: drop_undefined(compute_baseline(wanted, known, kind)) for kind in BASELINES}
        better = list_better_constants(found, baselines)
        if np.isin(known[~np.isnan(known)], (0, 1)).all():
            # The median of yes and no is one of them: an honest probability is further from it than a flat denial.
            better = [kind for kind in better if kind != "median"]
        results[name] = {
            "num_songs": int(np.sum(~np.isnan(wanted))),
            **drop_undefined({metric: found[metric] for metric in METRICS}),
            "baselines": baselines,
            "worse_than": better,
        }
    return results


def build_training_results(
    task: Any, history: Sequence[Mapping[str, Any]], best_epoch: int, schedules: Sequence[Mapping[str, int]], name: str
) -> dict[str, Any]:
    """
    Build what `results.json` of a run says.

    Args:
        task ([`TrainingTask`]): The task, its model with the weights of the best epoch.
        history (`Sequence[dict]`), best_epoch (`int`): Every epoch, and which of them is the best.
        schedules (`Sequence[dict]`): From which epoch on the learning rate fell over how many.
        name (`str`): Folder of the model.

    Returns:
        `dict`: as the schema `"training"` of `result_schema` says.
    """
    arguments, num_epochs = task.arguments, len(history)
    labels = {split: task.build_labels(split) for split in ("train", "validation")}
    heads = measure_heads(history[best_epoch]["validation"], labels["validation"], labels["train"])
    ended_by = "epochs" if num_epochs >= arguments.num_epochs else "patience"
    results = {
        **build_opening(
            "training",
            model=name,
            model_sha256=compute_scores_hash(task.model),
            input_sha256=task.store.dataset_sha256,
        ),
        "num_songs": {split: task.store.get_split(split).num_songs for split in labels},
        "num_rows": task.num_rows,
        "batch_size": arguments.batch_size,
        "steps_per_epoch": count_steps(task.num_rows, arguments.batch_size, arguments.gradient_accumulation_steps),
        "schedules": [dict(schedule) for schedule in schedules],
        "num_epochs": num_epochs,
        "best_epoch": best_epoch,
        "ended_by": ended_by,
        "still_improving": is_still_improving(best_epoch, num_epochs, arguments),
        "validation": heads,
    }
    return {**results, "findings": list_findings(results, arguments)}


def list_findings(results: Mapping[str, Any], arguments: ApexTrainingArguments) -> list[str]:
    """List in sentences what is wrong with a run; empty where nothing is known to be."""
    findings = explain_few_steps(arguments, results["num_rows"])
    if results["still_improving"]:
        findings.append(
            f"the best epoch, {results['best_epoch']}, is among the last of {results['num_epochs']}: the run was "
            f"still improving. Go on with --resume --num-epochs {2 * arguments.num_epochs}."
        )
    for head, result in results["validation"].items():
        findings += describe_better_constants(head, result, f"{result['num_songs']} validation songs")
    return findings


def explain_few_steps(arguments: ApexTrainingArguments, num_rows: int) -> list[str]:
    """Say that the batches that were asked for leave an epoch few steps; nothing where smaller ones would not help."""
    size, accumulated = choose_batch_size(arguments, num_rows), arguments.gradient_accumulation_steps
    num_steps = count_steps(num_rows, size, accumulated)
    unnamed = ApexTrainingArguments(model_type=arguments.model_type, train_encoder=arguments.train_encoder)
    better = choose_batch_size(unnamed, num_rows)
    if num_steps >= MINIMUM_NUM_STEPS or size * accumulated <= better:
        return []
    return [
        f"an epoch of {num_rows:,} rows has {num_steps} {'step' if num_steps == 1 else 'steps'} at batch size {size}"
        f"{f' and {accumulated} batches a step' if accumulated > 1 else ''}, and learns little: leave --batch-size "
        f"(`batch_size`) out, which takes {better} and has {count_steps(num_rows, better, 1)}."
    ]
