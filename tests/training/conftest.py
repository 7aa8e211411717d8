"""Fixtures of the training tests: small datasets and embeddings of the tiny model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modeling_apex import ApexModel
from modeling_apex.corpus.embedding_manifest import build_identity
from modeling_apex.training.arguments import ApexTrainingArguments, build_arguments

from song_folders import write_embeddings


@pytest.fixture
def identity(tiny_model: ApexModel) -> dict:
    return build_identity(tiny_model, dtype="float32", resampler="sinc")


@pytest.fixture
def embeddings(tmp_path: Path, identity: dict) -> Path:
    """Embeddings that carry their labels, 90 songs in three splits."""
    return write_embeddings(tmp_path / "embeddings", {"train": 60, "validation": 20, "test": 10}, identity)


@pytest.fixture
def quick() -> Callable[..., ApexTrainingArguments]:
    """A factory of arguments for a run of a second."""

    def build(preset: str = "published", **differences: object) -> ApexTrainingArguments:
        defaults = {"num_epochs": 3, "batch_size": 16, "learning_rate": 0.01, "report_to": "none"}
        return build_arguments(preset, **{**defaults, **differences})

    return build
