"""Weights that are used for long stay what they were loaded as, whatever becomes of their file."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_apex import ApexModel, SpectrogramFusionModel, load_pipeline
from modeling_apex.engines.mapped_weights import WatchedFiles
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.engines.plain_folder import PlainModel
from modeling_apex.loading import load_scorer

from fusion_models import build_fusion_model


def overwrite(path: Path) -> None:
    """Overwrite a file in place, as `cp other.safetensors model.safetensors` does."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 20)
        file.write(bytes(size - size // 20))


def cut(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("damage", [overwrite, cut])
@pytest.mark.parametrize("door", [load_scorer, load_pipeline], ids=["plain", "transformers"])
def test_scores_do_not_change_in_mid_run(
    tiny_folder: Path, door: Callable[[Path], Any], damage: Callable[[Path], None], song_file: Callable[..., Path]
) -> None:
    scorer, song = door(tiny_folder), str(song_file())
    score = scorer if door is load_pipeline else lambda song: next(iter(scorer.score([song])))
    before = score(song)["scores"]
    damage(tiny_folder / "model.safetensors")
    assert score(song)["scores"] == before
    with pytest.raises(ValueError, match=r"model\.safetensors: was changed while it was in use"):
        compute_scores_hash(scorer.model)


def test_the_first_song_may_come_after_the_change(tiny_folder: Path, song_file: Callable[..., Path]) -> None:
    expected = next(iter(load_scorer(tiny_folder).score([str(song_file())])))["scores"]
    scorer = load_scorer(tiny_folder)
    assert isinstance(scorer.model, PlainModel)
    overwrite(tiny_folder / "model.safetensors")
    assert next(iter(scorer.score([str(song_file())])))["scores"] == expected


def test_an_encoder_that_is_packed_after_the_change_is_refused(tiny_folder: Path) -> None:
    model = ApexModel.from_pretrained(tiny_folder).eval()
    overwrite(tiny_folder / "model.safetensors")
    with torch.no_grad(), pytest.raises(ValueError, match="was changed while it was in use"):
        model(input_values=torch.randn(1, 1, 2400))


def test_an_encoder_that_runs_itself_is_copied_first(tiny_folder: Path) -> None:
    values = torch.randn(1, 1, 2400, generator=torch.Generator().manual_seed(0))
    model = ApexModel.from_pretrained(tiny_folder).eval()
    hook = model.encoder.register_forward_hook(lambda *_: None)  # such an encoder is not packed
    before = model(input_values=values).scores.detach()
    overwrite(tiny_folder / "model.safetensors")
    assert torch.equal(model(input_values=values).scores, before)
    assert len(compute_scores_hash(model)) == 64  # nothing is mapped any more, so there is nothing to refuse
    hook.remove()


def test_a_model_without_a_frozen_encoder_is_copied(tmp_path: Path) -> None:
    build_fusion_model().save_pretrained(tmp_path)
    model = SpectrogramFusionModel.from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    overwrite(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_is_replaced_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    files = WatchedFiles([path])
    (tmp_path / "new").write_bytes(b"other")
    os.replace(tmp_path / "new", path)
    files.check()
    assert copy.deepcopy(files) is files
