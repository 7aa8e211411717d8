"""The engine `onnx`: an exported graph in ONNX Runtime, on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_apex.engines.encoder_engine import EncoderEngine

INPUT_NAME, OUTPUT_NAME = "segments", "pooled"


class OnnxEngine(EncoderEngine):
    """
    Run an exported graph in ONNX Runtime.

    Args:
        path (`Path`):
            The `.onnx` file; its weights lie beside it.
        precision (`str`):
            What the graph computes in.

    Raises:
        `ImportError`: If ONNX Runtime is not installed.
        `ValueError`: If a segment has another length than the graph was exported for.
    """

    def __init__(self, path: Path, precision: str):
        super().__init__("onnx", precision)
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Idle threads would otherwise spin, and take the cores that decode the next song.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._num_samples: int = self._session.get_inputs()[0].shape[1]

    def __call__(self, segments: torch.Tensor) -> torch.Tensor:
        self.check_length(segments, self._num_samples)
        values = segments.detach().to("cpu", torch.float32).contiguous().numpy()
        # One by one: a segment already keeps a CPU busy, and more of them only take memory.
        pooled = [self._session.run([OUTPUT_NAME], {INPUT_NAME: value[None]})[0] for value in values]
        return torch.from_numpy(np.concatenate(pooled))


def import_onnxruntime() -> Any:
    """Import ONNX Runtime, or say how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('the engine onnx needs ONNX Runtime: pip install "apex-music[onnx]".') from error
    return onnxruntime
