"""Deploying: what is sent, what is said, and that what is sent runs without this repository."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError

from modeling_apex import __version__
from spaces_demo import deploy

REPOSITORY = Path(__file__).parents[2]


class RecordingApi:
    """Stand in for `HfApi`: remembers what it is asked."""

    def __init__(self, files: tuple[str, ...] = ()):
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.files = files

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            return list(self.files) if name == "list_repo_files" else SimpleNamespace(commit_url="https://hub/commit")

        return call


def test_one_commit_brings_the_files_and_removes_old_ones() -> None:
    api = RecordingApi(("spaces_demo/old.py", "spaces_demo/app.py", ".gitattributes"))
    assert deploy.deploy("you/page", is_private=True, model="amaai-lab/apex", api=api) == "https://hub/commit"
    assert [name for name, _, _ in api.calls] == [
        "create_repo",
        "add_space_variable",
        "list_repo_files",
        "create_commit",
    ]
    assert api.calls[0][2] == {"repo_type": "space", "space_sdk": "gradio", "private": True, "exist_ok": True}
    assert api.calls[1][1] == ("you/page", "APEX_MODEL", "amaai-lab/apex")
    options = api.calls[-1][2]
    assert __version__ in options["commit_message"]
    added = {
        operation.path_in_repo
        for operation in options["operations"]
        if isinstance(operation, huggingface_hub.CommitOperationAdd)
    }
    assert {"app.py", "README.md", "requirements.txt", "spaces_demo/style.css", "spaces_demo/page.js"} <= added
    assert {"modeling_apex/inference/modeling_apex.py", "spaces_demo/samples/samples.json"} <= added
    assert not [path for path in added if "screenshots" in path or "__pycache__" in path]
    removed = [
        operation.path_in_repo
        for operation in options["operations"]
        if isinstance(operation, huggingface_hub.CommitOperationDelete)
    ]
    assert removed == ["spaces_demo/old.py"]


def test_dry_run_lists_and_sends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy.main(["--space", "you/page", "--model", "a/b", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\d  app\.py", text)
    assert "nothing was sent" in text
    assert "APEX_MODEL would be set to a/b" in text


def test_command_deploys_and_reports_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", RecordingApi)
    assert deploy.main(["--space", "you/page"]) == 0
    assert capsys.readouterr().out == "https://hub/commit\n"
    assert deploy.main(["--space", "page"]) == 1
    assert "a Space is named owner/name, got 'page'" in capsys.readouterr().err


def test_a_refusal_of_the_hub_says_what_to_do() -> None:
    class Refusing(RecordingApi):
        def create_repo(self, *arguments: Any, **options: Any) -> None:
            raise ConnectionError("401 Unauthorized")

    with pytest.raises(RuntimeError, match=r"did not take the Space you/page: 401 Unauthorized Run `hf auth login`"):
        deploy.deploy("you/page", api=Refusing())
    assert issubclass(HfHubHTTPError, OSError)


def test_a_broken_line_is_explained_too() -> None:
    class Breaking(RecordingApi):
        def create_repo(self, *arguments: Any, **options: Any) -> None:
            raise HfHubHTTPError.__bases__[0]("the line broke")  # the HTTP library's own error, no OSError

    with pytest.raises(RuntimeError, match="did not take the Space you/page: the line broke"):
        deploy.deploy("you/page", api=Breaking())


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"README\.md is missing. Deploy from a clone"):
        deploy.collect_files(tmp_path)


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
    for path, content in deploy.collect_files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    check = (
        "import sys; sys.path.insert(0, '.'); import spaces_demo.app as app, modeling_apex, os; "
        "assert os.path.realpath(app.__file__).startswith(os.path.realpath('.')), app.__file__; "
        "assert os.path.realpath(modeling_apex.__file__).startswith(os.path.realpath('.')); "
        "app.build_launch_options(app.SpaceSettings()); compile(open('app.py').read(), 'app.py', 'exec')"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
