"""Exported folders: complete, and usable where this package is not installed."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoConfig, pipeline
from transformers.dynamic_module_utils import get_imports

from modeling_apex import ApexModel, load_pipeline
from modeling_apex.checkpoints.export import build_short_card, export_model, list_code
from modeling_apex.checkpoints.verification import verify_model

from executed_pages import list_blocks
from strangers import run_elsewhere


@pytest.fixture
def exported(tiny_model: ApexModel, tmp_path: Path) -> Path:
    return export_model(tiny_model, tmp_path / "exported")


def test_folder_is_complete(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    code = {path.name for path in list_code("apex")}
    assert names == {*code, "config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    config = json.loads((exported / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_apex.ApexModel"
    assert config["custom_pipelines"]["apex-popularity"]["impl"] == "pipeline_apex.ApexPopularityPipeline"


def test_code_is_what_scoring_needs_and_no_more() -> None:
    apex, fusion = ({path.name: path for path in list_code(name)} for name in ("apex", "spectrogram-fusion"))
    assert not [name for name in apex if re.search("fusion|track_features|songeval|whole_song", name)]
    songeval = {path.name: path for path in list_code("songeval")}
    assert {"songeval_mel_apex.py", "whole_song_apex.py"} <= set(songeval)
    assert not [name for name in songeval if "fusion" in name]
    assert {"configuration_spectrogram_fusion_apex.py", "track_features_apex.py"} <= set(fusion)
    for path in {**apex, **fusion, **songeval}.values():
        assert not re.search(r"import (pickle|httpx|socket|ctypes)|torch\.load\(|torch\.ops", path.read_text()), path
        assert not re.search(r"packed|published|download", path.stem), path
    assert sum(len(path.read_text().splitlines()) for path in apex.values()) <= 2900


@pytest.mark.parametrize("model_type", ["apex", "spectrogram-fusion", "songeval"])
def test_code_is_all_that_its_files_import(model_type: str) -> None:
    shipped = {path.stem for path in list_code(model_type)}
    for path in list_code(model_type):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in shipped, f"{path.name} imports {node.module}"


@pytest.mark.parametrize("model_type", ["apex", "spectrogram-fusion"])
def test_code_asks_for_what_its_readme_names(model_type: str) -> None:
    asked = {name for path in list_code(model_type) for name in get_imports(path)} - set(sys.stdlib_module_names)
    assert asked <= {"torch", "transformers", "numpy", "huggingface_hub"}, "transformers brings the last"


def test_runs_as_remote_code_without_the_package(exported: Path, song_file, tmp_path: Path) -> None:
    song = song_file("song.wav", 0.35, 44_100, num_channels=2)
    program = """
