"""Training of heads on stored embeddings: what it learns, how it resumes, what it refuses, what it leaves behind."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patience import PATIENCE
from safetensors.torch import load_file

import modeling_apex.training.evaluate as evaluate
import modeling_apex.training.heads.task as heads_task
import modeling_apex.training.loop as loop
from modeling_apex import ApexModel
from modeling_apex.cli import main
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.storage.output_lock import OutputInUseError, OutputLock
from modeling_apex.training.batches import plan_batches, refuse_few_rows
from modeling_apex.training.heads.task import HeadsTask
from modeling_apex.training.loop import TrainingDivergedError, has_finished
from modeling_apex.training.processes import build_accelerator
from modeling_apex.training.run_folder import RunFolder
from modeling_apex.training.train import train as train_model
from modeling_apex.training.trained_model import build_trained_model

from full_disks import fill_disk
from song_folders import write_embeddings

SIZES = {"train": 60, "validation": 20, "test": 10}


def read_metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def train(embeddings: Path, tiny_model: ApexModel, quick: Callable, tmp_path: Path) -> Callable[..., Any]:
    """Train on the made embeddings; keyword arguments are training arguments."""

    def run(name: str = "run", *, data: Path = embeddings, resume: bool = False, **arguments: Any) -> Any:
        return train_model(data, tmp_path / name, quick(**arguments), model=tiny_model, resume=resume)

    return run


def test_loss_falls_to_near_zero_on_eight_songs(
    tmp_path: Path, tiny_model: ApexModel, identity: dict, quick: Callable
) -> None:
    folder = write_embeddings(tmp_path / "eight", {"train": 8, "validation": 4}, identity)
    tiny_model.config.dropout_shared = tiny_model.config.dropout_branch = 0.0
    arguments = quick(num_epochs=250, patience=250, loss="equal", standardize_targets=True, weight_decay=0.0)
    history = train_model(folder, tmp_path / "run", arguments, model=tiny_model).history
    assert history[0]["training_loss"] > 4.0  # seven heads, each about one variance away
    assert history[-1]["training_loss"] < 0.05


@pytest.mark.parametrize("mode", ["song", "segment"])
@pytest.mark.parametrize("preset", ["published", "improved"])
def test_presets_learn_to_rank_unseen_songs(train: Callable, mode: str, preset: str) -> None:
    result = train(preset=preset, mode=mode, num_epochs=40)
    assert result.history[result.best_epoch]["mean_spearman"] > 0.4


def test_best_folder_is_a_model_that_knows_its_training_songs(
    train: Callable, embeddings: Path, tiny_model: ApexModel, tmp_path: Path
) -> None:
    result = train(task="full", num_shared_layers=3)
    model = ApexModel.from_pretrained(result.best)
    assert model.config.shared_dims == [12, 10, 8]
    for name, tensor in tiny_model.state_dict().items():
        if name.startswith(("encoder.", "aggregator.")):
            assert torch.equal(model.state_dict()[name], tensor), name
    training = open_embedding_store(embeddings).get_split("train")
    with torch.no_grad():
        scores = model.compute_scores(torch.from_numpy(np.array(training.song_embeddings))).numpy()
    table = model.config.percentile_tables["coherence"]
    assert np.quantile(scores[:, 2], [0, 0.5, 1]) == pytest.approx([table[0], table[50], table[100]], abs=1e-4)
    validation = open_embedding_store(embeddings).get_split("validation")
    with torch.no_grad():
        scores = model.compute_scores(torch.from_numpy(np.array(validation.song_embeddings))).numpy()
    errors = np.mean((scores - validation.build_labels(model.config.head_names)) ** 2, axis=0)
    best = result.history[result.best_epoch]["validation"]
    assert errors == pytest.approx([best[name]["mse"] for name in model.config.head_names], rel=1e-4)
    assert model.config.provenance["training"]["arguments"]["num_shared_layers"] == 3


def test_popularity_alone_trains_its_two_heads(train: Callable) -> None:
    model = ApexModel.from_pretrained(train(task="popularity").best)
    assert model.config.head_names == ["score_streams", "score_likes"]


def test_run_folder_describes_itself(train: Callable, tmp_path: Path) -> None:
    result = train(report_to="tensorboard", loss="weighted")
    run = tmp_path / "run"
    assert json.loads((run / "arguments.json").read_text())["loss"] == "weighted"
    assert json.loads((run / "environment.json").read_text())["torch"] == version("torch")
    assert len(json.loads((run / "data.json").read_text())["embeddings_manifest_sha256"]) == 64
    assert [entry["epoch"] for entry in read_metrics(run)] == [0, 1, 2]
    assert read_metrics(run) == json.loads(json.dumps(result.history))
    assert (run / "loss.png").stat().st_size > 1000
    assert (run / "spearman.png").stat().st_size > 1000
    assert list(run.glob("tracking/events.*"))


def test_missing_labels_are_masked_per_head(
    tmp_path: Path, tiny_model: ApexModel, identity: dict, quick: Callable
) -> None:
    """Labels that are missing for half of the songs train as if those songs had errors of zero weight."""
    half = np.where(np.arange(60) % 2, 2.0 + np.arange(60) / 30, np.nan)
    folder = write_embeddings(tmp_path / "half", SIZES, identity, labels={"train": {"clarity": half}})
    store = open_embedding_store(folder)
    arguments = quick(batch_size=60)
    accelerator = build_accelerator(arguments, tmp_path)
    task = HeadsTask(store, build_trained_model(tiny_model, arguments), arguments, accelerator)
    assert task.plan_epoch(0) == 1
    sums, counts = task.compute_error_sums(task.module, 0)
    assert counts.tolist() == [60, 60, 60, 60, 60, 30, 60]
    assert torch.isfinite(sums).all()


def test_every_trained_tensor_gets_a_gradient_and_the_encoder_none(
    embeddings: Path, tiny_model: ApexModel, quick: Callable, tmp_path: Path
) -> None:
    arguments = quick()
    accelerator = build_accelerator(arguments, tmp_path)
    model = build_trained_model(tiny_model, arguments)
    task = HeadsTask(open_embedding_store(embeddings), model, arguments, accelerator)
    task.module.train()
    task.plan_epoch(0)
    sums, counts = task.compute_error_sums(task.module, 0)
    task.loss(sums / counts, counts > 0).backward()
    frozen = [name for name, parameter in task.module.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"heads.{part}.{index}.bias" for part in ("shared", "branches") for index in (0, 1)]
    for name, parameter in task.module.named_parameters():
        if name in frozen:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    optimized = {id(p) for group in task.build_parameter_groups() for p in group["params"]}
    assert optimized == {id(parameter) for parameter in task.module.parameters() if parameter.requires_grad}
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


@pytest.mark.parametrize("arguments", [{"preset": "improved"}, {"mode": "segment", "gradient_accumulation_steps": 2}])
def test_resumed_equals_uninterrupted_bit_for_bit(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict
) -> None:
    arguments = {**arguments, "num_epochs": 5}
    whole = train("whole", **arguments)
    record = loop._record

    def record_and_die(*values: Any) -> None:
        record(*values)
        if values[-1]["epoch"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_record", record_and_die)
    with pytest.raises(KeyboardInterrupt):
        train("parts", **arguments)
    monkeypatch.undo()
    assert len(read_metrics(tmp_path / "parts")) == 2
    torch.manual_seed(12345)  # whatever the new process's generators say
    parts = train("parts", resume=True, **arguments)
    assert parts.history == whole.history
    first, second = (load_file(result.best / "model.safetensors") for result in (whole, parts))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_kill_after_the_last_checkpoint_loses_no_epoch(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunFolder.save_history

    def stop_at_the_last(run: RunFolder, history: list) -> None:
        if len(history) == 3:
            raise KeyboardInterrupt
        save(run, history)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_history", stop_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            train()
    assert len(read_metrics(tmp_path / "run")) == 2
    train(resume=True)
    assert [entry["epoch"] for entry in read_metrics(tmp_path / "run")] == [0, 1, 2]


def test_a_run_on_a_full_disk_is_taken_up_when_there_is_space(
    train: Callable, small_disk: Path, embeddings: Path, tiny_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    whole = train("whole", preset="improved")
    words = ["train", str(embeddings), "--model", str(tiny_folder), "--preset", "improved", "--num-epochs", "3"]
    words += ["--batch-size", "16", "--learning-rate", "0.01", "--report-to", "none"]
    run = small_disk / "run"
    ballast = fill_disk(small_disk, 60_000)
    assert main([*words, "--output", str(run)]) == 2
    assert "the disk is full. Free some space, then run the same command again" in capsys.readouterr().err
    ballast.unlink()
    assert main([*words, "--output", str(run), "--resume"]) == 0
    assert read_metrics(run) == read_metrics(whole.best.parent)
    assert (run / "best/model.safetensors").read_bytes() == (whole.best / "model.safetensors").read_bytes()


def test_two_runs_do_not_share_a_folder(train: Callable, tmp_path: Path) -> None:
    with OutputLock(tmp_path / "run"), pytest.raises(OutputInUseError, match="is writing this output"):
        train()
    train()
    assert not list((tmp_path / "run").glob(".lock"))


def test_a_finished_run_resumes_to_itself(train: Callable) -> None:
    first = train()
    assert train(resume=True).history == first.history


def test_early_stopping_keeps_the_best_epoch(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(loop, "compute_mean_spearman", lambda _: next(values))
    result = train(selection="spearman", patience=2, num_epochs=5)
    assert (result.best_epoch, result.num_epochs) == (1, 4)


def test_finished() -> None:
    from modeling_apex.training.arguments import build_arguments

    arguments = build_arguments(patience=3, num_epochs=10)
    assert not has_finished(loop.Progress(), arguments)
    assert not has_finished(loop.Progress([{}] * 4, best_epoch=1), arguments)
    assert has_finished(loop.Progress([{}] * 5, best_epoch=1), arguments)
    assert has_finished(loop.Progress([{}] * 10, best_epoch=9), arguments)


def test_nan_loss_stops_and_keeps_the_last_good_epoch(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = HeadsTask.compute_error_sums

    def break_third_epoch(self: HeadsTask, module: Any, batch: int) -> Any:
        sums, counts = compute(self, module, batch)
        return (sums * float("nan") if self._epoch == 2 and batch == 1 else sums), counts

    monkeypatch.setattr(HeadsTask, "compute_error_sums", break_third_epoch)
    with pytest.raises(TrainingDivergedError, match=r"is nan in epoch 2, batch 1 \(songs 'train-\d+'.* epoch so far"):
        train(num_epochs=5)
    assert [entry["epoch"] for entry in read_metrics(tmp_path / "run")] == [0, 1]
    ApexModel.from_pretrained(tmp_path / "run" / "best")


def test_damaged_embeddings_are_named(tmp_path: Path, tiny_model: ApexModel, identity: dict, quick: Callable) -> None:
    folder = write_embeddings(tmp_path / "damaged", SIZES, identity)
    store = open_embedding_store(folder, tmp_path / "columns")
    columns = next(path for path in (tmp_path / "columns").iterdir() if not path.name.endswith("-audio"))
    means = np.load(columns / "train.song_embeddings.npy", mmap_mode="r+")
    means[7] = np.nan
    means.flush()
    assert store.get_split("train").num_songs == 60
    with pytest.raises(TrainingDivergedError, match=r"embeddings not finite: 'train-7'.*no epoch was finished"):
        train_model(folder, tmp_path / "run", quick(), model=tiny_model, cache_dir=tmp_path / "columns")


def test_refuses_a_folder_that_holds_a_run(train: Callable) -> None:
    train()
    with pytest.raises(FileExistsError, match="already holds a run"):
        train()
    with pytest.raises(ValueError, match=r"other arguments \(learning_rate was 0.01, now 0.5\)"):
        train(resume=True, learning_rate=0.5)


def test_refuses_to_resume_nothing(train: Callable) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        train(resume=True)


def test_refuses_to_resume_on_other_data(train: Callable, tmp_path: Path, identity: dict) -> None:
    train()
    other = write_embeddings(tmp_path / "other", SIZES, identity, seed=5)
    with pytest.raises(ValueError, match="other data"):
        train(data=other, resume=True)


def test_refuses_to_resume_a_run_that_did_not_note_what_it_learned_from(train: Callable, tmp_path: Path) -> None:
    train()
    path = tmp_path / "run" / "data.json"
    data = json.loads(path.read_text())
    del data["weights_sha256"]
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="earlier version, which did not note weights_sha256, so nothing shows that"):
        train(resume=True)


def test_refuses_embeddings_of_another_model(train: Callable, tiny_model: ApexModel) -> None:
    with torch.no_grad():
        next(tiny_model.encoder.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match=r"embeddings of another model or precision.*weights_sha256"):
        train()


def test_refuses_a_missing_validation_split(train: Callable, tmp_path: Path, identity: dict) -> None:
    folder = write_embeddings(tmp_path / "no-validation", {"train": 10, "test": 5}, identity)
    with pytest.raises(ValueError, match="no split 'validation' with songs; there is train, test"):
        train(data=folder)


def test_refuses_a_head_without_labels(train: Callable, tmp_path: Path, identity: dict) -> None:
    nothing = np.full(20, np.nan)
    folder = write_embeddings(tmp_path / "unlabelled", SIZES, identity, labels={"validation": {"clarity": nothing}})
    with pytest.raises(ValueError, match="no labels for clarity in the split 'validation'"):
        train(data=folder)
    train(data=folder, task="popularity")


def test_refuses_groups_on_both_sides(train: Callable, tmp_path: Path, identity: dict) -> None:
    groups: dict = {"train": ["a"] * 60, "validation": ["b"] * 19 + ["a"]}
    folder = write_embeddings(tmp_path / "shared", SIZES, identity, groups=groups)
    with pytest.raises(ValueError, match="1 groups are both in train and in validation, for example 'a'"):
        train(data=folder, preset="improved")
    train(data=folder, preset="published")
    folder = write_embeddings(tmp_path / "none", SIZES, identity, groups={"train": [None] * 60})
    with pytest.raises(ValueError, match="songs without a `group`"):
        train("second", data=folder, preset="improved")


def test_refuses_constant_labels_to_standardise(train: Callable, tmp_path: Path, identity: dict) -> None:
    folder = write_embeddings(tmp_path / "constant", SIZES, identity, labels={"train": {"clarity": np.full(60, 3.0)}})
    with pytest.raises(ValueError, match="all training labels of clarity are the same"):
        train(data=folder, standardize_targets=True)


def test_refuses_to_train_the_encoder_on_embeddings(train: Callable) -> None:
    with pytest.raises(ValueError, match="`train_encoder` learns from audio"):
        train(train_encoder=True)


def test_tasks_import_what_they_share_and_not_each_other() -> None:
    rooms = ("heads", "encoder", "fusion", "tiny")
    for room in rooms:
        paths = sorted((Path(loop.__file__).parent / room).glob("*.py"))
        assert paths
        for path in paths:
            found = set(re.findall(r"modeling_apex\.training\.(\w+)\.", path.read_text())) & set(rooms)
            assert found <= {room}, path


def test_labels_come_from_where_the_command_says(
    embeddings: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def open_nothing(*places: Any, **options: Any) -> None:
        raise ValueError(f"asked for {options}")

    for module in (heads_task, evaluate):
        monkeypatch.setattr(module, "open_embedding_store", open_nothing)
    rest = ["--model", str(tiny_folder), "--songs", "dataset", "--recheck"]
    for words in (
        ["train", str(embeddings), "--output", str(tmp_path / "run")],
        ["conditions", str(embeddings), "--output", str(tmp_path / "runs")],
        ["evaluate", str(embeddings)],
    ):
        assert main([*words, *rest]) == 2
        assert "asked for {'songs': 'dataset', 'rereads': True}" in capsys.readouterr().err, words


def test_goes_on_from_the_heads_of_a_model(train: Callable, tiny_model: ApexModel, quick: Callable) -> None:
    model = build_trained_model(tiny_model, quick(initial_heads="model"))
    assert all(torch.equal(value, tiny_model.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="initial_heads='model' needs a model with the heads and trunk"):
        train(initial_heads="model", num_shared_layers=3)


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match="1 training rows for 1 processes; at least 2 are needed"):
        refuse_few_rows(1, 1)


def test_no_best_weights_before_the_first_epoch(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no epoch was finished"):
        loop.load_best_weights(RunFolder(tmp_path))


@pytest.mark.parametrize(("num_rows", "batch_size"), [(2, 512), (9, 4), (100, 7), (17, 2)])
def test_batches_hold_every_row_once_and_none_is_alone(num_rows: int, batch_size: int) -> None:
    batches = plan_batches(num_rows, batch_size, 0, 3)
    assert sorted(np.concatenate(batches).tolist()) == list(range(num_rows))
    assert min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= batch_size + 1
    again = plan_batches(num_rows, batch_size, 0, 3)
    assert all(np.array_equal(one, two) for one, two in zip(batches, again, strict=True))


def test_two_processes_train_as_one(tmp_path: Path, embeddings: Path, tiny_folder: Path, quick: Callable) -> None:
    """The same metrics within 1e-4 and the same stopping epoch, through torchrun on two CPU processes."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from modeling_apex.training.arguments import build_arguments
            from modeling_apex.training.processes import close_processes
            from modeling_apex.training.train import train

            arguments = build_arguments(
                "improved", num_epochs=12, batch_size=16, learning_rate=0.01, report_to="none", patience=1
            )
            train(sys.argv[1], sys.argv[2], arguments, model=sys.argv[3], cache_dir=sys.argv[4])
            close_processes()
            """
        )
    )
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    for count in ("1", "2"):
        places = [tmp_path / f"run-{count}", tiny_folder, tmp_path / f"columns-{count}"]
        words = [*command, count, str(script), str(embeddings), *map(str, places)]
        run_in_repository(words, environment)
    assert json.loads((tmp_path / "run-2" / "environment.json").read_text())["num_processes"] == 2
    one, two = read_metrics(tmp_path / "run-1"), read_metrics(tmp_path / "run-2")
    assert len(one) == len(two) < 12
    for first, second in zip(one, two, strict=True):
        assert first["training_loss"] == pytest.approx(second["training_loss"], abs=1e-4)
        assert first["mean_spearman"] == pytest.approx(second["mean_spearman"], abs=1e-4)
        for name, metrics in first["validation"].items():
            assert metrics == pytest.approx(second["validation"][name], rel=1e-4, abs=1e-4)


def run_in_repository(words: list[str], environment: dict[str, str]) -> None:
    environment = {**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr[-3000:]
