"""Machines of strangers: transformers is there, this package is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

from patience import PATIENCE

REPOSITORY = Path(__file__).parents[1]
# What may be installed here, and what nothing of ours may ask a stranger for.
LACKING = (
    *("accelerate", "av", "datasets", "evaluate", "gradio", "jinja2", "librosa", "matplotlib"),
    *("pandas", "pyarrow", "scipy", "sklearn", "soxr", "tensorboard", "torchaudio", "torchcodec", "zstandard"),
)


def run_elsewhere(program: str, folder: Path, *words: str, having: tuple[str, ...] = ()) -> dict:
    """
    Run a program in a fresh process that has torch, transformers and soundfile, but neither this package nor anything
    else that such a machine may lack but for what is named in `having`, with the Hub out of reach.
    """
    prologue = f"""
import importlib.util, sys
sys.modules.update(dict.fromkeys(set({LACKING!r}) - set({having!r})))  # to Python, these are not installed
sys.path = [path for path in sys.path if path not in ("", {str(REPOSITORY)!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(getattr(finder, "__module__", ""))]
assert importlib.util.find_spec("modeling_apex") is None, "the package must not be importable here"
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf-home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", prologue + program, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "log": done.stderr}
