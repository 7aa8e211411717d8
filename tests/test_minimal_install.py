"""What an installation without any extra says: every command has its help, and names the extra that it lacks."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from patience import PATIENCE

from modeling_apex.cli import COMMANDS
from modeling_apex.storage.failure_messages import EXTRAS

REPOSITORY = Path(__file__).parent.parent
MODEL = str(REPOSITORY / "modeling_apex" / "pretrained" / "apex-tiny")
SONG = str(REPOSITORY / "spaces_demo" / "samples" / "1-good-pop.ogg")
# Requirements whose module has another name.
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}
MODULES_OF_PROGRAMS = ("datasets_scripts.build", "hub_card.publish", "hub_card.build_card", "spaces_demo.deploy")
APEX = "modeling_apex.cli"
# Words of a command to the extra that it needs, or to `None` where it works without any.
NEEDS = {
    (APEX, "score", SONG): None,
    (APEX, "rank", SONG): None,
    (APEX, "merge", "a-00001-of-00001.csv", "--output", "whole.csv"): None,
    (APEX, "select", SONG, "--output", "chosen"): None,
    (APEX, "env"): None,
    (APEX, "verify", "--model", MODEL): None,
    (APEX, "export", "--model", MODEL, "--output", "exported"): None,
    (APEX, "export", "--model", MODEL, "--format", "onnx", "--output", "graph"): "onnx",
    (APEX, "export", "--model", MODEL, "--format", "openvino", "--output", "graph"): "openvino",
    (APEX, "validate", SONG, "--engine", "onnx"): "onnx",
    (APEX, "score", SONG, "--engine", "openvino"): "openvino",
    (APEX, "score", SONG, "--output", "scores.parquet"): "data",
    (APEX, "score", "battles.csv", "--backend", "ray", "--output", "scores"): "ray",
    (APEX, "embed", "songs", "--output", "embeddings"): "data",
    (APEX, "label", SONG, "--teacher", MODEL, "--output", "labels.csv"): "data",
    (APEX, "train", "embeddings", "--output", "run"): "data",
    (APEX, "evaluate", "embeddings", "--model", MODEL): "data",
    (APEX, "conditions", "embeddings", "--output", "conditions"): "data",
    (APEX, "arena", "battles.csv", "--output", "arena"): "data",
    (APEX, "anchors", "battles.csv", "--output", "anchors"): "data",
    (APEX, "calibrate", MODEL, "songs", "--output", "calibrated"): "data",
    (APEX, "bench", "cmi", "--rows", "all_test.jsonl", "--audio", "songs", "--output", "bench"): "data",
    (APEX, "personalise", "ratings.csv", "--embeddings", "embeddings", "--output", "mine"): "data",
    (APEX, "robustness", MODEL, SONG, "--output", "robustness"): "eval",
    (APEX, "arena", "songs", "--model", MODEL, "--output", "arena"): "data",
    ("datasets_scripts.build", "training", "--source", "t.csv", "none", "suno", "--output", "built"): "data",
    ("datasets_scripts.build", "songeval", "--source", "songs", "--output", "built"): "data",
    ("datasets_scripts.build", "music-arena", "--source", "songs", "--output", "built"): "data",
    ("datasets_scripts.build", "synthetic", "--num-songs", "2", "--seconds", "8", "--output", "world"): "data",
    (APEX, "build", "songeval", "--source", "songs", "--output", "built"): "data",
    (APEX, "build", "synthetic", "--num-songs", "2", "--seconds", "8", "--output", "world"): "data",
    (APEX, "card", "--model", MODEL, "--output", "card"): "hub",
    (APEX, "publish", "--model", MODEL, "--repo", "a/b", "--dry-run"): "hub",
    (APEX, "demo"): "demo",
    ("hub_card.build_card", "--model", MODEL, "--output", "card"): "hub",
    ("hub_card.publish", "--model", MODEL, "--repo", "a/b", "--dry-run"): "hub",
    ("spaces_demo.app",): "demo",
}
HELP = [
    *((APEX, command, "--help") for command in COMMANDS),
    *((module, "--help") for module in MODULES_OF_PROGRAMS),
    (APEX, "build", "training", "--help"),
    (APEX, "build", "synthetic", "--help"),
    ("datasets_scripts.build", "training", "--help"),
    ("datasets_scripts.build", "synthetic", "--help"),
]
PROGRAM = """
import contextlib, io, json, runpy, sys
modules, runs = json.load(sys.stdin)
sys.modules.update(dict.fromkeys(modules))  # to Python, these are not installed
sys.modules.update(dict.fromkeys(("sklearn", "gradio_client", "xgboost")))
told = []
for module, *words in runs:
    sys.argv = [module, *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if module == "spaces_demo.app":
                runpy.run_module(module, run_name="__main__")
            else:
                __import__(module)
                status = sys.modules[module].main(words)
        except SystemExit as stop:
            status = stop.code
        except BaseException as error:
            status = repr(error)
    told.append((status, said.getvalue()))
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[int, str]]:
    """What each command answers, in one process that finds no package of an extra."""
    folder = tmp_path_factory.mktemp("minimal")
    (folder / "songs").mkdir()
    (folder / "battles.csv").write_text("battle_uuid,vote\n")
    (folder / "a-00001-of-00001.csv").write_text("song,clarity\n")
    (folder / "t.csv").write_text("id,play_count\n1,2\n")
    runs = [*NEEDS, *HELP]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([sorted(EXTRAS), runs]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return {run: tuple(answer) for run, answer in zip(runs, json.loads(done.stdout.splitlines()[-1]), strict=True)}


@pytest.mark.parametrize("run", NEEDS, ids=" ".join)
def test_a_command_names_the_extra_that_it_lacks(run: tuple[str, ...], answers: dict) -> None:
    status, said = answers[run]
    extra = NEEDS[run]
    assert status == (0 if extra is None else 2), said
    assert "Traceback" not in said
    assert "No module named" not in said
    assert re.findall(r'pip install "apex-music\[(\w+)\]"', said) == ([] if extra is None else [extra]), said


@pytest.mark.parametrize("run", HELP, ids=" ".join)
def test_help_needs_no_extra(run: tuple[str, ...], answers: dict) -> None:
    status, said = answers[run]
    assert status == 0, said
    assert said.startswith("usage: ")


def test_a_program_that_imports_the_page_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "spaces_demo.app", raising=False)
    with pytest.raises(ImportError, match=r'the page needs gradio, .*: pip install "apex-music\[demo\]"'):
        importlib.import_module("spaces_demo.app")


