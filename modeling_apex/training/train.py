"""
`apex-music train`: stored embeddings, or songs, to a trained model.

What comes in is a folder of embeddings (or, to train the encoder too, a dataset of songs), the model whose encoder
made them, and arguments; what leaves is a run folder whose `best/` is a normal `from_pretrained` folder.
"""

import gc
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_apex.checkpoints.config_checks import NUM_QUANTILES
from modeling_apex.corpus.embedding_manifest import build_expected_identity, refuse_other_identity
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.loading import load_apex_model
from modeling_apex.storage.output_lock import OutputLock
from modeling_apex.training.arguments import ApexTrainingArguments, build_arguments
from modeling_apex.training.heads.task import HeadsTask
from modeling_apex.training.loop import (
    Progress,
    TrainingDivergedError,
    TrainingTask,
    fit,
    load_best_weights,
)
from modeling_apex.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """
    What a run came to.

    Args:
        best (`Path`):
            The model: a `from_pretrained` folder.
        best_epoch (`int`):
            The epoch it comes from, counted from 0.
        num_epochs (`int`):
            Epochs that were trained.
        history (`list[dict]`):
            Loss and validation metrics of each epoch.
    """

    best: Path
    best_epoch: int
    num_epochs: int
    history: list[dict[str, Any]]


