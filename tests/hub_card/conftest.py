"""A model with results, a loopback Hub, and a client that may reach it."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from modeling_apex import ApexFeatureExtractor, ApexModel

from loopback_hub import LoopbackHub, run_loopback_hub
from result_layouts import make_recipe_results


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
