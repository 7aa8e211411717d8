"""The engine `openvino`: an exported graph in OpenVINO, on the CPU."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_apex.engines.encoder_engine import INPUT_NAME, OUTPUT_NAME, GraphEngine, build_graph_error, check_graph

# Left to itself, OpenVINO computes in bfloat16 wherever the processor can: every precision is asked for by name.
# What int8 leaves as it was is computed in bfloat16: it was asked for coarser than that already.
PRECISION_HINTS = {"float32": "f32", "bf16": "bf16", "int8": "bf16"}


class OpenVinoEngine(GraphEngine):
    """Run an exported graph in OpenVINO: an `.xml` file, whose weights lie beside it."""

    def __init__(self, path: Path, precision: str):
        super().__init__("openvino", precision)
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Two processes that share the work would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        core = import_openvino().Core()
        # Read, not mapped: a file that is overwritten in mid-run changes no score, and one that is cut kills nothing.
        core.set_property({"ENABLE_MMAP": False})
        try:
            self._compiled = core.compile_model(str(path), "CPU", settings)
        except Exception as error:  # RuntimeError of many reasons, and none names the file
            raise ValueError(build_graph_error(path, str(error))) from error
        self.num_samples = check_graph(path, *map(_list_shapes, (self._compiled.inputs, self._compiled.outputs)))

    def run_segment(self, segment: np.ndarray) -> np.ndarray:
        pooled: np.ndarray = self._compiled([segment])[0]
        return pooled.copy()  # a view of memory that the next call writes again


def _list_shapes(ports: Any) -> dict[str, Any]:
    """List the shapes of what a graph takes or gives; OpenVINO keeps the order of the export and not all names."""
    names = [OUTPUT_NAME if len(port.partial_shape) == 3 else INPUT_NAME for port in ports]
    shapes = [[size.get_length() if size.is_static else None for size in port.partial_shape] for port in ports]
    return dict(zip(names, shapes, strict=True))


def import_openvino() -> Any:
    """Import OpenVINO without its usage reports, or say how to install it."""
    # OpenVINO and its quantizer report to their makers what is converted. Whoever scores songs did not ask for that;
    # without the module that sends, both take a stand-in of their own that does nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ImportError('the engine openvino needs OpenVINO: pip install "apex-music[openvino]".') from error
    return openvino
