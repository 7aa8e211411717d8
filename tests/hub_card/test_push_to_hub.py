"""What the build command publishes: by the publisher of models, as one commit, and read back."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi

from datasets_scripts.build import main
from datasets_scripts.publishing import push_folder_to_hub, push_world_to_hub
from hub_card.hub_upload import UploadTarget

from loopback_hub import LoopbackHub

REPO = "tester/songs"
TARGET = UploadTarget(REPO, repo_type="dataset")
Run = Callable[..., int]


@pytest.fixture
def run(hub: LoopbackHub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Build three songs without audio by the command, with some words more, and publish them."""
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    table = tmp_path / "songs.csv"
    table.write_text("id,play_count,upvote_count\n" + "".join(f"s{n},{n + 1},{n}\n" for n in range(3)))
    words = ["training", "--source", str(table), "none", "suno", "--splits", "1:0:0", "--push-to-hub", REPO]
    return lambda *more: main([*words, "--output", str(tmp_path / "out"), *more])


def get_files(hub: LoopbackHub) -> dict[str, bytes]:
    return hub.get_files(REPO, "dataset")


def test_a_built_dataset_is_published_and_read_back(
    run: Run, hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run() == 0
    repository = hub.get_repository(REPO, "dataset")
    assert repository.is_private
    assert repository.messages == ["initial commit", "Upload the training_songs dataset"]
    output = tmp_path / "out"
    assert (output / ".sources.jsonl").is_file(), "notes of this machine stay here"
    sent = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()} - {".sources.jsonl"}
    assert set(get_files(hub)) == {".gitattributes", *sent}
    assert "3 files read back, every hash is that of the file sent" in capsys.readouterr().out
    assert hub.count("GET", r"/resolve/.+\.parquet") == 1
    assert run() == 0, "finished already, and published again without a change"
    assert len(repository.messages) == 2


def test_a_dataset_is_published_for_everyone_only_on_request(
    run: Run, hub: LoopbackHub, capsys: pytest.CaptureFixture
) -> None:
    assert run("--public") == 0
    assert not hub.get_repository(REPO, "dataset").is_private
    assert run() == 1
    assert "tester/songs is public, but a private repository was asked for" in capsys.readouterr().err


def test_shards_of_another_build_do_not_stay_unnoticed(
    run: Run, hub: LoopbackHub, capsys: pytest.CaptureFixture
) -> None:
    old = "data/train-00000-of-00002.parquet"
    hub.add_repository(REPO, {old: b"old rows"}, is_private=True, repo_type="dataset")
    assert run() == 1
    assert f"holds files that this folder does not have: {old}" in capsys.readouterr().err
    assert run("--remove-other-files") == 0
    assert old not in get_files(hub)


def test_a_broken_line_to_the_hub_is_one_sentence(
    run: Run, hub: LoopbackHub, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    hub.num_uploads_to_break = 1000
    assert run() == 1
    assert "error: the upload to tester/songs was interrupted: " in capsys.readouterr().err
    assert (tmp_path / "out" / "manifest.json").is_file(), "the dataset itself is finished"
    hub.num_uploads_to_break = 0
    assert run() == 0


def test_damage_on_the_hub_is_noticed(run: Run, hub: LoopbackHub, capsys: pytest.CaptureFixture) -> None:
    hub.damages = "manifest.json"
    assert run() == 1
    assert "manifest.json has SHA-256" in capsys.readouterr().err


def test_a_synthetic_world_is_published_and_called_synthetic(
    hub: LoopbackHub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    folder = tmp_path / "world"
    words = ["--layout", "training", "--num-songs", "2", "--seconds", "6", "--num-processes", "1"]
    assert main(["synthetic", *words, "--output", str(folder), "--push-to-hub", REPO]) == 0
    assert hub.get_repository(REPO, "dataset").is_private
    card = get_files(hub)["README.md"].decode()
    assert "- synthetic" in card
    assert '"num_songs": 2' in card
    assert "truth.jsonl" in get_files(hub)
    with pytest.raises(FileNotFoundError, match=r"No world\.json in .*: this is not a synthetic world"):
        push_world_to_hub(tmp_path / "nothing", TARGET, api=api)


def test_what_cannot_be_published_is_refused(tmp_path: Path, api: HfApi, hub: LoopbackHub) -> None:
    with pytest.raises(FileNotFoundError, match=r"No manifest\.json in .*: finish the build"):
        push_folder_to_hub(tmp_path, TARGET, api=api)
    (tmp_path / "manifest.json").write_text(json.dumps({"options": {"embeds_audio": False}}))
    with pytest.raises(ValueError, match="hold paths of this machine in place of audio"):
        push_folder_to_hub(tmp_path, TARGET, api=api)
    assert hub.repositories == {}
