"""
The training loop: prepare, resume, train an epoch, validate, maybe save.

What comes in is a task (what one batch is and what it costs: stored embeddings or audio) and the arguments; what
leaves is the best epoch's weights and the history. All randomness of a task is a function of seed, epoch and batch, so
the state of a run is its weights, the optimizer and a few numbers, and a resumed run repeats the uninterrupted one.
Every decision (stop, best, diverged) is taken from numbers that all processes share.
"""

import json
import logging
import math
import pickle
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from modeling_apex.statistics.metrics import compute_head_metrics, compute_mean_spearman, is_scored
from modeling_apex.storage.output_folder import share_files
from modeling_apex.training.arguments import ApexTrainingArguments
from modeling_apex.training.processes import broadcast_from_main
from modeling_apex.training.run_folder import RunFolder
from modeling_apex.training.task import TrainingTask

logger = logging.getLogger(__name__)

BEST_WEIGHTS = "best.safetensors"
PROGRESS_NAME = "progress.json"


class TrainingDivergedError(FloatingPointError):
    """The loss is NaN or infinite. The message says in which batch, and what was kept."""


@dataclass
class Progress:
    """How far a run is; a part of each checkpoint."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = -1
    best_value: float = float("-inf")

    @property
    def num_epochs_done(self) -> int:
        return len(self.history)

    def save(self, folder: Path) -> None:
        """Write `progress.json`; not a pickle, which Accelerate would make of it, and open as code."""
        (folder / PROGRESS_NAME).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """
        Read what `save` wrote.

        Raises:
            `FileNotFoundError`: If the checkpoint has no `progress.json`.
        """
        path = folder / PROGRESS_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, so this checkpoint cannot be resumed. Start a new run.")
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def fit(task: TrainingTask, run: RunFolder, *, resume: bool = False, show_progress: bool = False) -> Progress:
    """
    Train a task to the end, or until its selection metric no longer improves.

    Args:
        task ([`TrainingTask`]), run ([`RunFolder`]):
            What to train, and where to keep checkpoints and metrics.
        resume (`bool`, defaults to `False`), show_progress (`bool`, defaults to `False`):
            Whether to start from the newest checkpoint of the run, if it has one; whether to show a progress bar.

    Returns:
        [`Progress`]: history and best epoch. The best weights lie in the newest checkpoint's `best.safetensors`.

    Raises:
        [`TrainingDivergedError`]: If the loss becomes NaN or infinite.
    """
    arguments, accelerator = task.arguments, task.accelerator
    module, optimizer = accelerator.prepare(task.module, build_optimizer(task))
    peak_rates = [group["lr"] for group in optimizer.param_groups]
    progress = _resume(run, accelerator) if resume else Progress()
    hides_bar = not (show_progress and accelerator.is_main_process)
    with tqdm(total=arguments.num_epochs, initial=progress.num_epochs_done, unit="epoch", disable=hides_bar) as bar:
        while not has_finished(progress, arguments):
            _set_learning_rates(optimizer, peak_rates, progress.num_epochs_done / arguments.num_epochs)
            entry = {"epoch": progress.num_epochs_done, "learning_rate": optimizer.param_groups[0]["lr"]}
            entry["training_loss"] = _train_epoch(task, module, optimizer, progress)
            entry |= _validate(task)
            _record(task, run, progress, entry)
            bar.set_postfix(loss=entry["training_loss"], spearman=entry["mean_spearman"])
            bar.update()
    return progress


def build_optimizer(task: TrainingTask) -> torch.optim.AdamW:
    """Build AdamW; where torch has a kernel for a whole step, with that."""
    is_fused = task.accelerator.device.type in ("cpu", "cuda")
    return torch.optim.AdamW(task.build_parameter_groups(), weight_decay=task.arguments.weight_decay, fused=is_fused)


def _resume(run: RunFolder, accelerator: Any) -> Progress:
    """Go back to the newest checkpoint. A run may come from elsewhere, so nothing in its pickles may run."""
    checkpoints = run.list_checkpoints()
    if not checkpoints:
        return Progress()
    checkpoint = checkpoints[-1]
    progress = Progress.load(checkpoint)
    try:
        # Accelerate opens what it wrote itself with the same restriction; stated here, it holds in every release.
        accelerator.load_state(str(checkpoint), load_kwargs={"weights_only": True})
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint}: holds a pickle with more than numbers in it, which could run code, and is not opened. "
            f"Resume only from checkpoints that training wrote. ({str(error).splitlines()[0]})"
        ) from error
    if accelerator.is_main_process:  # what a kill right after the checkpoint kept from being done
        run.drop_old_checkpoints()
        run.save_history(progress.history)
    return progress


def _set_learning_rates(optimizer: Any, peak_rates: Sequence[float], share_done: float) -> None:
    """Let all rates fall to zero along a cosine."""
    factor = 0.5 * (1 + math.cos(math.pi * share_done))
    for group, rate in zip(optimizer.param_groups, peak_rates, strict=True):
        group["lr"] = rate * factor


def has_finished(progress: Progress, arguments: ApexTrainingArguments) -> bool:
    """Tell whether a run is over: all epochs done, or none better for `patience` epochs."""
    num_done = progress.num_epochs_done
    return num_done >= arguments.num_epochs or (
        num_done > 0 and num_done - 1 - progress.best_epoch >= arguments.patience
    )


def _train_epoch(task: TrainingTask, module: nn.Module, optimizer: Any, progress: Progress) -> float:
    """Pass over the training songs once; return the mean loss of the batches."""
    module.train()
    num_batches, accelerator = task.plan_epoch(progress.num_epochs_done), task.accelerator
    num_steps = task.arguments.gradient_accumulation_steps
    losses = []
    for batch in range(num_batches):
        step_start = batch // num_steps * num_steps
        step_size = min(num_steps, num_batches - step_start)
        is_step_end = batch == step_start + step_size - 1
        with nullcontext() if is_step_end else accelerator.no_sync(module):
            sums, counts = task.compute_error_sums(module, batch)
            losses.append(_check_loss(task, sums.detach(), counts, batch, progress))
            # Each process scales its share up by their number, because gradients are averaged over processes.
            loss = task.loss(accelerator.num_processes * sums / counts.clamp(min=1), counts > 0)
            accelerator.backward(loss / step_size)
            if is_step_end:
                accelerator.clip_grad_norm_(task.module.parameters(), task.arguments.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
    return float(np.mean(losses))


def _check_loss(task: TrainingTask, sums: torch.Tensor, counts: torch.Tensor, batch: int, progress: Progress) -> float:
    """Return the loss of the whole batch; stop in all processes at once if it is not finite in any."""
    sums = task.accelerator.reduce(sums, reduction="sum")
    with torch.no_grad():
        value = float(task.loss(sums / counts.clamp(min=1), counts > 0))
    if not math.isfinite(value):
        kept = (
            f"the best epoch so far, {progress.best_epoch}, is kept"
            if progress.best_epoch >= 0
            else "no epoch was finished, so nothing is kept"
        )
        raise TrainingDivergedError(
            f"the loss is {value} in epoch {progress.num_epochs_done}, batch {batch} ({task.describe_batch(batch)}); "
            f"{kept}. Lower the learning rate, or look at the embeddings and labels of these songs."
        )
    return value


def _validate(task: TrainingTask) -> dict[str, Any]:
    task.module.eval()
    scores, labels = task.predict("validation"), task.build_labels("validation")
    metrics = compute_head_metrics(scores, labels, task.head_names)
    device = task.accelerator.device
    errors = torch.tensor([metrics[name]["mse"] for name in task.head_names], dtype=torch.float32, device=device)
    is_present = torch.tensor([is_scored(metrics[name]) for name in task.head_names], device=device)
    with torch.no_grad():
        loss = float(task.loss(errors.nan_to_num(), is_present))
    return {"validation_loss": loss, "mean_spearman": compute_mean_spearman(metrics), "validation": metrics}


def _record(task: TrainingTask, run: RunFolder, progress: Progress, entry: dict[str, Any]) -> None:
    """Take note of an epoch, keep its weights if it is the best, and save a checkpoint; whole or not at all."""
    accelerator = task.accelerator
    # The first process decides for all: a last digit must not make one of them stop alone.
    value = -entry["validation_loss"] if task.arguments.selection == "loss" else entry["mean_spearman"]
    value = broadcast_from_main(value if math.isfinite(value) else float("-inf"))
    is_best = value > progress.best_value or progress.best_epoch < 0
    if is_best:
        progress.best_epoch, progress.best_value = entry["epoch"], value
    if task.loss.log_sigmas is not None:
        sigmas = task.loss.log_sigmas.detach().exp().tolist()
        entry["sigmas"] = dict(zip(task.head_names, sigmas, strict=True))
    progress.history.append(entry)
    target = run.checkpoints / f"epoch-{entry['epoch']:04d}"
    part = target.with_name(f"{target.name}.writing")
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        progress.save(part)
        _keep_best(task, run, part, is_best)
        share_files(part)
        part.rename(target)
        run.drop_old_checkpoints()
        run.save_history(progress.history)
    accelerator.wait_for_everyone()
    accelerator.log(_flatten(entry), step=entry["epoch"])


def _keep_best(task: TrainingTask, run: RunFolder, checkpoint: Path, is_best: bool) -> None:
    """Put the best weights so far into each checkpoint, so that a killed run resumes from what belongs together."""
    if is_best:
        weights = {name: tensor.contiguous() for name, tensor in task.build_weights().items()}
        save_file(weights, checkpoint / BEST_WEIGHTS)
    else:
        shutil.copyfile(run.list_checkpoints()[-1] / BEST_WEIGHTS, checkpoint / BEST_WEIGHTS)


def load_best_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    """
    Read the weights of the best epoch.

    Raises:
        `FileNotFoundError`: If no epoch was finished.
    """
    checkpoints = run.list_checkpoints()
    if not checkpoints:
        raise FileNotFoundError(f"{run.path}: no epoch was finished, so there are no weights.")
    return load_file(checkpoints[-1] / BEST_WEIGHTS)


def _flatten(entry: dict[str, Any]) -> dict[str, float]:
    flat = {name: value for name, value in entry.items() if isinstance(value, float)}
    for head, metrics in entry["validation"].items():
        flat |= {f"validation/{head}/{name}": value for name, value in metrics.items()}
    return flat