def test_a_new_command_gets_words_here() -> None:
    needs_no_extra = {"convert"}  # whatever it is given
    assert {run[1] for run in NEEDS if run[0] == APEX} | needs_no_extra == set(COMMANDS)


def test_make_installs_for_a_target_what_it_needs() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = dict(re.findall(r"^([a-z-]+): .*?\$\(WITH\)(\S+) ##", makefile, flags=re.MULTILINE))
    assert needed["score"] == "audio"
    assert needed["test"] == "test"
    for extras in (*needed.values(), *re.findall(r"^ALL := \$\(WITH\)(\S+)", makefile, flags=re.MULTILINE)):
        assert set(extras.split(",")) <= set(project["optional-dependencies"]), extras
    runs = set(re.findall(r"^([a-z-]+):.*## .*\n\t\$\(BIN\)", makefile, flags=re.MULTILINE))
    assert {*runs, "setup"} <= {*needed, *re.findall(r"^([a-z-]+): \$\(ALL\)", makefile, flags=re.MULTILINE)}


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    apart = {"all", "dev", "docs", "fuzz", "mutation", "release", "test"}
    found: dict[str, set[str]] = {}
    for extra, requirements in project["optional-dependencies"].items():
        if extra not in apart:
            for requirement in requirements:
                name = re.match(r"[\w.-]+", requirement)[0]
                found.setdefault(MODULES.get(name, name), set()).add(extra)
    del found["apex-music"]  # extras that bring others
    assert set(EXTRAS) == set(found)
    assert all(EXTRAS[module] in extras for module, extras in found.items())
