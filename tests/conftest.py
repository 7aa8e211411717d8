"""Shared fixtures. The environment is closed to the network before anything imports the Hub's client."""

import os
import shutil
import subprocess
import sys
import tempfile

_HOME = tempfile.mkdtemp(prefix="apex-tests-")
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    GRADIO_ANALYTICS_ENABLED="False",
    HF_HOME=_HOME,
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)

from collections.abc import Callable, Iterator  # noqa: E402
from copy import deepcopy  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import huggingface_hub  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402

import modeling_apex  # noqa: E402, F401  (registers with transformers)
from modeling_apex import ApexConfig, ApexModel  # noqa: E402

from loopback_hub import LoopbackHub, run_loopback_hub  # noqa: E402
from waveforms import make_waveform  # noqa: E402

TINY_ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.05,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """
    Start each test on one thread, whatever the machine has and another test left behind.

    How many segments are computed at once follows from it, and so does what progress and batches look like. Tests of
    several threads say how many.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """Let no trainer leave its precision to the next one: accelerate keeps one state for the whole process."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def tiny_config() -> Callable[..., ApexConfig]:
    """A factory of configs of a model that runs the whole path on a CPU in milliseconds."""

    def build(encoder: dict | None = None, **fields: object) -> ApexConfig:
        defaults = {
            "layer_indices": [0, 1, 2, -1],
            "segment_seconds": 0.1,
            "shared_dims": [12, 8],
            "branch_dims": [6, 4],
        }
        return ApexConfig(encoder_config={**TINY_ENCODER, **(encoder or {})}, **{**defaults, **fields})

    return build


@pytest.fixture(scope="session")
def _tiny_model() -> ApexModel:
    torch.manual_seed(0)
    config = ApexConfig(
        encoder_config=dict(TINY_ENCODER),
        layer_indices=[0, 1, 2, -1],
        segment_seconds=0.1,
        shared_dims=[12, 8],
        branch_dims=[6, 4],
    )
    model = ApexModel(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            # Untrained batch norm is the identity and would hide a mistake in its place; random heads also spread
            # the scores, so that two songs differ by more than rounding.
            if name.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point() and name.startswith(("shared", "branch", "aggregator")):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model.eval()


@pytest.fixture
def tiny_model(_tiny_model: ApexModel) -> ApexModel:
    """A random model with non-trivial batch norm statistics; each test gets its own copy."""
    return deepcopy(_tiny_model)


@pytest.fixture
def tiny_folder(tiny_model: ApexModel, tmp_path: Path) -> Path:
    """The tiny model as `save_pretrained` writes it."""
    folder = tmp_path / "tiny-model"
    tiny_model.save_pretrained(folder)
    return folder


@pytest.fixture
def song_file(tmp_path: Path) -> Callable[..., Path]:
    """A factory of audio files: exact (float) wav by default, any format that libsndfile writes by the suffix."""

    def write(
        name: str = "song.wav",
        seconds: float = 0.35,
        sampling_rate: int = 24_000,
        *,
        num_channels: int = 1,
        seed: int = 0,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        waveform = make_waveform(seconds, sampling_rate, num_channels=num_channels, seed=seed)
        subtype = "FLOAT" if path.suffix == ".wav" else None
        soundfile.write(path, waveform.T, sampling_rate, subtype=subtype)
        return path

    return write


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if not made or made.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub on the loopback that the client of this process may reach; waits between retries are skipped."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))
    with run_loopback_hub() as server:
        monkeypatch.setenv("HF_TOKEN", server.write_token)
        yield server


@pytest.fixture
def api(hub: LoopbackHub) -> huggingface_hub.HfApi:
    """The real client; its token comes from the environment, as a user's would."""
    return huggingface_hub.HfApi(endpoint=hub.url)
