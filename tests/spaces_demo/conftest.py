"""A running Space over a random model, shared by the tests of this folder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch

from modeling_apex import ApexConfig, ApexModel, PreferenceHead
from spaces_demo.app import build_app, build_launch_options
from spaces_demo.scoring import Scorer
from spaces_demo.settings import SpaceSettings

from waveforms import make_waveform

SEGMENT_SECONDS = 2.0
NOTICE = "demonstration model, trained on nothing."


@pytest.fixture(scope="session")
def space_model() -> ApexModel:
    """A random model whose scores differ from song to song, with segments long enough for a timeline."""
    torch.manual_seed(0)
    encoder = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8, 8, 8],
        "conv_kernel": [40, 8, 8],
        "conv_stride": [20, 8, 6],
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "apply_spec_augment": False,
    }
    config = ApexConfig(
        encoder_config=encoder,
        layer_indices=[0, 1, 2],
        segment_seconds=SEGMENT_SECONDS,
        shared_dims=[12, 8],
        branch_dims=[6, 4],
        provenance={"notice": NOTICE, "labels": "<none>"},
    )
    model = ApexModel(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and name.startswith(("shared", "branch")) and "running" not in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.6)
    return model.eval()


@pytest.fixture(scope="session")
def model_folder(space_model: ApexModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder, with nothing beside its weights."""
    folder = tmp_path_factory.mktemp("models") / "random-model"
    space_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder_with_head(space_model: ApexModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a preference head and result files beside its weights."""
    folder = tmp_path_factory.mktemp("models") / "voting-model"
    space_model.save_pretrained(folder)
    weights = dict.fromkeys(space_model.config.head_names, 0.5)
    PreferenceHead(weights, training={"num_battles": 400, "held_out_auc": 0.625}).save_pretrained(folder)
    number = {"value": 0.123456, "low": 0.012345, "high": 0.234567}
    scores = {
        name: {"num_songs": 1234, "spearman": number, "spearman_ceiling": 0.9, "mae": number}
        for name in space_model.config.head_names
    }
    baselines = {"baselines": {"median": {"mae": 21.5}}}
    evaluation = {"scores": {name: numbers | baselines for name, numbers in scores.items()}}
    (folder / "results.json").write_text(json.dumps({"evaluations": {"unseen": evaluation}}))
    return folder


@pytest.fixture(scope="session")
def songs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs of 5 s, one of 13 s, and a text that calls itself a song."""
    folder = tmp_path_factory.mktemp("songs")
    for number, name in enumerate(("first", "second", "third")):
        soundfile.write(folder / f"{name}.wav", make_waveform(5.0, 16_000, seed=number), 16_000)
    soundfile.write(folder / "long.wav", make_waveform(13.0, 8_000), 8_000)
    (folder / "broken.mp3").write_text("This is not a song. " * 50)
    return folder


@pytest.fixture(scope="session")
def space_settings(model_folder: Path, folder_with_head: Path) -> SpaceSettings:
    return SpaceSettings(
        models=(str(model_folder), str(folder_with_head)),
        max_seconds=30.0,
        max_megabytes=1.0,
        max_songs=6,
        queue_size=8,
    )


@pytest.fixture(scope="session")
def scorer(space_settings: SpaceSettings) -> Scorer:
    return Scorer(space_settings)


@pytest.fixture(scope="session")
def report(scorer: Scorer, songs_folder: Path) -> dict[str, Any]:
    """The report of a song of three segments, the last of them half silence."""
    return scorer.score(str(songs_folder / "first.wav"))


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[SpaceSettings], SimpleNamespace]]:
    """A factory of running Spaces, each with its `url` and `settings`; all are closed at the end."""
    running = []

    def start(settings: SpaceSettings) -> SimpleNamespace:
        app = build_app(settings)
        options = build_launch_options(settings)
        _, url, _ = app.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **options)
        running.append(app)
        return SimpleNamespace(url=url, settings=settings)

    yield start
    for app in running:
        app.close(verbose=False)


@pytest.fixture(scope="session")
def space(serve: Callable[[SpaceSettings], SimpleNamespace], space_settings: SpaceSettings) -> SimpleNamespace:
    """One running Space for all tests that do not change it."""
    return serve(space_settings)
