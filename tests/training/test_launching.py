"""What `accelerate launch` really starts, and what is said where that is not what was asked for."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import PATIENCE

from modeling_apex.training.processes import build_accelerator, explain_single_process, warn_once

REPOSITORY = Path(__file__).parents[2]
LAUNCHED = {"ACCELERATE_DYNAMO_BACKEND": "no", "ACCELERATE_USE_CPU": "True"}
SEVERAL = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_accelerate_launch_on_cpus_trains_in_one_process_and_says_so(
    tmp_path: Path, embeddings: Path, tiny_folder: Path
) -> None:
    words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu"]
    words += ["-m", "modeling_apex.cli", "train", str(embeddings), "--model", str(tiny_folder)]
    words += ["--output", str(tmp_path / "run"), "--num-epochs", "1", "--report-to", "none"]
    unset = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", *SEVERAL)}
    environment = {**unset, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr[-3000:]
    num_processes = json.loads((tmp_path / "run" / "environment.json").read_text())["num_processes"]
    is_said = "accelerate launch was asked for several processes and started one" in result.stderr
    assert (num_processes, is_said) in ((1, True), (2, False)), "the second, should Accelerate learn it"


@pytest.mark.parametrize(
    ("environment", "is_explained"),
    [
        ({}, False),
        (LAUNCHED, False),  # of one process
        (SEVERAL, False),  # not by Accelerate
        ({**LAUNCHED, **SEVERAL}, True),
        ({**LAUNCHED, **SEVERAL, "WORLD_SIZE": "2"}, False),
    ],
)
def test_what_the_launcher_leaves_tells_what_was_asked_for(
    environment: dict, is_explained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*LAUNCHED, *SEVERAL, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (explain_single_process() is not None) == is_explained


def test_it_is_said_once(
    tmp_path: Path, quick: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("modeling_apex.training.processes.explain_single_process", lambda: "started one")
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            build_accelerator(quick(), tmp_path)
    warn_once.cache_clear()
    assert [record.message for record in caplog.records].count("started one") == 1
