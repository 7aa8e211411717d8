"""Shared fixtures. The environment is closed to the network before anything imports the Hub's client."""

import os
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
