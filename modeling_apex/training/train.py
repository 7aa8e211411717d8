"""
`apex-music train`: stored embeddings, or songs, to a trained model.

What comes in is a folder of embeddings (or, to train from audio, a dataset of songs) and arguments; what leaves is a
run folder whose `best/` is a normal `from_pretrained` folder. Whatever is trained, this is the one way through.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_apex.corpus.song_source import SongSource
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.storage.output_folder import save_json, share_files
from modeling_apex.storage.output_lock import OutputLock
from modeling_apex.training.arguments import ApexTrainingArguments, build_arguments
from modeling_apex.training.encoder.task import prepare_encoder
from modeling_apex.training.fusion.task import prepare_fusion
from modeling_apex.training.heads.task import prepare_heads
from modeling_apex.training.loop import Progress, TrainingDivergedError, fit, load_best_weights
from modeling_apex.training.processes import broadcast_from_main, build_accelerator
from modeling_apex.training.reference import MINIMUM_NUM_SONGS, build_reference
from modeling_apex.training.run_folder import RESULTS_NAME, RunFolder
from modeling_apex.training.task import TrainingInputs, TrainingTask
from modeling_apex.training.trained_model import build_percentile_tables, describe_trained_model
from modeling_apex.training.verdict import build_training_results, explain_few_steps

logger = logging.getLogger(__name__)

NO_CONFIG = "shapes a spectrogram-fusion model (config); an APEX model has the shape of `model`: leave it out."
NO_SONGS = "names the dataset that labels of embeddings come from (--songs); here the dataset has them: leave it out."
NO_MODEL = (
    "names the encoder of an APEX model (--model); a spectrogram-fusion model starts from scratch: leave it out."
)

FACTS_NAME = "facts.json"

# How each task is prepared, and which inputs it cannot use, with the reason.
TASKS: Mapping[str, tuple[Callable[[TrainingInputs, Any], TrainingTask], Mapping[str, str]]] = {
    "heads": (prepare_heads, {"config": NO_CONFIG}),
    "encoder": (prepare_encoder, {"config": NO_CONFIG, "songs": NO_SONGS}),
    "fusion": (prepare_fusion, {"model": NO_MODEL, "songs": NO_SONGS}),
}


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to."""

    best: Path  # the model: a `from_pretrained` folder
    best_epoch: int  # the epoch it comes from, counted from 0
    num_epochs: int  # how many were trained
    history: list[dict[str, Any]]  # loss and validation metrics of each epoch
    results: dict[str, Any]  # what `results.json` of the run says, in numbers and in words


def train(
    source: str | os.PathLike | SongSource,
    output: str | os.PathLike,
    arguments: ApexTrainingArguments | None = None,
    *,
    model: str | os.PathLike | ApexModel | None = None,
    config: Mapping[str, Any] | None = None,
    songs: str | os.PathLike | SongSource | None = None,
    rereads: bool = False,
    cache_dir: str | os.PathLike | None = None,
    resume: bool = False,
    show_progress: bool = False,
) -> TrainingResult:
    """
    Train a model: heads on stored embeddings, or from audio an encoder with its heads or a spectrogram-fusion model.

    Every process of `torchrun` or `accelerate launch` calls this; they share each batch, with the result of one.

    Args:
        source (`str`, `os.PathLike` or [`SongSource`]):
            A finished folder of `embed_songs`; to train from audio, a dataset. With splits `train` and `validation`.
        output (`str` or `os.PathLike`):
            The run folder; a new one, or with `resume` that of the run to go on with. More `num_epochs` than it had
            extend it; see [`RunFolder.open`].
        arguments ([`ApexTrainingArguments`], *optional*):
            What to train and how. Defaults to the preset `"published"`.
        model (`str`, `os.PathLike` or [`ApexModel`], *optional*):
            The model, in float32, whose encoder made the embeddings (by default what they name) or is to be trained
            (by default MERT-v1-95M, with new heads).
        config (`Mapping`, *optional*):
            Fields of [`SpectrogramFusionConfig`] that differ from its defaults.
        songs (`str`, `os.PathLike` or [`SongSource`], *optional*):
            Dataset of the labels of embeddings, if not the one that they name.
        rereads (`bool`, defaults to `False`):
            Whether to read source files again that look unchanged.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where columns or decoded songs are kept; by default in a cache or beside the run.
        resume (`bool`, defaults to `False`), show_progress (`bool`, defaults to `False`):
            Whether to go on with an interrupted run; whether to show a progress bar.

    Returns:
        [`TrainingResult`]

    Raises:
        `ValueError`: If data, model and arguments do not fit together.
        `FileExistsError`: If the run folder already holds a run.
        [`OutputInUseError`]: If another run is writing the run folder.
        [`TrainingDivergedError`]: If the loss becomes NaN; the best epoch so far is saved first.
    """
    run, arguments = RunFolder(output), arguments or build_arguments()
    arguments = run.keep_batch_size(arguments) if resume else arguments
    inputs = TrainingInputs(source, output, arguments, model, config, songs, rereads, cache_dir)
    prepare, unused = TASKS[arguments.trained]
    for name, reason in unused.items():
        if getattr(inputs, name) is not None:
            raise ValueError(f"`{name}` {reason}")
    task = prepare(inputs, build_accelerator(arguments, output))
    if arguments.require_grouped_splits:
        task.store.refuse_shared_groups()
    return _run_task(task, run, inputs.describe_places(), resume=resume, show_progress=show_progress)


