"""What a stranger does: publish from the command line, then load from the Hub in a process that knows nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

from hub_card.publish import build_parser, publish
from modeling_apex import load_pipeline

from loopback_hub import LoopbackHub

REPOSITORY = Path(__file__).parents[2]
REPO = "tester/apex"


def build_environment(hub: LoopbackHub, home: Path, *, with_token: bool) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    return environment | ({"HF_TOKEN": hub.write_token} if with_token else {})


def run(words: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


def test_published_from_the_command_line_and_loaded_by_a_stranger(
    hub: LoopbackHub, api, tiny_release: Path, song_file, tmp_path: Path
) -> None:
    words = ["--model", str(tiny_release), "--no-arena-because", "no battles were at hand.", "--repo", REPO]
    environment = {**build_environment(hub, tmp_path / "owner", with_token=True), "PYTHONPATH": str(REPOSITORY)}
    done = run(["-m", "hub_card.publish", *words], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "every hash is that of the file sent" in done.stdout
    assert hub.write_token not in done.stdout + done.stderr

    song = song_file("song.wav", 0.35, 44_100, num_channels=2)
    # The package must be out of reach: what runs is the code that lies in the repository.
    program = f"""
import importlib.util, json, sys
sys.path = [path for path in sys.path if path not in ("", {str(REPOSITORY)!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(getattr(finder, "__module__", ""))]
assert importlib.util.find_spec("modeling_apex") is None
from transformers import AutoModel, pipeline
model = AutoModel.from_pretrained({REPO!r}, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model)
scorer = pipeline("apex-popularity", model={REPO!r}, trust_remote_code=True)
print(json.dumps(scorer({str(song)!r})))
"""
    stranger = build_environment(hub, tmp_path / "stranger", with_token=False)
    done = run(["-c", program], stranger, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = load_pipeline(tiny_release)(str(song))["scores"]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["scores"] == pytest.approx(expected, rel=1e-5)
    commit = api.model_info(REPO).sha
    assert report["model"] == {"id": REPO, "revision": commit}, "a report says which commit of the model it is of"


def test_private_model_is_loaded_by_its_owner_only(hub: LoopbackHub, api, tiny_release: Path, tmp_path: Path) -> None:
    words = ["--model", str(tiny_release), "--no-arena-because", "none yet.", "--repo", REPO, "--private"]
    publish(build_parser().parse_args(words), api=api, say=lambda line: None)
    program = f"""
import modeling_apex
from transformers import AutoModel, pipeline
assert type(AutoModel.from_pretrained({REPO!r})) is modeling_apex.ApexModel
scorer = pipeline("apex-popularity", model={REPO!r})
print(scorer.model_revision)
"""
    for with_token in (True, False):
        home = tmp_path / f"home-{with_token}"
        environment = build_environment(hub, home, with_token=with_token) | {"PYTHONPATH": str(REPOSITORY)}
        done = run(["-c", program], environment, tmp_path)
        assert (done.returncode == 0) is with_token, done.stderr
        assert not with_token or done.stdout.split()[-1] == api.model_info(REPO).sha
    assert "tester/apex" in done.stderr
