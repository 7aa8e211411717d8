"""Publishing against a Hub on the loopback, with the real client: one commit, refusals, faults, and reading back."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hub_card.hub_upload import PublishError, ReadBackError, RepositoryChangedError, UploadTarget, read_repository
from hub_card.publish import build_parser, main, publish, publish_staged
from modeling_apex.checkpoints.export import list_code
from modeling_apex.checkpoints.verification import verify_model

from loopback_hub import LoopbackHub

REPO = "tester/apex"
Publish = Callable[..., str | None]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def run(tiny_release: Path, api: HfApi, lines: list[str]) -> Publish:
    """Publish the release with some words more; what it says goes to `lines`."""

    def publish_release(*words: str, repo: str = REPO) -> str | None:
        given = [
            "--model",
            str(tiny_release),
            "--no-arena-because",
            "no battles were at hand.",
            "--repo",
            repo,
            *words,
        ]
        return publish(build_parser().parse_args(given), api=api, say=lines.append)

    return publish_release


def test_publishes_everything_as_one_commit(run: Publish, hub: LoopbackHub, lines: list[str]) -> None:
    commit = run("--message", "First release")
    repository = hub.get_repository(REPO)
    assert repository.messages == ["initial commit", "First release"], "one commit beside the Hub's own"
    assert repository.branches["main"] == commit
    assert not repository.is_private
    files = hub.get_files(REPO)
    assert set(files) == {
        ".gitattributes",
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "README.md",
        "results.json",
        "SHA256SUMS",
        *(path.name for path in list_code("apex")),
    }
    assert f'pipeline("apex-popularity", model="{REPO}")' in files["README.md"].decode()
    sums = dict(reversed(line.split("  ")) for line in files["SHA256SUMS"].decode().splitlines())
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in sums} == sums
    assert set(sums) == set(files) - {".gitattributes", "SHA256SUMS"}
    plan = "\n".join(lines)
    assert f"{len(files['model.safetensors']):,}  {sums['model.safetensors']}  model.safetensors" in plan
    assert "account: tester" in plan
    assert f"commit {commit}: {len(sums) + 1} files read back" in plan
    assert hub.count("GET", r"/resolve/.+/model\.safetensors") == 1, "read back by downloading, not by asking"


def test_dry_run_sends_nothing(run: Publish, hub: LoopbackHub, lines: list[str]) -> None:
    assert run("--dry-run") is None
    assert hub.repositories == {}
    assert {method for method, _ in hub.requests} == {"GET"}
    assert "a new public model repository" in "\n".join(lines)
    assert lines[-1] == "dry run: nothing was sent"


def test_dry_run_works_without_the_hub(run: Publish, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run("--dry-run") is None
    assert "the Hub could not be read, so this compares with nothing" in lines[0]
    assert "a model repository that could not be read" in "\n".join(lines)


def test_a_second_publication_changes_nothing(run: Publish, hub: LoopbackHub, lines: list[str]) -> None:
    commit = run()
    assert run() == commit
    assert len(hub.get_repository(REPO).commits) == 2
    assert "the repository has all of this already; reading it back" in lines


def test_only_what_changed_is_sent(run: Publish, hub: LoopbackHub, tiny_release: Path, lines: list[str]) -> None:
    run()
    num_uploads = hub.count("PUT", "/lfs-storage/")
    results = tiny_release / "results.json"
    results.write_text(results.read_text().replace("0.41", "0.42"))
    run()
    assert hub.count("PUT", "/lfs-storage/") == num_uploads, "the weights were there already"
    num_files = len(hub.get_files(REPO)) - 1
    assert f"3 of {num_files} files to send" in "\n".join(lines), "results, card and checksums"
    assert b"0.42" in hub.get_files(REPO)["README.md"]


def test_private_repository(run: Publish, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    run("--private")
    assert hub.get_repository(REPO).is_private
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    stranger = HfApi(endpoint=hub.url)
    assert read_repository(stranger, REPO) is None


def test_private_is_refused_for_a_public_repository(run: Publish, hub: LoopbackHub) -> None:
    run()
    with pytest.raises(PublishError, match="tester/apex is public, but a private repository was asked for"):
        run("--private")


def test_branch_is_made_and_main_is_left_alone(run: Publish, hub: LoopbackHub, tiny_release: Path) -> None:
    first = run()
    results = tiny_release / "results.json"
    results.write_text(results.read_text().replace("0.41", "0.42"))
    second = run("--revision", "candidate")
    assert hub.get_repository(REPO).branches == {"main": first, "candidate": second}
    assert b"0.42" not in hub.get_files(REPO)["README.md"]
    run("--revision", "v2", repo="tester/other")
    assert "README.md" not in hub.get_files("tester/other")
    assert "README.md" in hub.get_files("tester/other", branch="v2")


def test_a_change_in_the_meantime_is_not_overwritten(run: Publish, hub: LoopbackHub) -> None:
    run()
    hub.add_repository("tester/apex2", {"README.md": b"old"})
    hub.slips_in = ("README.md", b"theirs")
    with pytest.raises(RepositoryChangedError, match=r"apex2 changed after it was read .* nothing was committed"):
        run(repo="tester/apex2")
    assert hub.get_files("tester/apex2")["README.md"] == b"theirs"
    assert run(repo="tester/apex2"), "read anew, it goes"


def test_a_repository_made_in_the_meantime_is_not_taken_over(run: Publish, hub: LoopbackHub, api: HfApi) -> None:
    create_repo = api.create_repo

    def create_late(*words: object, **options: object) -> object:
        hub.add_repository(REPO, {"README.md": b"theirs"})
        return create_repo(*words, **options)

    api.create_repo = create_late
    with pytest.raises(RepositoryChangedError, match="was created by somebody else in the meantime"):
        run()
    assert hub.get_files(REPO)["README.md"] == b"theirs"


def test_other_files_are_removed_only_on_request(run: Publish, hub: LoopbackHub, lines: list[str]) -> None:
    hub.add_repository(REPO, {"pytorch_model.bin": b"old weights"})
    with pytest.raises(PublishError, match=r"files that this folder does not have: pytorch_model\.bin"):
        run()
    run("--remove-other-files")
    assert "pytorch_model.bin" not in hub.get_files(REPO)
    assert len(hub.get_repository(REPO).messages) == 2, "removed in the same commit"
    assert any("removed" in line and "pytorch_model.bin" in line for line in lines)


def test_only_files_below_owned_paths_are_looked_at(api: HfApi, hub: LoopbackHub) -> None:
    def stage(folder: Path) -> None:
        (folder / "demo").mkdir(parents=True)
        (folder / "demo" / "new.py").write_text("new\n")

    options = {"message": "Deploy", "needs_card": False, "api": api, "say": lambda line: None}
    target = UploadTarget("tester/demo", "space", owned=("demo/",))
    own = {"notes.md": b"mine", "demo.md": b"mine too"}
    hub.add_repository("tester/demo", {**own, "demo/old.py": b"old"}, repo_type="space")
    with pytest.raises(PublishError, match=r"holds files that this folder does not have: demo/old\.py\. The result"):
        publish_staged(stage, target, **options)
    target = replace(target, removes_other_files=True)
    publish_staged(stage, target, **options)
    assert hub.get_files("tester/demo", "space").items() >= own.items()
    assert set(hub.get_files("tester/demo", "space")) == {".gitattributes", *own, "demo/new.py"}
    hub.stays = "demo/old.py"
    hub.add_repository("tester/demo", {**own, "demo/old.py": b"old"}, repo_type="space")
    with pytest.raises(ReadBackError, match=r"is not what was sent: demo/old\.py should not be there\. Do not"):
        publish_staged(stage, target, **options)


def test_an_interrupted_upload_commits_nothing_and_can_be_repeated(run: Publish, hub: LoopbackHub) -> None:
    hub.num_uploads_to_break = 1000
    with pytest.raises(
        PublishError, match=r"the upload to tester/apex was interrupted: .* Run the same command again"
    ):
        run()
    assert set(hub.get_files(REPO)) == {".gitattributes"}
    hub.num_uploads_to_break = 0
    commit = run()
    assert hub.get_repository(REPO).branches["main"] == commit


def test_a_line_that_breaks_once_is_taken_up_by_the_client(run: Publish, hub: LoopbackHub) -> None:
    hub.num_uploads_to_break = 1
    run()
    assert hub.count("PUT", "/lfs-storage/") == 2
    assert "model.safetensors" in hub.get_files(REPO)


def test_a_commit_whose_answer_is_lost_is_found_by_the_next_attempt(run: Publish, hub: LoopbackHub) -> None:
    hub.breaks_commit_answer = True
    with pytest.raises(PublishError, match="the answer was lost on its way"):
        run()
    run()
    assert len(hub.get_repository(REPO).messages) == 2, "not committed twice"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damage_on_the_hub_is_noticed(run: Publish, hub: LoopbackHub, name: str) -> None:
    hub.damages = name
    with pytest.raises(ReadBackError, match=rf"{name} has SHA-256 [0-9a-f]{{64}}, but [0-9a-f]{{64}} was sent"):
        run()


def test_loss_on_the_hub_is_noticed(run: Publish, hub: LoopbackHub) -> None:
    hub.loses = "config.json"
    with pytest.raises(ReadBackError, match=r"config\.json is not there; something else should not be there"):
        run()


def test_a_commit_that_cannot_be_listed_is_noticed(run: Publish, hub: LoopbackHub) -> None:
    hub.fails = ("/tree/", 500)
    with pytest.raises(
        PublishError, match=r"tester/apex could not be sent and read back .*something is wrong .* Run the"
    ):
        run()


def test_files_that_cannot_be_read_back_are_noticed(run: Publish, hub: LoopbackHub) -> None:
    hub.fails = (r"/resolve/.*/results\.json", 403)
    with pytest.raises(ReadBackError, match=r"results\.json could not be read: .*something is wrong with this Hub"):
        run()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/whoami", "the Hub does not answer: .*something is wrong with this Hub"),
        ("/api/models/", "tester/apex could not be read: .*something is wrong with this Hub"),
        ("/repos/create", "tester/apex could not be created: .*something is wrong with this Hub"),
        ("/commit/", "the upload to tester/apex was interrupted: .*something is wrong with this Hub"),
    ],
)
def test_a_hub_that_fails_is_named(run: Publish, hub: LoopbackHub, address: str, message: str) -> None:
    hub.fails = (address, 500)
    with pytest.raises(PublishError, match=message):
        run()
    assert all(set(repository.commits) == {*repository.branches.values()} for repository in hub.repositories.values())


def test_a_hub_that_is_not_there_is_named(run: Publish, hub: LoopbackHub) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(PublishError, match=r"the Hub cannot be reached: .*refused"):
        run()


def test_a_space_is_published_the_same_way(api: HfApi, hub: LoopbackHub) -> None:
    def stage(folder: Path) -> None:
        (folder / "demo").mkdir(parents=True)
        (folder / "demo" / "__init__.py").touch()
        (folder / "app.py").write_text("import demo\n")
        (folder / "README.md").write_text("---\nsdk: gradio\n---\n\n# Demo\n")

    target = UploadTarget("tester/demo", repo_type="space", space_sdk="gradio")
    publish_staged(stage, target, message="Deploy", api=api, say=lambda line: None)
    assert set(hub.get_files("tester/demo", "space")) == {".gitattributes", "README.md", "app.py", "demo/__init__.py"}


def test_a_card_that_the_hub_refuses_is_named(api: HfApi, hub: LoopbackHub) -> None:
    def stage(folder: Path) -> None:
        folder.mkdir()
        (folder / "README.md").write_text("no front matter at all\n")

    target = UploadTarget("tester/demo", repo_type="space", space_sdk="gradio")
    with pytest.raises(PublishError, match=r"the Hub refuses the card: Invalid metadata .* Nothing was committed"):
        publish_staged(stage, target, message="Deploy", api=api)
    assert set(hub.get_files("tester/demo", "space")) == {".gitattributes"}


def test_results_must_be_there(run: Publish, tiny_release: Path) -> None:
    (tiny_release / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match="no such result file; make one with `apex-music evaluate EMBEDDINGS"):
        run()


def test_wrong_and_weak_tokens_are_refused(run: Publish, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(PublishError, match="the Hub does not accept the token"):
        run()
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    with pytest.raises(PublishError, match="the token of reader is read-only"):
        run()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match="no Hub token was found; run `hf auth login`"):
        run()
    assert hub.repositories == {}


def test_another_namespace_is_refused_by_the_hub(run: Publish, hub: LoopbackHub) -> None:
    with pytest.raises(PublishError, match="this account cannot create somebody/apex"):
        run(repo="somebody/apex")
    hub.add_repository("somebody/apex", {})
    with pytest.raises(PublishError, match=r"this account cannot write to somebody/apex: .* Run `hf auth login`"):
        run(repo="somebody/apex")
    assert set(hub.get_files("somebody/apex")) == {".gitattributes"}


def test_the_token_is_never_shown_and_never_taken(
    run: Publish, hub: LoopbackHub, lines: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        hub.num_uploads_to_break = 1000
        with pytest.raises(PublishError) as broken:
            run()
        hub.num_uploads_to_break = 0
        run()
    streams = capsys.readouterr()
    for text in (*lines, str(broken.value), caplog.text, streams.out, streams.err):
        assert hub.write_token not in text
    assert all("token" not in option for action in build_parser()._actions for option in action.option_strings)


def test_a_token_in_a_file_stops_the_upload(run: Publish, hub: LoopbackHub, tiny_release: Path) -> None:
    results = tiny_release / "results.json"
    results.write_text(results.read_text().replace("make tiny", f"make tiny {hub.write_token}"))
    with pytest.raises(ValueError, match=r"results\.json: holds .*Hugging Face token") as refusal:
        run()
    assert hub.write_token not in str(refusal.value)
    assert hub.repositories == {}


def test_mistakes_are_explained_in_one_line(tiny_release: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    words = ["--model", str(tiny_release), "--repo", REPO, "--dry-run"]
    assert main(words) == 2
    assert "nothing says how the model does on battles" in capsys.readouterr().err
    assert main([*words, "--arena", str(tmp_path)]) == 2
    assert "no such result file" in capsys.readouterr().err
    (tiny_release / "optimizer.pt").write_bytes(b"\x80\x02")
    assert main([*words, "--no-arena-because", "none"]) == 2
    assert "optimizer.pt: a pickle can run code" in capsys.readouterr().err


def test_a_published_model_is_verified_from_the_hub(
    run: Publish, hub: LoopbackHub, api: HfApi, tmp_path: Path
) -> None:
    run()
    result = verify_model(REPO, api=api, cache_dir=tmp_path / "cache")
    assert result.is_ok, result.format()
    statuses = {check.name: check.status for check in result.checks}
    assert statuses["hashes on the Hub"] == statuses["SHA256SUMS"] == "ok"
    repository = hub.get_repository(REPO)
    files = {**hub.get_files(REPO), "config.json": hub.get_files(REPO)["config.json"] + b"\n"}
    repository.add_commit("main", files, "a change that nobody announced")
    result = verify_model(REPO, api=api, cache_dir=tmp_path / "cache")
    details = {check.name: check.detail for check in result.checks if check.status == "failed"}
    assert list(details) == ["SHA256SUMS"]
    assert "config.json has SHA-256" in details["SHA256SUMS"]
