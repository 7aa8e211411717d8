"""Deploying, against a Hub on the loopback: what is sent, what is said, and that what is sent runs on its own."""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import gradio
import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from hub_card.hub_upload import describe_error
from modeling_apex import __version__
from spaces_demo import deploy

from loopback_hub import LoopbackHub

REPOSITORY = Path(__file__).parents[2]
PAGE = "tester/page"


@pytest.fixture
def command(api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command reach the Hub on the loopback."""
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)


@pytest.fixture
def small_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the page be two files, where it does not matter what is sent."""

    def stage(staged: Path) -> None:
        staged.mkdir()
        (staged / "app.py").write_text(deploy.APP)
        (staged / "README.md").write_bytes((REPOSITORY / "spaces_demo" / "README.md").read_bytes())

    monkeypatch.setattr(deploy, "stage_space", stage)


def test_a_new_space_has_the_page_by_one_commit(hub: LoopbackHub, api: HfApi) -> None:
    address = deploy.deploy(PAGE, model="amaai-lab/apex", api=api)
    space = hub.get_repository(PAGE, "space")
    assert address == f"{hub.url}/spaces/{PAGE}/commit/{space.branches['main']}"
    assert space.messages == ["initial commit", f"Deploy apex-music {__version__}"]
    assert (space.sdk, space.is_private, space.variables) == ("gradio", False, {"APEX_MODEL": "amaai-lab/apex"})
    files = hub.get_files(PAGE, "space")
    assert {"app.py", "README.md", "requirements.txt", "spaces_demo/style.css", "spaces_demo/page.js"} <= set(files)
    assert {"modeling_apex/inference/modeling_apex.py", "spaces_demo/samples/samples.json"} <= set(files)
    assert {"modeling_apex/py.typed", "modeling_apex/pretrained/apex-tiny/model.safetensors"} <= set(files)
    assert files["README.md"] == (REPOSITORY / "spaces_demo" / "README.md").read_bytes()
    assert not [path for path in files if "screenshots" in path or "__pycache__" in path or "deploy.py" in path]
    assert hub.count("GET", r"/resolve/.+/spaces_demo/app\.py") == 1, "read back by downloading"


def test_stale_files_of_ours_go_and_the_owners_own_stay(hub: LoopbackHub, api: HfApi) -> None:
    own = {"notes.md": b"mine", "songs/first.ogg": b"song", "spaces_demo_notes.md": b"mine too"}
    stale = {"spaces_demo/old.py": b"old", "modeling_apex/old/older.py": b"older"}
    hub.add_repository(PAGE, {**own, **stale, "spaces_demo/app.py": b"changed"}, repo_type="space")
    lines: list[str] = []
    deploy.deploy(PAGE, api=api, say=lines.append)
    files = hub.get_files(PAGE, "space")
    assert not set(stale) & set(files)
    assert own.items() <= files.items()
    assert files["spaces_demo/app.py"] == (REPOSITORY / "spaces_demo" / "app.py").read_bytes()
    space = hub.get_repository(PAGE, "space")
    assert len(space.messages) == 2, "removed in the same commit"
    assert space.variables == {}
    removed = [line.split()[1] for line in "\n".join(lines).splitlines() if line.startswith("  removed")]
    assert removed == sorted(stale)


@pytest.mark.usefixtures("small_page")
def test_only_a_new_space_is_made_private(hub: LoopbackHub, api: HfApi) -> None:
    deploy.deploy(PAGE, is_private=True, api=api)
    assert hub.get_repository(PAGE, "space").is_private
    hub.add_repository("tester/open", {}, repo_type="space")
    deploy.deploy("tester/open", is_private=True, api=api)
    assert not hub.get_repository("tester/open", "space").is_private
    assert "app.py" in hub.get_files("tester/open", "space")


@pytest.mark.usefixtures("command")
def test_dry_run_lists_and_sends_nothing(hub: LoopbackHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add_repository(PAGE, {"spaces_demo/old.py": b"old", "notes.md": b"mine"}, repo_type="space")
    assert deploy.main(["--space", PAGE, "--model", "a/b", "--private", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert f"{len(deploy.APP):,}  {hashlib.sha256(deploy.APP.encode()).hexdigest()}  app.py\n" in text
    assert re.search(r"removed +spaces_demo/old\.py\n", text)
    assert "notes.md" not in text
    assert "nothing was sent" in text
    assert "APEX_MODEL would be set to a/b" in text
    assert {method for method, _ in hub.requests} == {"GET"}


def test_dry_run_needs_no_network(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert deploy.main(["--space", "you/page", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "the Hub could not be read, so this compares with nothing" in text
    assert re.search(r"  new +[\d,]+  [0-9a-f]{64}  spaces_demo/page\.js\n", text)
    assert "nothing was sent" in text
    assert "APEX_MODEL" not in text


@pytest.mark.usefixtures("command", "small_page")
def test_command_deploys_and_reports_errors(hub: LoopbackHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy.main(["--space", PAGE]) == 0
    commit = hub.get_repository(PAGE, "space").branches["main"]
    said = capsys.readouterr()
    assert said.out == f"{hub.url}/spaces/{PAGE}/commit/{commit}\n"
    assert "2 files read back, every hash is that of the file sent" in said.err
    assert deploy.main(["--space", "page"]) == 2
    assert "a Space is named owner/name, got 'page'" in capsys.readouterr().err


@pytest.mark.usefixtures("command", "small_page")
def test_what_reads_back_otherwise_is_an_error(hub: LoopbackHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.damages = "app.py"
    assert deploy.main(["--space", PAGE, "--model", "a/b"]) == 1
    said = capsys.readouterr()
    assert re.search(r"is not what was sent: app\.py has SHA-256 [0-9a-f]{64}, but [0-9a-f]{64} was sent", said.err)
    assert said.out == ""
    assert hub.get_repository(PAGE, "space").variables == {}


def test_a_refusal_of_the_hub_says_what_to_do(hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repository("somebody/page", {}, repo_type="space")
    with pytest.raises(RuntimeError, match=r"cannot write to somebody/page: .*Run `hf auth login` with a token that"):
        deploy.deploy("somebody/page", api=api)
    with pytest.raises(RuntimeError, match="this account cannot create somebody/other: "):
        deploy.deploy("somebody/other", api=api)
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    with pytest.raises(RuntimeError, match=r"the token of reader is read-only; make one .* run `hf auth login`"):
        deploy.deploy("reader/page", api=api)
    assert list(hub.repositories) == [("space", "somebody/page")]


def test_a_broken_line_is_explained_too(hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*arguments: Any, **options: Any) -> None:
        raise HfHubHTTPError.__bases__[0]("the line broke")  # the HTTP library's own error, no OSError

    monkeypatch.setattr(api, "create_repo", break_off)
    with pytest.raises(
        RuntimeError, match=f"{PAGE} could not be sent and read back completely: the line broke Run the"
    ):
        deploy.deploy(PAGE, api=api)
    assert hub.repositories == {}


@pytest.mark.usefixtures("small_page")
def test_a_variable_that_is_not_taken_is_named(hub: LoopbackHub, api: HfApi) -> None:
    hub.fails = ("/variables", 500)
    said = f"{PAGE} has the page, but APEX_MODEL could not be set to a/b: .*something is wrong .*Set it in the Space's"
    with pytest.raises(RuntimeError, match=said):
        deploy.deploy(PAGE, model="a/b", api=api)
    assert "app.py" in hub.get_files(PAGE, "space")


def test_what_the_hub_answers_cannot_steer_a_terminal() -> None:
    assert describe_error(ValueError("no\x1b[2J\x9b1m, go away")) == "no\\x1b[2J\\x9b1m, go away"


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"README\.md is missing. Deploy from a clone"):
        deploy.stage_space(tmp_path / "staged", tmp_path)
    assert not (tmp_path / "staged").exists()


def test_requirements_are_those_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    expected = {*project["dependencies"], *project["optional-dependencies"]["audio"]}
    lines = (REPOSITORY / "spaces_demo" / "requirements.txt").read_text().splitlines()
    given = {line for line in lines if not line.startswith(("#", "gradio"))}
    assert given == expected


def test_front_matter_pins_the_version_that_is_tested() -> None:
    card = huggingface_hub.SpaceCard.load(REPOSITORY / "spaces_demo" / "README.md").data.to_dict()
    assert card["sdk"] == "gradio"
    assert card["app_file"] == "app.py"
    assert len(card["short_description"]) <= 60
    assert f"gradio=={card['sdk_version']}" in (REPOSITORY / "spaces_demo" / "requirements.txt").read_text()
    if gradio.__version__ != card["sdk_version"]:
        pytest.xfail(f"tested with gradio {gradio.__version__}; the front matter pins {card['sdk_version']}")


def test_what_is_sent_runs_on_its_own(tmp_path: Path) -> None:
    deploy.stage_space(tmp_path)
    check = (
        "import sys; sys.path.insert(0, '.'); import spaces_demo.app as app, modeling_apex, os; "
        "assert os.path.realpath(app.__file__).startswith(os.path.realpath('.')), app.__file__; "
        "assert os.path.realpath(modeling_apex.__file__).startswith(os.path.realpath('.')); "
        "app.build_launch_options(app.SpaceSettings()); compile(open('app.py').read(), 'app.py', 'exec')"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
