"""The examples of the Space's own page: as a Python program and as HTTP, against a running Space."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import PATIENCE

from executed_pages import list_blocks

README = Path(__file__).parents[2] / "spaces_demo" / "README.md"
ADDRESS = "http://127.0.0.1:7860"


@pytest.fixture
def songs(songs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is current: with the songs that the examples name."""
    for name, song in (("song.mp3", "first.wav"), ("a.mp3", "first.wav"), ("b.mp3", "second.wav")):
        (tmp_path / name).write_bytes((songs_folder / song).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build_example(language: str, space: SimpleNamespace) -> str:
    """Return the page's only example in a language, for the running Space instead of a reader's."""
    (block,) = list_blocks(README, language)
    assert ADDRESS in block
    return block.replace(ADDRESS, space.url.rstrip("/"))


def test_the_python_program_runs(
    space: SimpleNamespace, songs: Path, report: dict[str, Any], capsys: pytest.CaptureFixture
) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(build_example("python", space), str(README), "exec"), names)  # noqa: S102 (the page is ours)
    assert names["report"]["scores"] == report["scores"]
    printed = capsys.readouterr().out.splitlines()[-4:]
    assert printed[1] == "None", "the first model has no preference head"
    assert sorted(json.loads(printed[2].replace("'", '"'))) == ["a.mp3", "b.mp3"]
    assert printed[3].startswith(
        "random-model" if isinstance(names["facts"]["model"], str) else "{'id': 'random-model'"
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example is a command line of curl")
def test_the_calls_by_http_run(space: SimpleNamespace, songs: Path, report: dict[str, Any]) -> None:
    done = subprocess.run(
        ["bash", "-c", "set -euo pipefail\n" + build_example("bash", space)],
        env={**os.environ, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert json.loads(events[-1])[0]["scores"] == report["scores"]
