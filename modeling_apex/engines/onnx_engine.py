"""The engine `onnx`: an exported graph in ONNX Runtime, on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_apex.engines.encoder_engine import GraphEngine

INPUT_NAME, OUTPUT_NAME = "segments", "pooled"


class OnnxEngine(GraphEngine):
    """Run an exported graph in ONNX Runtime: an `.onnx` file, whose weights lie beside it."""

    def __init__(self, path: Path, precision: str):
        super().__init__("onnx", precision)
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Idle threads would otherwise spin, and take the cores that decode the next song.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.num_samples = self._session.get_inputs()[0].shape[1]

    def run_segment(self, segment: np.ndarray) -> np.ndarray:
        pooled: np.ndarray = self._session.run([OUTPUT_NAME], {INPUT_NAME: segment})[0]
        return pooled


def import_onnxruntime() -> Any:
    """Import ONNX Runtime, or say how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('the engine onnx needs ONNX Runtime: pip install "apex-music[onnx]".') from error
    return onnxruntime
