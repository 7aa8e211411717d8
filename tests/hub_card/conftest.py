"""A model with results, a loopback Hub, and a client that may reach it."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from modeling_apex import ApexFeatureExtractor, ApexModel

from loopback_hub import LoopbackHub, run_loopback_hub


def make_recipe_results(head_names: list[str]) -> dict[str, Any]:
    """Results in the layout that apex-tiny's recipe writes; the numbers are made up to be recognised."""
    scores = {
        name: {
            "num_songs": 100 + position,
            "spearman": 0.61 + position / 100,
            "spearman_interval": [0.52, 0.7],
            "spearman_ceiling": 0.9,
            "pearson": 0.63,
            "mse": 0.41,
            "mse_of_training_mean": 0.8,
            "mae": 0.5,
            "mae_of_training_median": 0.7,
            "target": 0.5,
            "is_met": True,
        }
        for position, name in enumerate(head_names)
    }
    training = {"num_parameters": 1, "num_songs": 2000, "song_seconds": 20.0, "command": "make tiny"}
    evaluations = {name: {"num_songs": 300, "seed": 7, "scores": scores} for name in ("test", "unseen")}
    return {"training": training, "evaluations": evaluations}


def make_split_results(head_names: list[str]) -> dict[str, Any]:
    """Results in the layout of `apex-music evaluate`."""

    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    head = {
        "num_songs": 50,
        "mse": estimate(650.0),
        "mae": estimate(20.0),
        "pearson": estimate(0.35),
        "spearman": estimate(0.37),
        "baselines": {"mean": {"mse": 793.0, "mae": 23.4}, "median": {"mse": 800.0, "mae": 21.5}},
    }
    heads = {name: head for name in head_names}
    splits = {"test": {"all": heads, "suno": heads}}
    return {"model": "m", "label_sources": ["pseudo-labels"], "num_draws": 1000, "splits": splits}


@pytest.fixture
def tiny_release(tiny_model: ApexModel, tmp_path: Path) -> Path:
    """A model folder as training leaves it: weights, configs and results; it says that it is apex-tiny."""
    folder = tmp_path / "release"
    tiny_model.config.provenance = {"name": "apex-tiny", "notice": "demonstration model, trained on synthetic songs"}
    tiny_model.save_pretrained(folder)
    ApexFeatureExtractor.from_config(tiny_model.config).save_pretrained(folder)
    (folder / "results.json").write_text(json.dumps(make_recipe_results(tiny_model.config.head_names)))
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub on the loopback that the client of this process may reach; waits between retries are skipped."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    with run_loopback_hub() as server:
        monkeypatch.setenv("HF_TOKEN", server.write_token)
        yield server


@pytest.fixture
def api(hub: LoopbackHub) -> huggingface_hub.HfApi:
    """The real client; its token comes from the environment, as a user's would."""
    return huggingface_hub.HfApi(endpoint=hub.url)
