"""What tests of whole corpora share."""

from pathlib import Path

import pytest

from small_model import build_small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model, as processes load it by its name."""
    folder = tmp_path_factory.mktemp("model")
    build_small_model().save_pretrained(folder)
    return folder
