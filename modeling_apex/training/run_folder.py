"""
A run folder: everything that a training run says about itself.

`arguments.json`, `environment.json`, `data.json` (hash of the embeddings' manifest), `schedules.json` (from which
epoch on the learning rate falls over how many), `metrics.jsonl` (one line an epoch), `loss.png` and `spearman.png`,
`checkpoints/` (to resume from), and at the end `best/`, a normal `from_pretrained` folder, and `results.json`, what
the run came to.
"""

import dataclasses
import json
import logging
import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modeling_apex import __version__
from modeling_apex.storage.output_folder import load_fields, load_json, replace_text, save_json
from modeling_apex.training.arguments import ApexTrainingArguments

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "accelerate", "numpy", "pyarrow", "datasets")
# Arguments that may differ when a run is resumed, since they change no number of an epoch.
FREE_ARGUMENTS = ("report_to", "patience")
ENVIRONMENT_NAME = "environment.json"
SCHEDULES_NAME = "schedules.json"
RESULTS_NAME = "results.json"


class RunFolder:
    """The files of one run, in the folder `path`; see [`RunFolder.open`]."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.best = self.path / "best"
        self.checkpoints = self.path / "checkpoints"

    def open(
        self,
        arguments: ApexTrainingArguments,
        data: Mapping[str, Any],
        *,
        resume: bool,
        places: Mapping[str, str] | None = None,
    ) -> None:
        """
        Start the run, or check that the run to resume has these arguments and trains on these data.

        More epochs than the run had extend it: its weights and the state of its optimizer go on, and from the epoch
        that comes next the learning rate is that of a run of the greater number. `places` says where on this machine
        the data lie; it stays in `environment.json`, and decides nothing.

        Raises:
            `FileExistsError`: If a run lies here and `resume` is false.
            `FileNotFoundError`: If no run lies here and `resume` is true.
            `ValueError`: If the run that lies here has other arguments or other data.
        """
        has_run = (self.path / "arguments.json").is_file()
        if has_run and not resume:
            raise FileExistsError(
                f"{self.path}: already holds a run. Choose a new folder, or resume it with --resume (resume=True)."
            )
        if resume and not has_run:
            raise FileNotFoundError(f"{self.path}: holds no run to resume; start one without --resume (resume=False).")
        described = dataclasses.asdict(arguments)
        if resume:
            found = self.load("arguments.json")
            is_extended = described["num_epochs"] > found.get("num_epochs", 0) > 0
            expected = {**described, "num_epochs": found["num_epochs"]} if is_extended else described
            _refuse_differences(self.path, found, expected, "arguments")
            _refuse_differences(self.path, self.load("data.json"), json.loads(json.dumps(data)), "data")
            if is_extended:
                self._add_schedule(described["num_epochs"])
            (self.path / RESULTS_NAME).unlink(missing_ok=True)  # written anew at the end
            save_json(self.path / "arguments.json", described)
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        save_json(self.path / "data.json", data)
        save_json(self.path / ENVIRONMENT_NAME, {**describe_environment(), **(places or {})})
        save_json(self.path / SCHEDULES_NAME, [{"from_epoch": 0, "num_epochs": arguments.num_epochs}])
        save_json(self.path / "arguments.json", described)

    def keep_batch_size(self, arguments: ApexTrainingArguments) -> ApexTrainingArguments:
        """Return the arguments with the batch size that the run began with, where they name none."""
        if arguments.batch_size is not None or not (self.path / "arguments.json").is_file():
            return arguments
        return dataclasses.replace(arguments, batch_size=self.load("arguments.json").get("batch_size"))

    def load_schedules(self) -> list[dict[str, int]]:
        """Read from which epoch on the learning rate falls over how many; a run of an earlier version has one."""
        path = self.path / SCHEDULES_NAME
        if not path.is_file():
            return [{"from_epoch": 0, "num_epochs": self.load("arguments.json")["num_epochs"]}]
        schedules: list[dict[str, int]] = load_json(path, "Start a new run.")
        return schedules

    def _add_schedule(self, num_epochs: int) -> None:
        checkpoints = self.list_checkpoints()
        from_epoch = int(checkpoints[-1].name.removeprefix("epoch-")) + 1 if checkpoints else 0
        # What a kill left that came between this file and the arguments is replaced.
        kept = [schedule for schedule in self.load_schedules() if schedule["from_epoch"] < from_epoch]
        save_json(self.path / SCHEDULES_NAME, [*kept, {"from_epoch": from_epoch, "num_epochs": num_epochs}])

    def load(self, name: str) -> dict[str, Any]:
        """Read one of the JSON files, such as `data.json`."""
        return load_fields(self.path / name, "Start a new run: apex-music train with another --output.")

    def list_checkpoints(self) -> list[Path]:
        """Return the whole checkpoints, oldest first."""
        return sorted(self.checkpoints.glob("epoch-[0-9][0-9][0-9][0-9]"))

    def drop_old_checkpoints(self, keep: int = 2) -> None:
        """Delete all but the newest checkpoints."""
        for folder in self.list_checkpoints()[:-keep]:
            shutil.rmtree(folder)

    def save_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write `metrics.jsonl` as a whole, so that after a resume it holds each epoch once."""
        lines = [json.dumps(drop_undefined(epoch)) + "\n" for epoch in history]
        replace_text(self.path / "metrics.jsonl", "".join(lines))

    def save_plots(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Draw loss and Spearman over epochs, if matplotlib is installed."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            logger.info("matplotlib is not installed, so there are no plots.")
            return
        losses = {name: [entry[f"{name}_loss"] for entry in history] for name in ("training", "validation")}
        heads = history[0]["validation"]
        spearman = {head: [entry["validation"][head]["spearman"] for entry in history] for head in heads}
        for name, unit, curves in (("loss", "loss", losses), ("spearman", "Spearman on validation", spearman)):
            figure = Figure(figsize=(7, 4), layout="constrained")
            axes = figure.subplots()
            for label, values in curves.items():
                axes.plot([entry["epoch"] for entry in history], values, label=label)
            axes.set(xlabel="epoch", ylabel=unit)
            axes.legend(fontsize="small")
            figure.savefig(self.path / f"{name}.png", dpi=120)


def find_training_embeddings(model: str | os.PathLike) -> tuple[str | None, str | None]:
    """
    Find what a run learned from, by the folder of its best model, if both lie where they lay.

    Returns:
        `tuple[str, str]`: the folder of embeddings and the dataset of their labels; the first is `None` where nothing
        says it, or the model has an encoder of its own, and the second where the embeddings themselves say it.
    """
    path = Path(os.path.abspath(model)).parent / ENVIRONMENT_NAME
    places = load_fields(path, "Name the embeddings instead.") if path.is_file() else {}
    embeddings, songs = places.get("embeddings"), places.get("songs")
    return (embeddings if embeddings and os.path.isdir(embeddings) else None), songs


def describe_environment() -> dict[str, Any]:
    """Describe what a run ran on: versions, machine, processes."""
    return {
        "apex-music": __version__,
        **{library: version(library) if find_spec(library) else None for library in LIBRARIES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def drop_undefined(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by `None`, however deep."""
    if isinstance(value, Mapping):
        return {name: drop_undefined(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [drop_undefined(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse_differences(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    names = [
        name
        for name in sorted({*found, *expected})
        if name not in FREE_ARGUMENTS and found.get(name) != expected.get(name)
    ]
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ValueError(
            f"{path}: this run was started by an earlier version, which did not note {', '.join(unknown)}, so nothing "
            f"shows that its {what} are the same. Start a new run: apex-music train with another --output."
        )
    if names:
        details = "; ".join(f"{name} was {found.get(name)!r}, now {expected.get(name)!r}" for name in names)
        more = ", or with more num_epochs, which extends it" if what == "arguments" else ""
        raise ValueError(f"{path}: this run was started with other {what} ({details}). Resume with the same{more}.")
