"""What a name of a model means, by every door, and how soon a name that means nothing is refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from modeling_apex import load_pipeline, load_preference_head, load_scorer
from modeling_apex.checkpoints.references import read_reference
from modeling_apex.checkpoints.verification import verify_model
from modeling_apex.cli import main
from modeling_apex.loading import find_model_class, load_apex_model, load_model
from modeling_apex.model_names import choose_hub_options, explain_missing_model, find_model
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.training.calibration import save_reference

DOWN = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")("the network is down")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the Hub was asked for, none of which it answers."""
    addresses: list[str] = []

    def ask(url: str, **options: Any) -> None:
        addresses.append(url)
        raise DOWN

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    return addresses


def fill_cache(folder: Path, name: str, files: dict[str, str]) -> None:
    """Lay files where the Hub's client keeps what it downloaded."""
    repository = folder / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(40 * "a")
    snapshot = repository / "snapshots" / (40 * "a")
    snapshot.mkdir(parents=True)
    for file, text in files.items():
        (snapshot / file).write_text(text)


def test_apex_tiny_is_a_name_by_every_door(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("apex-tiny") == find_model(None) == str(EMBEDDED_MODEL)
    assert load_scorer("apex-tiny").model_id == load_scorer().model_id
    for model in (load_pipeline("apex-tiny").model, load_model("apex-tiny"), load_apex_model("apex-tiny")):
        assert model.config.provenance["name"] == "apex-tiny"
    assert find_model_class("apex-tiny").__name__ == "ApexModel"
    assert load_preference_head("apex-tiny") == load_preference_head()
    assert read_reference("apex-tiny", {})[0].keys() == load_model("apex-tiny").state_dict().keys()
    assert verify_model("apex-tiny").model == str(EMBEDDED_MODEL)
    assert (save_reference("apex-tiny", {}, tmp_path / "calibrated") / "preference_head.json").is_file()
    with pytest.raises(ValueError, match="apex-tiny: no folder, so its config cannot be written"):
        save_reference("apex-tiny", {})
    assert main(["export", "--model", "apex-tiny", "--output", "hub"]) == 0
    assert asked == []


def test_a_folder_of_that_name_is_meant_where_there_is_one(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, "apex-tiny")
    assert find_model("apex-tiny") == "apex-tiny"
    assert find_model(None) == str(EMBEDDED_MODEL), "no name is no folder"
    assert load_scorer("apex-tiny").model.config.segment_seconds != load_scorer().model.config.segment_seconds


@pytest.mark.parametrize(
    "name", ["/nope/folder", "./nope", "../nope", "nope/", "~nobody-here/x", "a/b/c", "runs\\best"]
)
def test_a_path_without_a_folder_is_refused_and_the_hub_not_asked(
    name: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for load in (load_scorer, load_pipeline, load_model, load_apex_model, find_model_class, verify_model):
        with pytest.raises(FileNotFoundError, match=r"no such folder\. Pass the folder of a model, a Hub id \(owner"):
            load(name)
    assert main(["score", "song.wav", "--model", name]) == 2
    assert f"{name}: no such folder. Pass" in capsys.readouterr().err
    assert asked == []


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        FileNotFoundError, match=r"model\.safetensors: is not a folder\. Pass the folder of a model, whi"
    ):
        load_scorer(tmp_path / "model.safetensors")


@pytest.mark.parametrize("load", [load_scorer, load_pipeline, load_model, load_apex_model, find_model_class])
def test_a_hub_that_does_not_answer_is_asked_once(load: Any, asked: list[str]) -> None:
    with pytest.raises(
        FileNotFoundError, match="nobody/nowhere: no such folder, and not available from the Hub: the n"
    ):
        load("nobody/nowhere")
    assert asked == ["https://huggingface.co/nobody/nowhere/resolve/main/config.json"]


def test_the_advice_for_published_heads_names_their_encoder(asked: list[str], tmp_path: Path) -> None:
    both = "run `hf download amaai-lab/apex` and `hf download m-a-p/MERT-v1-95M` once while connected"
    with pytest.raises(FileNotFoundError, match=both):
        load_scorer("amaai-lab/apex", cache_dir=tmp_path)


def test_what_was_downloaded_is_taken_when_the_hub_does_not_answer(
    asked: list[str], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: pytest.fail("waits"))
    )
    fill_cache(tmp_path, "owner/model", {})
    shutil.copytree(tiny_folder, tmp_path / "models--owner--model" / "snapshots" / (40 * "a"), dirs_exist_ok=True)
    for load in (load_scorer, load_model):
        loaded = load("owner/model", cache_dir=tmp_path)
        assert (
            getattr(loaded, "model", loaded).config.segment_seconds
            == load_scorer(tiny_folder).model.config.segment_seconds
        )
    pipeline = load_pipeline("owner/model", model_kwargs={"cache_dir": tmp_path})
    assert pipeline.model.config._name_or_path == "owner/model"
    pipeline = load_pipeline("owner/model", cache_dir=tmp_path, local_files_only=True, dtype="float32")
    assert pipeline.model.config._name_or_path == "owner/model"
    assert len(asked) == 3


def test_published_heads_without_their_encoder(asked: list[str], tmp_path: Path) -> None:
    fill_cache(tmp_path, "some/heads", {"config.json": json.dumps({"mert_model_name": "some/encoder"})})
    message = explain_missing_model("some/heads", "gone.", {"cache_dir": tmp_path})
    assert message.endswith(
        "gone. To work offline, run `hf download some/heads` and `hf download some/encoder` once while connected, or "
        "pass a folder."
    )


def test_what_the_hub_answers_is_left_to_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    response = httpx.Response(404, request=httpx.Request("HEAD", "https://huggingface.co"))

    def refuse(url: str, **options: Any) -> None:
        raise HfHubHTTPError("404", response=response)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    assert choose_hub_options("nobody/nowhere", {"revision": "v1"}) == {"revision": "v1"}