def _run_task(
    task: TrainingTask, run: RunFolder, places: Mapping[str, str], *, resume: bool, show_progress: bool
) -> TrainingResult:
    """Run a task in its folder, from the first file to the saved model."""
    accelerator, problem = task.accelerator, None
    num_songs = {split: task.store.get_split(split).num_songs for split in ("train", "validation")}
    with ExitStack() as stack:
        if accelerator.is_main_process:
            try:
                stack.enter_context(OutputLock(run.path))  # for all processes of this run
                learned = {**task.describe_data(), "dataset_sha256": task.store.dataset_sha256, "songs": num_songs}
                run.open(task.arguments, learned, resume=resume, places=places)
            except (OSError, ValueError) as error:
                problem = error
        # All fail for the reason that the first one found, rather than wait for it for ever.
        problem = broadcast_from_main(problem)
        if problem is not None:
            raise problem
        for sentence in explain_few_steps(task.arguments, task.num_rows) if accelerator.is_main_process else ():
            logger.warning(sentence)
        accelerator.init_trackers("tracking")
        try:
            progress = fit(task, run, resume=resume, show_progress=show_progress)
        except TrainingDivergedError:
            if run.list_checkpoints():
                _save_best(task, run)
            raise
        _save_best(task, run, progress)
        results = build_training_results(
            task, progress.history, progress.best_epoch, run.load_schedules(), f"{run.path.name}/{run.best.name}"
        )
        if accelerator.is_main_process:
            save_json(run.path / RESULTS_NAME, results)
        for tracker in accelerator.trackers:
            tracker.finish()
    accelerator.free_memory()
    return TrainingResult(run.best, progress.best_epoch, progress.num_epochs_done, progress.history, results)


def build_validation_reference(task: TrainingTask) -> dict[str, Any]:
    """
    Build `config.reference` of the validation songs, which chose the epoch and were not fitted; empty if they are few.
    """
    split, scores = task.store.get_split("validation"), task.predict("validation")
    if split.num_songs < MINIMUM_NUM_SONGS:
        logger.info("%d validation songs are too few to compute ranks and intervals.", split.num_songs)
        return {}
    return build_reference(
        scores,
        task.head_names,
        name=f"the validation songs of {task.store.folder.name}",
        song_ids=split.list_values("id"),
        labels=task.build_labels("validation"),
        groups=split.list_values("group"),
        embeddings=task.embed_songs("validation"),
    )


def _save_best(task: TrainingTask, run: RunFolder, progress: Progress | None = None) -> None:
    """Write `best/`: the model with the best epoch's weights, and what it knows of its own scores."""
    weights = load_best_weights(run)
    task.load_weights(weights)
    task.module.eval()
    scores, reference = task.predict("train"), build_validation_reference(task)
    if task.accelerator.is_main_process:
        task.model.load_state_dict(weights, strict=False)
        config = task.model.config
        config.percentile_tables = build_percentile_tables(scores, task.head_names)
        config.reference = reference
        name = os.path.basename(os.path.abspath(run.path))
        config.provenance = describe_trained_model(
            config, name, task.arguments, run.load("data.json"), run.load_schedules()
        )
        part, old = run.path / "best.writing", run.path / "best.old"
        shutil.rmtree(part, ignore_errors=True)
        task.model.save_pretrained(part)
        ApexFeatureExtractor.from_config(config).save_pretrained(part)
        if (run.best / FACTS_NAME).is_file():  # what a person answered for its card
            shutil.copyfile(run.best / FACTS_NAME, part / FACTS_NAME)
        share_files(part)
        if run.best.exists():  # moved away whole: a kill must not leave half a model under this name
            shutil.rmtree(old, ignore_errors=True)
            run.best.rename(old)
        part.rename(run.best)
        shutil.rmtree(old, ignore_errors=True)
        if progress is not None:
            run.save_plots(progress.history)
    task.accelerator.wait_for_everyone()
