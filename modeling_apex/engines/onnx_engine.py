"""The engine `onnx`: an exported graph in ONNX Runtime, on the CPU."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_apex.engines.encoder_engine import INPUT_NAME, OUTPUT_NAME, GraphEngine, build_graph_error, check_graph
from modeling_apex.engines.mapped_weights import WatchedFiles


class OnnxEngine(GraphEngine):
    """
    Run an exported graph in ONNX Runtime: an `.onnx` file, whose weights lie beside it.

    Raises:
        `ValueError`: If the file is damaged, or is no graph of an encoder.
    """

    def __init__(self, path: Path, precision: str):
        super().__init__("onnx", precision)
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Idle threads would otherwise spin, and take the cores that decode the next song.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # ONNX Runtime maps what lies beside the graph, for as long as the session lives.
        self._files = WatchedFiles(path.parent.glob(f"{path.name}*"))  # the graph and its data
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library has a kind of its own for each reason, and names no file
            raise ValueError(build_graph_error(path, str(error))) from error
        self.num_samples = check_graph(
            path,
            {value.name: value.shape for value in self._session.get_inputs()},
            {value.name: value.shape for value in self._session.get_outputs()},
        )

    def run_segment(self, segment: np.ndarray) -> np.ndarray:
        self._files.check()
        pooled: np.ndarray = self._session.run([OUTPUT_NAME], {INPUT_NAME: segment})[0]
        return pooled


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without its usage reports, or say how to install it."""
    # Its import looks up a host of its makers, and writes a device id and a database of events into the user's cache.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('the engine onnx needs ONNX Runtime: pip install "apex-music[onnx]".') from error
    return onnxruntime
