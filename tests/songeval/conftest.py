"""SongEval as published, small and random, and what the converter makes of it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from modeling_apex.checkpoints.convert_songeval import SongEvalConversion, convert_songeval
from modeling_apex.inference.modeling_songeval_apex import SongEvalModel

import published_songeval


@dataclass
class Published:
    """Both sources on disk, and their weights together."""

    encoder: Path
    head: Path
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published")
    encoder, head = folder / "MuQ-small", folder / "SongEval" / "model.safetensors"
    weights = published_songeval.write_muq_folder(encoder) | published_songeval.write_songeval_head(head)
    return Published(encoder, head, weights)


@pytest.fixture(scope="session")
def conversion(published: Published, tmp_path_factory: pytest.TempPathFactory) -> SongEvalConversion:
    return convert_songeval(published.head, published.encoder, tmp_path_factory.mktemp("converted") / "songeval")


@pytest.fixture
def model(conversion: SongEvalConversion) -> SongEvalModel:
    return SongEvalModel.from_pretrained(conversion.folder)
