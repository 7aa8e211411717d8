"""A model with results."""

import json
from pathlib import Path

import pytest

from modeling_apex import ApexFeatureExtractor, ApexModel

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