def train_heads(
    embeddings: str | os.PathLike,
    output: str | os.PathLike,
    arguments: ApexTrainingArguments | None = None,
    *,
    model: str | os.PathLike | ApexModel | None = None,
    resume: bool = False,
    show_progress: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> TrainingResult:
    """
    Train trunk and heads on stored embeddings.

    Under `torchrun` or `accelerate launch`, every process calls this; batches are shared and the result is that of one
    process.

    Args:
        embeddings (`str` or `os.PathLike`):
            A finished folder of `embed_songs`, with the splits `train` and `validation`.
        output (`str` or `os.PathLike`):
            The run folder; a new one, or with `resume` that of the run to go on with.
        arguments ([`ApexTrainingArguments`], *optional*):
            Defaults to the preset `"published"`.
        model (`str`, `os.PathLike` or [`ApexModel`], *optional*):
            The model whose encoder made the embeddings, in float32. Defaults to the one that their manifest names.
        resume (`bool`, defaults to `False`):
            Whether to go on with an interrupted run.
        show_progress (`bool`, defaults to `False`):
            Whether to show a progress bar.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where memory-mapped columns are kept; defaults to the folder of embeddings.

    Returns:
        [`TrainingResult`]

    Raises:
        `ValueError`: If embeddings, model and arguments do not fit together.
        `FileExistsError`: If the run folder already holds a run.
        [`OutputInUseError`]: If another run is writing the run folder.
        [`TrainingDivergedError`]: If the loss becomes NaN; the best epoch so far is saved first.
    """
    arguments = arguments or build_arguments()
    if arguments.train_encoder:
        raise ValueError("`train_encoder` learns from audio, not from stored embeddings: use `train_end_to_end`.")
    accelerator = build_accelerator(arguments, output)
    with accelerator.main_process_first():
        store = open_embedding_store(embeddings, cache_dir)
    base = load_base_model(store.manifest["model"] if model is None else model)
    expected = build_expected_identity(base, store.manifest["identity"])
    refuse_other_identity(str(store.folder), store.manifest["identity"], expected)
    if arguments.require_grouped_splits:
        store.refuse_shared_groups()
    trained = build_trained_model(base, arguments)
    task = HeadsTask(store, trained, arguments, accelerator)
    data = {
        "embeddings_manifest_sha256": store.manifest_sha256,
        "weights_sha256": expected["weights_sha256"],
        "songs": {split: store.get_split(split).num_songs for split in ("train", "validation")},
    }
    return run_training(
        task, trained, arguments, accelerator, output, data, resume=resume, show_progress=show_progress
    )


def build_accelerator(arguments: ApexTrainingArguments, output: str | os.PathLike) -> Any:
    """
    Start Accelerate: device, precision, processes, trackers.

    Raises:
        `ImportError`: If Accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ImportError('training needs accelerate: pip install "apex-music[train]".') from error
    trackers = [arguments.report_to] if arguments.report_to != "none" else []
    if arguments.report_to == "auto":
        trackers = [name for name in ("tensorboard", "trackio") if find_spec(name) is not None]
    return Accelerator(mixed_precision=arguments.mixed_precision, log_with=trackers or None, project_dir=str(output))


def load_base_model(model: str | os.PathLike | ApexModel) -> ApexModel:
    """Load a model in float32, whatever precision it is stored in; a loaded one stays as it is."""
    if isinstance(model, (str, os.PathLike)):
        loaded: ApexModel = load_apex_model(model)
        return loaded
    return model


def build_training_config(config: ApexConfig, arguments: ApexTrainingArguments) -> ApexConfig:
    """
    Build the config of the model that a run will train, from that of the model whose encoder it uses.

    A trunk of three layers is one of two with a layer of their mean width between them, as published (512, 384, 256).

    Raises:
        `ValueError`: If the task leaves no head.
    """
    described = config.to_dict()
    heads = [head for head in config.heads if arguments.task == "full" or head["group"] == "popularity"]
    if not heads:
        raise ValueError("the task `popularity` leaves no head: the model has no head of the group popularity.")
    first, last = config.shared_dims[0], config.shared_dims[-1]
    described |= {
        "heads": heads,
        "shared_dims": [first, last] if arguments.num_shared_layers == 2 else [first, (first + last) // 2, last],
        "prediction_level": arguments.mode,
        "freeze_encoder": not arguments.train_encoder,
        "percentile_tables": {},
    }
    return ApexConfig.from_dict(described)


def build_trained_model(base: ApexModel, arguments: ApexTrainingArguments) -> ApexModel:
    """Build the model that a run trains: the encoder of `base`, and heads that start as the arguments say."""
    config = build_training_config(base.config, arguments)
    with seeded(arguments.seed):
        model = ApexModel(config)
    tensors = base.state_dict()
    if arguments.initial_heads == "new":
        tensors = {name: value for name, value in tensors.items() if name.startswith(("encoder.", "aggregator."))}
    expected = model.state_dict()
    kept = {name: value for name, value in tensors.items() if name in expected}
    misshapen = [name for name, value in kept.items() if value.shape != expected[name].shape]
    absent = [name for name in expected if name not in kept]
    if misshapen or (arguments.initial_heads == "model" and absent):
        raise ValueError(
            f"initial_heads='model' needs a model with the heads and trunk that are trained; it differs in "
            f"{', '.join((misshapen + absent)[:3])}. Set num_shared_layers to its depth, or initial_heads='new'."
        )
    model.load_state_dict(kept, strict=False)
    return model


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's generators seeded, and give them their state back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def run_training(
    task: TrainingTask,
    model: ApexModel,
    arguments: ApexTrainingArguments,
    accelerator: Any,
    output: str | os.PathLike,
    data: Mapping[str, Any],
    *,
    resume: bool,
    show_progress: bool,
) -> TrainingResult:
    """Run a task in its folder, from the first file to the saved model; see [`train_heads`]."""
    run = RunFolder(output)
    problem: list[Exception] = []
    with ExitStack() as stack:
        if accelerator.is_main_process:
            try:
                stack.enter_context(OutputLock(run.path))  # for all processes of this run
                run.open(arguments, data, resume=resume)
            except (OSError, ValueError) as error:
                problem.append(error)
        _raise_in_all_processes(problem)
        accelerator.init_trackers("tracking")
        try:
            progress = fit(task, arguments, run, accelerator, resume=resume, show_progress=show_progress)
        except TrainingDivergedError:
            if run.list_checkpoints():
                _save_best(task, model, arguments, accelerator, run)
            raise
        _save_best(task, model, arguments, accelerator, run, progress)
        for tracker in accelerator.trackers:
            tracker.finish()
    accelerator.free_memory()
    return TrainingResult(run.best, progress.best_epoch, progress.num_epochs_done, progress.history)


def _raise_in_all_processes(problem: list[Exception]) -> None:
    """Let every process fail for the reason that the first one found, rather than wait for it for ever."""
    from accelerate.utils import broadcast_object_list

    shared: list[Any] = [problem[0] if problem else None]
    broadcast_object_list(shared)
    if shared[0] is not None:
        raise shared[0]


def _save_best(
    task: TrainingTask,
    model: ApexModel,
    arguments: ApexTrainingArguments,
    accelerator: Any,
    run: RunFolder,
    progress: Progress | None = None,
) -> None:
    """Write `best/`: the model with the best epoch's weights, and the percentile tables of its training scores."""
    weights = load_best_weights(run)
    task.load_weights(weights)
    task.module.eval()
    scores = task.predict("train")
    if accelerator.is_main_process:
        model.load_state_dict(weights, strict=False)
        model.config.percentile_tables = build_percentile_tables(scores, task.head_names)
        model.config.provenance = {
            **model.config.provenance,
            "training": {"arguments": asdict(arguments), "data": run.load_data()},
        }
        part = run.path / "best.writing"
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        ApexFeatureExtractor.from_config(model.config).save_pretrained(part)
        old = run.path / "best.old"
        if run.best.exists():  # moved away whole: a kill must not leave half a model under this name
            shutil.rmtree(old, ignore_errors=True)
            run.best.rename(old)
        part.rename(run.best)
        shutil.rmtree(old, ignore_errors=True)
        if progress is not None:
            run.save_plots(progress.history)
    accelerator.wait_for_everyone()


def build_percentile_tables(scores: NDArray[np.float32], head_names: Sequence[str]) -> dict[str, list[float]]:
    """
    Build the quantiles that `config.percentile_tables` holds.

    Args:
        scores (`np.ndarray` of shape `(num_songs, num_heads)`):
            The model's scores of its training songs.
        head_names (`Sequence[str]`):
            Names of the columns.

    Returns:
        `dict[str, list[float]]`: 101 ascending quantiles a score.
    """
    quantiles = np.quantile(scores.astype(np.float64), np.linspace(0, 1, NUM_QUANTILES), axis=0)
    # Interpolation rounds: two equal quantiles may come out a last digit apart, in the wrong order.
    quantiles = np.maximum.accumulate(quantiles, axis=0)
    return {name: quantiles[:, column].tolist() for column, name in enumerate(head_names)}


def close_processes() -> None:
    """Leave the group of processes; the last thing that a command does."""
    from accelerate import PartialState

    state = PartialState()
    gc.collect()  # what still refers to the group, such as a module that was shared over it, goes before it
    state.wait_for_everyone()
    state.destroy_process_group()
