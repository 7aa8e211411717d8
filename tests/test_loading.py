"""Loading by name: which door opens, what it refuses, and one hash of a model by each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_apex import ApexModel, SongScorer, SpectrogramFusionModel, load_pipeline, load_scorer
from modeling_apex.checkpoints.convert_songeval import _build_config
from modeling_apex.checkpoints.published import read_encoder, read_heads
from modeling_apex.cli import main
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.engines.plain_folder import PlainModel
from modeling_apex.loading import find_model_class, load_apex_model, load_model

from fusion_models import build_fusion_model

SongFile = Callable[..., Path]


def change_weight(folder: Path, name: str) -> None:
    """Put another file of weights in the place of the old one, as a download does."""
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: weights[name] + 0.5}, folder / "new", metadata={"format": "pt"})
    (folder / "new").replace(folder / "model.safetensors")


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_doors_return_what_they_say(tiny_folder: Path, tmp_path: Path) -> None:
    assert type(load_scorer(tiny_folder).model) is PlainModel
    assert type(load_scorer(tiny_folder, dtype="bfloat16").model) is ApexModel
    assert type(load_model(tiny_folder)) is type(load_apex_model(tiny_folder)) is ApexModel
    build_fusion_model().save_pretrained(tmp_path / "fusion")
    scorer = load_scorer(tmp_path / "fusion", batch_size=3)
    assert type(scorer) is SongScorer
    assert type(scorer.model) is SpectrogramFusionModel
    assert scorer.batch_size == 3
    assert load_scorer(scorer.model).model is scorer.model


def test_float32_has_two_names(tiny_folder: Path, song_file: SongFile) -> None:
    song = str(song_file())
    assert type(load_scorer(tiny_folder, dtype=torch.float32, device=torch.device("cpu")).model) is PlainModel
    by_transformers = load_scorer(tiny_folder, device="cpu:0", dtype=torch.float32)
    assert type(by_transformers.model) is ApexModel
    assert list(by_transformers.score([song])) == list(load_scorer(tiny_folder).score([song]))


def test_what_cannot_be_loaded_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in this folder"):
        load_scorer(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"(?s)nobody/nowhere: no such folder.*To work offline"):
        load_scorer("nobody/nowhere")
    with pytest.raises(ValueError, match="`engine` must be one of"):
        load_scorer(tiny_folder, engine="tensorrt")
    with pytest.raises(ValueError, match="`dtype` 'bfloat16' is for the default path; with an engine, name a `pre"):
        load_scorer(tiny_folder, dtype="bfloat16", precision="bf16")
    change_config(tiny_folder, model_type="bert")
    with pytest.raises(ValueError, match="its config names the model type 'bert'; expected one of apex, spectrogram"):
        load_scorer(tiny_folder)


def test_a_model_without_such_an_encoder_takes_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_fusion_model()
    for options in ({"engine": "onnx"}, {"precision": "bf16"}, {"compile": True}):
        with pytest.raises(ValueError, match="a spectrogram-fusion model has no encoder that an engine could run"):
            load_scorer(model, **options)
    # On a GPU, even the default path is an engine for models that can have one.
    monkeypatch.setattr(SpectrogramFusionModel, "device", torch.device("cuda"))
    assert load_scorer(model).model is model


@pytest.mark.parametrize("device", ["meta", "xla", "cuda:99", "nonsense"])
@pytest.mark.parametrize("load", [load_scorer, load_pipeline])
def test_a_device_on_which_nothing_can_be_computed_is_refused_at_once(load, device: str, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=f"'{device}' is (not available with torch|not a device)"):
        load(tiny_folder, device=device)


def test_a_model_has_one_hash_by_every_door(tiny_folder: Path, tmp_path: Path) -> None:
    found = compute_scores_hash(load_scorer(tiny_folder).model)
    assert len(found) == 64
    assert compute_scores_hash(load_scorer(tiny_folder, device="cpu:0").model) == found
    assert compute_scores_hash(load_pipeline(tiny_folder).scorer.model) == found
    assert compute_scores_hash(load_scorer(load_model(tiny_folder)).model) == found
    shutil.copytree(tiny_folder, tmp_path / "copy")
    change_config(tmp_path / "copy", provenance={"notice": "elsewhere"})
    assert compute_scores_hash(load_scorer(tmp_path / "copy").model) == found, "names do not count"


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_a_changed_model_has_another_hash(tiny_folder: Path, device: str) -> None:
    before = load_scorer(tiny_folder, device=device)
    change_weight(tiny_folder, "branch_clarity.branch.2.bias")
    hashes = [compute_scores_hash(load_scorer(tiny_folder, device=device).model)]
    change_weight(tiny_folder, "encoder.encoder.layers.1.layer_norm.bias")
    hashes.append(compute_scores_hash(load_scorer(tiny_folder, device=device).model))
    for fields in (
        {"layer_indices": [0, 1, 1, -1]},
        {"popularity_exponent": 2.5},
        {"percentile_tables": {"coherence": [1 + 0.04 * row for row in range(101)]}},
        {"sampling_rate": 12_000, "segment_seconds": 0.2},
    ):
        change_config(tiny_folder, **fields)
        hashes.append(compute_scores_hash(load_scorer(tiny_folder, device=device).model))
    assert len({*hashes, compute_scores_hash(before.model)}) == 7


def test_the_hash_is_of_what_was_loaded(tiny_folder: Path) -> None:
    expected = compute_scores_hash(load_scorer(tiny_folder).model)
    scorer = load_scorer(tiny_folder)
    change_weight(tiny_folder, "encoder.encoder.layers.1.layer_norm.bias")
    assert compute_scores_hash(load_scorer(tiny_folder).model) != expected
    assert compute_scores_hash(scorer.model) == expected


def test_a_fusion_model_has_a_hash_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_fusion_model().save_pretrained(tmp_path / name)
    build_fusion_model(seed=1).save_pretrained(tmp_path / "c")
    build_fusion_model(hit_threshold=60.0).save_pretrained(tmp_path / "d")
    first, same, *others = (compute_scores_hash(load_scorer(tmp_path / name).model) for name in "abcd")
    assert first == same
    assert len({first, *others}) == 3


def test_parameters_are_counted_alike(tiny_folder: Path) -> None:
    plain, model = load_scorer(tiny_folder).model, load_model(tiny_folder)
    assert plain.num_parameters() == model.num_parameters() == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{}", r"its config names the model type None; expected one of apex, spectrogram-fusion"),
        ('{"model_type": "hubert"}', r"its config names the model type 'hubert'; expected one of"),
        ('{"model_type": "muq"}', r"its config names the model type 'muq'; expected one of .*, songeval"),
        ("[]", r"config\.json: must hold the fields of a config by name, `model_type` a text, got \[\]"),
    ],
)
def test_the_pipeline_is_of_our_models(tiny_folder: Path, fields: str, message: str) -> None:
    (tiny_folder / "config.json").write_text(fields)
    for load in (load_pipeline, load_scorer):
        with pytest.raises(ValueError, match=message):
            load(tiny_folder)


@pytest.mark.parametrize("content", ["[]", '"apex"', "3", "null"])
def test_a_config_on_the_hub_that_holds_no_fields_is_refused(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "downloaded.json"
    path.write_text(content)
    monkeypatch.setattr("transformers.configuration_utils.cached_file", lambda *_, **__: str(path))
    monkeypatch.setattr("modeling_apex.loading.choose_hub_options", lambda name, options: options)
    with pytest.raises(ValueError, match=r"owner/name: its config\.json must hold the fields of a config by name"):
        find_model_class("owner/name")


@pytest.mark.parametrize("content", ["[]", '"apex"', "3", "null"])
@pytest.mark.parametrize("command", ["score", "rank", "evaluate", "embed", "export"])
def test_files_of_a_model_that_hold_no_fields_are_named(
    command: str,
    content: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("songs").mkdir()
    Path("songs/a.wav").touch()
    songs = [] if command == "export" else ["songs"]
    output = ["--output", "out"] if command in ("embed", "export") else []
    (tiny_folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    for name in ("model.safetensors.index.json", "config.json"):
        (tiny_folder / name).write_text(content)
        assert main([command, *songs, "--model", str(tiny_folder), *output]) == 2
        assert f"{tiny_folder / name}: must hold " in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "3"])
def test_configs_of_what_is_converted_must_hold_fields(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").touch()
    for read in (read_encoder, read_heads):
        with pytest.raises(ValueError, match=r"config\.json: must hold fields by name, got .*\. Download the "):
            read(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json: must hold fields by name, got .*\. Download MuQ again"):
        _build_config(tmp_path / "config.json", tmp_path / "model.safetensors", None)