import json, os, pathlib, shutil, sys
import soundfile, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline
folder, song = sys.argv[1:]
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **trust)
extractor = AutoFeatureExtractor.from_pretrained(folder, **trust)
model = AutoModel.from_pretrained(folder, **trust)
inferred = pipeline(model=folder, **trust)
named = pipeline("apex-popularity", model=folder, **trust)
report = inferred(song, return_timeline=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
assert named(song)["scores"] == report["scores"]
waveform, rate = soundfile.read(song, dtype="float32")
refusals = []
for bad in ("https://example.com/song.mp3", bytes([0, 0, 0, 24]) + b"ftypM4A " + bytes(600)):
    try:
        inferred(bad)
    except ValueError as error:
        refusals.append(str(error))
pathlib.Path("pickle").mkdir()
for name in os.listdir(folder):
    if name.endswith((".py", ".json")):
        shutil.copyfile(f"{folder}/{name}", f"pickle/{name}")
torch.save({}, "pickle/pytorch_model.bin")
elsewhere = json.loads(pathlib.Path("pickle/config.json").read_text())
for changes in ({}, {"mert_model_name": "m-a-p/MERT-v1-95M"}):
    pathlib.Path("pickle/config.json").write_text(json.dumps({**elsewhere, **changes}))
    try:
        AutoModel.from_pretrained("pickle", **trust)
    except (OSError, ValueError) as error:
        refusals.append(str(error))
from_array = inferred(waveform.T, sampling_rate=rate)
features = extractor(torch.zeros(5000), sampling_rate=24000, return_tensors="pt")
assert torch.isfinite(model(**features).scores).all()
print(json.dumps({"scores": report["scores"], "array": from_array["scores"], "segments": len(report["segments"]),
                  "heads": config.head_names, "refusals": refusals}))
"""
    result = run_elsewhere(program, tmp_path, str(exported), str(song))
    here = load_pipeline(exported)(str(song))
    assert result["scores"] == pytest.approx(here["scores"], rel=1e-5)
    assert result["array"] == pytest.approx(here["scores"], rel=1e-5)
    assert result["segments"] == here["num_segments"]
    assert result["heads"] == list(here["scores"])
    reasons = ("is a URL, and", "is not audio that libsndfile", "Only safetensors are loaded", "names its encoder")
    for refusal, reason in zip(result["refusals"], reasons, strict=True):
        assert reason in refusal
        assert "install it with `pip install .` in a clone of its repository" in refusal
    assert result["log"].count("The package apex-music gives the same scores faster: install it") == 1


def test_the_example_of_the_card_runs_elsewhere(exported: Path, song_file, tmp_path: Path) -> None:
    (example,) = list_blocks(exported / "README.md", "python")
    assert "THIS_REPOSITORY" in example
    song_file().rename(tmp_path / "song.mp3")
    program = f"""
import json, os
os.chdir({str(tmp_path)!r})
printed = []
exec({example.replace("THIS_REPOSITORY", str(exported))!r}, {{"print": printed.append}})
print(json.dumps({{"printed": printed}}))
"""
    scores = load_pipeline(exported)(str(tmp_path / "song.mp3"))["scores"]
    assert run_elsewhere(program, tmp_path)["printed"] == [pytest.approx(scores, rel=1e-5)]


def test_installed_package_asks_for_no_trust(exported: Path, song_file) -> None:
    song = str(song_file())
    scorer = pipeline("apex-popularity", model=str(exported))
    assert type(scorer.model) is ApexModel
    assert scorer(song)["scores"] == load_pipeline(exported)(song)["scores"]
    assert not hasattr(AutoConfig.from_pretrained(exported), "custom_pipelines")


def test_export_of_an_export_is_the_same(exported: Path, tmp_path: Path) -> None:
    again = export_model(exported, tmp_path / "again")
    for path in exported.iterdir():
        if path.suffix not in (".json", ".safetensors"):
            assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (exported, again))
    tensors, tensors_again = (load_file(folder / "model.safetensors") for folder in (exported, again))
    for name, tensor in tensors_again.items():
        assert torch.equal(tensors[name], tensor), name
    assert len(tensors) == len(tensors_again)
    # Loading records the precision it loaded in; everything else must be equal.
    assert first["encoder_config"].pop("dtype", None) is None
    assert second["encoder_config"].pop("dtype", "float32") == "float32"
    assert first == second


def test_card_names_scores_ranges_and_origin(tiny_model: ApexModel) -> None:
    tiny_model.config.provenance = {"epoch": 50, "notice": "a demonstration model"}
    card = build_short_card(tiny_model.config)
    assert "| `score_streams` | 0 to 100 | engagement by plays |" in card
    assert "| `clarity` | 1 to 5 | clarity of song structure |" in card
    assert "> a demonstration model" in card
    assert '"epoch": 50' in card


def test_the_card_names_requirements(tiny_model: ApexModel) -> None:
    card = build_short_card(tiny_model.config)
    assert "(`pip install torch transformers soundfile`; it was written with transformers 5." in card


@pytest.mark.parametrize(
    ("provenance", "license_id", "named"),
    [
        (
            {"name": "apex-tiny", "training": {"seed": 0}},
            "apache-2.0",
            "songs | synthetic songs of apex-music | [A",
        ),
        (
            {"encoder": {"source": "m-a-p/MERT-v1-95M"}},
            "cc-by-nc-4.0",
            "encoder | m-a-p/MERT-v1-95M | [CC BY-NC 4.0]",
        ),
        (
            {"encoder": {"source": "m-a-p/MERT-v1-95M"}, "heads": {"source": "amaai-lab/apex"}},
            "other",
            "heads | amaai-lab/apex | none stated",
        ),
        (
            {"name": "mine", "encoder": {"source": "apex-tiny"}, "training": {"data": {}}},
            "other",
            "songs and labels | what it was trained with | none stated",
        ),
        ({"heads": {"source": "a|b\n# c"}}, "other", r"heads | a\|b\\n\# c | none stated"),
    ],
)
def test_the_card_names_the_licence_that_the_parts_leave(
    tiny_model: ApexModel, provenance: dict, license_id: str, named: str
) -> None:
    tiny_model.config.provenance = provenance
    card = build_short_card(tiny_model.config)
    data = ModelCard(card).data
    assert data.license == license_id
    assert (data.get("license_link") == "README.md#licences") == (license_id == "other")
    assert f"| {named}" in card
    assert "## Licences\n" in card


def test_no_licence_is_made_up(tiny_model: ApexModel) -> None:
    tiny_model.config.provenance = {}
    card = build_short_card(tiny_model.config)
    assert ModelCard(card).data.license is None
    assert "No licence is stated for these weights. State it above, as `license:`." in card


@pytest.mark.parametrize(
    ("readme", "license_id"),
    [("---\nlicense: mit\n---\n", "mit"), ("---\nlicense: [mine]\n---\n", None), ("---\nlicense: mine\n---\n", None)],
)
def test_the_licence_of_the_models_own_card_is_kept(
    tiny_folder: Path, tmp_path: Path, readme: str, license_id: str | None
) -> None:
    (tiny_folder / "README.md").write_text(readme)
    exported = export_model(tiny_folder, tmp_path / "exported")
    assert ModelCard.load(exported / "README.md").data.license == license_id


def test_verification_is_content_with_an_export(tmp_path: Path) -> None:
    checks = {check.name: check for check in verify_model(export_model("apex-tiny", tmp_path / "exported")).checks}
    assert checks["licence"].detail == "apache-2.0"
    assert {check.status for check in checks.values()} == {"ok", "not checked"}


def test_folder_that_holds_something_is_refused(tiny_model: ApexModel, exported: Path) -> None:
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        export_model(tiny_model, exported)
