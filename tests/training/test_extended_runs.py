"""Runs that are extended by more epochs: what goes on, what the learning rate is, what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import modeling_apex.training.loop as loop
from modeling_apex import ApexModel
from modeling_apex.training.run_folder import RESULTS_NAME, SCHEDULES_NAME, RunFolder
from modeling_apex.training.train import train as train_model

RATE = 0.01


@pytest.fixture
def train(embeddings: Path, tiny_model: ApexModel, quick: Callable, tmp_path: Path) -> Callable[..., Any]:
    def run(name: str = "run", *, resume: bool = False, **arguments: Any) -> Any:
        given = {"learning_rate": RATE, **arguments}
        return train_model(embeddings, tmp_path / name, quick(**given), model=tiny_model, resume=resume)

    return run


def list_rates(num_epochs: int, start: int = 0) -> list[float]:
    return [RATE * (1 + math.cos(math.pi * epoch / num_epochs)) / 2 for epoch in range(start, num_epochs)]


def test_more_epochs_go_on_under_the_rates_of_the_longer_run(train: Callable, tmp_path: Path) -> None:
    first = train(num_epochs=2)
    longer = train(num_epochs=6, resume=True)
    assert longer.history[:2] == first.history
    rates = [entry["learning_rate"] for entry in longer.history]
    assert rates == pytest.approx([*list_rates(2), *list_rates(6, start=2)])
    run = tmp_path / "run"
    schedules = [{"from_epoch": 0, "num_epochs": 2}, {"from_epoch": 2, "num_epochs": 6}]
    assert json.loads((run / SCHEDULES_NAME).read_text()) == longer.results["schedules"] == schedules
    assert json.loads((run / "arguments.json").read_text())["num_epochs"] == 6
    training = ApexModel.from_pretrained(longer.best).config.provenance["training"]
    assert (training["schedules"], training["arguments"]["num_epochs"]) == (schedules, 6)
    assert "schedules" not in ApexModel.from_pretrained(train("short").best).config.provenance["training"]
    with pytest.raises(ValueError, match=r"\(num_epochs was 6, now 5\)\. Resume with the same, or with more num"):
        train(num_epochs=5, resume=True)


def test_an_extension_that_was_interrupted_equals_one_that_was_not(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "parts"):
        train(name, num_epochs=2)
    whole = train("whole", num_epochs=6, resume=True)
    record = loop._record

    def record_and_die(*values: Any) -> None:
        record(*values)
        if values[-1]["epoch"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_record", record_and_die)
        with pytest.raises(KeyboardInterrupt):
            train("parts", num_epochs=6, resume=True)
    assert not (tmp_path / "parts" / RESULTS_NAME).exists(), "that of the shorter run is no longer true"
    torch.manual_seed(12345)
    parts = train("parts", num_epochs=6, resume=True)
    assert parts.history == whole.history
    assert parts.results["schedules"] == whole.results["schedules"]
    first, second = (load_file(result.best / "model.safetensors") for result in (whole, parts))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_worse_extension_keeps_the_best_epoch(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.1, 0.5, 0.4, 0.3])
    monkeypatch.setattr(loop, "compute_mean_spearman", lambda _: next(values))
    first = train(selection="spearman", num_epochs=2)
    longer = train(selection="spearman", num_epochs=4, resume=True)
    assert (longer.best_epoch, longer.num_epochs) == (1, 4)
    tensors = [load_file(path / "model.safetensors") for path in (first.best, longer.best)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_more_patience_lets_a_run_go_on_that_patience_ended(train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 0.4, 0.3, 0.6, 0.2])
    monkeypatch.setattr(loop, "compute_mean_spearman", lambda _: next(values))
    ended = train(selection="spearman", patience=2, num_epochs=5)
    assert (ended.num_epochs, ended.results["ended_by"], ended.results["still_improving"]) == (3, "patience", False)
    assert train(selection="spearman", patience=2, num_epochs=8, resume=True).num_epochs == 3
    assert train(selection="spearman", patience=2, num_epochs=8, resume=True).results["ended_by"] == "patience"
    with pytest.raises(StopIteration):  # it trains on until the made-up values end
        train(selection="spearman", patience=4, num_epochs=8, resume=True)


def test_a_run_goes_on_with_the_batch_size_that_it_began_with(train: Callable, tmp_path: Path) -> None:
    assert train(batch_size=30).results["batch_size"] == 30
    assert train(batch_size=None, resume=True).results["batch_size"] == 30
    with pytest.raises(ValueError, match="batch_size was 30, now 12"):
        train(batch_size=12, resume=True)
    assert train("new", batch_size=None).results["batch_size"] == 8
    path = tmp_path / "new" / "arguments.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"arguments\.json: .* Start a new run: apex-music train with another"):
        train("new", batch_size=None, resume=True)


def test_a_run_of_an_earlier_version_has_one_schedule(train: Callable, tmp_path: Path) -> None:
    train(num_epochs=2)
    (tmp_path / "run" / SCHEDULES_NAME).unlink()
    assert RunFolder(tmp_path / "run").load_schedules() == [{"from_epoch": 0, "num_epochs": 2}]
    extended = train(num_epochs=3, resume=True).results["schedules"]
    assert extended == [{"from_epoch": 0, "num_epochs": 2}, {"from_epoch": 2, "num_epochs": 3}]
