"""What importing the package does, and in which order; each case in a fresh process."""

import subprocess
import sys

import pytest
from patience import PATIENCE

PROGRAMS = {
    "package first": "import modeling_apex; from transformers import pipeline, AutoModel",
    "transformers first": "from transformers import pipeline, AutoModel; import modeling_apex",
    "model file first": "import modeling_apex.inference.modeling_apex; from transformers import pipeline",
    "pipeline file first": "from modeling_apex.inference.pipeline_apex import ApexPopularityPipeline",
    "config file first": "import modeling_apex.inference.configuration_apex; from transformers import pipeline",
    "encoder after package": "import modeling_apex; from transformers import HubertModel, pipeline",
    "encoder's config after package": "import modeling_apex; from transformers import HubertConfig, pipeline",
    "base class after package": "import modeling_apex; from transformers import PreTrainedModel, pipeline",
    "layers after package": "import modeling_apex, transformers.modeling_layers; from transformers import pipeline",
    "rewards first": "from modeling_apex.rewards import SongReward; from transformers import pipeline",
    "names first": "from modeling_apex import ApexConfig, ApexModel, load_audio; from transformers import pipeline",
}
CHECK = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
import modeling_apex
config = AutoConfig.for_model("apex")
assert type(config) is modeling_apex.ApexConfig
assert AutoModel._model_mapping[type(config)] is modeling_apex.ApexModel
assert "apex-popularity" in PIPELINE_REGISTRY.get_supported_tasks()
"""


def run(program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.parametrize("order", list(PROGRAMS))
def test_any_order_of_imports_registers(order: str) -> None:
    done = run(PROGRAMS[order] + "\n" + CHECK)
    assert done.returncode == 0, done.stderr
    assert "already registered" not in done.stderr


def test_import_is_light_and_silent() -> None:
    done = run(
        "import sys, logging, modeling_apex, modeling_apex.cli\n"
        "heavy = {'torch', 'transformers', 'datasets', 'soundfile', 'av', 'httpx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not logging.getLogger().handlers"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_public_names() -> None:
    import modeling_apex

    assert set(modeling_apex.__all__) <= set(dir(modeling_apex))
    for name in modeling_apex.__all__:
        assert getattr(modeling_apex, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'ApexTrack'"):
        _ = modeling_apex.ApexTrack
