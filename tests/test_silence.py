"""
Nothing that this package imports or starts asks for a name or calls a host, or leaves a file where none was announced.

The commands run as a user's would, online and with an empty home, in processes whose every look-up and connection is
written down and refused. What native code asks for past Python is not seen by this; of ONNX Runtime, the one library
here that did, `engines/test_hostile_exports.py` holds what keeps it from asking.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from patience import PATIENCE

from small_model import build_small_model
from song_folders import make_wav, write_dataset

REPOSITORY = Path(__file__).parent.parent
SONG = str(REPOSITORY / "spaces_demo" / "samples" / "1-good-pop.ogg")
SECOND_SONG = str(REPOSITORY / "spaces_demo" / "samples" / "2-good-folk.ogg")
# Python runs this in each of its processes, the workers of our commands among them.
LISTENER = """
import os, sys

def listen(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        host = arguments[1]
        host = host[0] if isinstance(host, tuple) else None  # else a Unix socket
    else:
        return
    host = os.fsdecode(host) if host else "localhost"
    if host not in ("localhost", "127.0.0.1", "::1", "0.0.0.0"):
        with open(os.environ["LISTENER_FILE"], "a") as file:
            file.write(f"{os.environ.get('LISTENER_STEP')}: {event} {host}\\n")
        raise OSError(f"{event} {host}")

sys.addaudithook(listen)
"""
PROGRAM = """
import contextlib, importlib, io, json, os, pkgutil, sys

def begin(step):
    os.environ["LISTENER_STEP"] = step

begin("a program")
import modeling_apex
from modeling_apex.checkpoints.verification import verify_model
next(modeling_apex.load_scorer().score([sys.argv[1]]))
modeling_apex.load_pipeline()(sys.argv[1])
verify_model("model")
assert "HF_HUB_DISABLE_TELEMETRY" not in os.environ  # of a command, which comes later
statuses = {}
for step, module, *words in json.load(sys.stdin):
    begin(step)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = importlib.import_module(module).main(words)
        except BaseException as error:
            status = repr(error)
    statuses[step] = (status, said.getvalue()[-600:])
begin("import everything")
import datasets_scripts, hub_card, modeling_apex, spaces_demo
for name in modeling_apex.__all__:
    getattr(modeling_apex, name)
for package in (datasets_scripts, hub_card, modeling_apex, spaces_demo):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(found.name)
begin("the Space")
from spaces_demo.app import build_app, build_launch_options
from spaces_demo.settings import SpaceSettings
settings = SpaceSettings()
app = build_app(settings)
app.launch(**build_launch_options(settings), prevent_thread_lock=True, quiet=True)
app.close(verbose=False)
json.dump(statuses, sys.__stdout__)
"""
APEX, BUILD, CARD = "modeling_apex.cli", "datasets_scripts.build", "hub_card.build_card"
QUICK_ARENA = ["--num-folds", "2", "--num-draws", "100", "--classifiers", "logistic_regression"]
STEPS = [
    ("a song", APEX, "score", SONG),
    ("a ranking", APEX, "rank", SONG),
    ("a selection", APEX, "select", SONG, "--output", "chosen"),
    ("a world", BUILD, "synthetic", "--layout", "training", "--num-songs", "2", "--seconds", "2", "--output", "world"),
    (
        "a build",
        BUILD,
        "training",
        "--source",
        "t.csv",
        "none",
        "suno",
        "--splits",
        "80:20:0",
        "--license",
        "mit",
        "--output",
        "built",
    ),
    ("a dataset's card", CARD, "--dataset", "built"),
    ("embeddings", APEX, "embed", "songs", "--model", "model", "--output", "embeddings"),
    ("scores of embeddings", APEX, "score", "embeddings", "--model", "model", "--output", "stored.json"),
    ("labels", APEX, "label", "songs", "--teacher", "model", "--output", "labels.parquet"),
    ("training", APEX, "train", "embeddings", "--num-epochs", "1", "--batch-size", "8", "--output", "run"),
    ("evaluation", APEX, "evaluate", "embeddings", "--model", "run/best", "--output", "results.json"),
    ("an arena", APEX, "arena", "battles", "--model", "model", "--output", "arena", *QUICK_ARENA),
    ("robustness", APEX, "robustness", "model", SONG, SECOND_SONG, "--only", "mp3", "--output", "robustness"),
    ("an export", APEX, "export", "--model", "model", "--output", "exported"),
    ("a graph of ONNX", APEX, "export", "--model", "model", "--format", "onnx", "--output", "onnx"),
    ("a song by ONNX", APEX, "score", SONG, "--model", "onnx", "--engine", "onnx"),
    ("a graph of OpenVINO", APEX, "export", "--model", "model", "--format", "openvino", "--output", "openvino"),
    ("a song by OpenVINO", APEX, "score", SONG, "--model", "openvino", "--engine", "openvino"),
    ("the environment", APEX, "env"),
    ("verification", APEX, "verify", "--model", "exported"),
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[object, str]]]:
    """The folder in which all of it ran, with its home in `home`, and the status of each step."""
    folder = tmp_path_factory.mktemp("silence")
    build_small_model().save_pretrained(folder / "model")
    write_dataset(folder / "songs", {"train": 12, "validation": 6, "test": 6})
    rows = [f"song-{number},{number + 1},{number},user-{number}" for number in range(40)]
    (folder / "t.csv").write_text("\n".join(["id,play_count,upvote_count,user_id", *rows]))
    write_battles(folder / "battles")
    (folder / "home").mkdir()
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(LISTENER)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "GRADIO_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, SONG],
        input=json.dumps(STEPS),
        cwd=folder,
        env={
            **kept,
            "HOME": str(folder / "home"),
            "LISTENER_FILE": str(folder / "heard.txt"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(REPOSITORY)]),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def write_battles(folder: Path) -> None:
    numbers = range(12)
    columns = {
        "battle_uuid": [f"battle-{number}" for number in numbers],
        "preference": ["A" if number % 3 else "B" for number in numbers],
        **{
            f"system_{side}": [f"system-{(number + place) % 2}" for number in numbers]
            for place, side in enumerate("ab")
        },
        **{
            f"audio_{side}": [{"bytes": make_wav(2 * number + place, 0.25), "path": None} for number in numbers]
            for place, side in enumerate("ab")
        },
    }
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "test-00000-of-00001.parquet")


@pytest.mark.parametrize("step", [step for step, *_ in STEPS])
def test_a_command_ends_well_without_a_network(ran: tuple[Path, dict], step: str) -> None:
    status, said = ran[1][step]
    # Such a model, made of chance, has no licence.
    assert status == (1 if step == "verification" else 0), said


def test_no_name_is_asked_for_and_no_host_is_called(ran: tuple[Path, dict]) -> None:
    heard = ran[0] / "heard.txt"
    assert not heard.exists(), heard.read_text()


def test_the_listener_hears(ran: tuple[Path, dict], tmp_path: Path) -> None:
    program = "import socket; socket.getaddrinfo('localhost', 80); socket.getaddrinfo('apex.invalid', 80)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ran[0] / "site"), "LISTENER_FILE": str(tmp_path / "heard.txt")},
        capture_output=True,
    )
    assert done.returncode == 1
    assert (tmp_path / "heard.txt").read_text() == "None: socket.getaddrinfo apex.invalid\n"


def test_the_home_holds_what_is_announced(ran: tuple[Path, dict]) -> None:
    home = ran[0] / "home"
    found = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    # The Hub's cache, in it what training maps into memory; and the fonts that matplotlib found, for the plots.
    announced = (".cache/huggingface/assets/apex-music/", ".cache/huggingface/datasets/", ".cache/matplotlib/")
    assert [path for path in sorted(found) if not path.startswith(announced)] == []
    assert any(path.startswith(announced[0]) for path in found)
