"""What all engines have in common: a name, what they were measured to change, and the call that the model makes."""

import json
import sys
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

INPUT_NAME, OUTPUT_NAME = "segments", "pooled"
MAX_JSON_BYTES = 16 * 2**20


class EncoderEngine:
    """
    Run the encoder in place of the default path.

    Args:
        name (`str`), precision (`str`):
            One of [`ENGINES`], and what it computes in.
        is_compiled (`bool`, defaults to `False`):
            Whether `torch.compile` made it.
    """

    # What `apex-music validate` measured for this engine on this machine; None for float32, which needs none.
    record: dict[str, Any] | None = None

    def __init__(self, name: str, precision: str, is_compiled: bool = False):
        self.name = name
        self.precision = precision
        self.is_compiled = is_compiled

    def __call__(self, segments: torch.Tensor) -> torch.Tensor:
        """
        Encode segments.

        Args:
            segments (`torch.FloatTensor` of shape `(num_segments, num_samples)`):
                Normalised segments of the model's own length.

        Returns:
            `torch.FloatTensor` of shape `(num_segments, num_chosen_layers, hidden_size)`: time means, in float32.
        """
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> "EncoderEngine":
        # A session has no copy, and needs none: it holds no state between calls.
        return self

    def describe(self) -> str:
        """Say in one line what runs, and what it is worth where that was measured."""
        title = f"engine {self.name}, {self.precision}{', compiled' if self.is_compiled else ''}"
        if self.record is not None:
            return f"{title}: {describe_record(self.record)}"
        is_exact = self.precision == "float32"
        return f"{title}: {'equal to the default path within rounding' if is_exact else 'not validated'}"


class GraphEngine(EncoderEngine):
    """
    Run an exported graph on the CPU; a subclass opens it and runs one segment of `num_samples`.

    Raises:
        `ImportError`: If the engine's library is not installed.
        `ValueError`: If a segment has another length than the graph was exported for.
    """

    num_samples: int

    def run_segment(self, segment: np.ndarray) -> np.ndarray:
        """Encode one segment `(1, num_samples)` to pooled layers `(1, L, D)`."""
        raise NotImplementedError

    def __call__(self, segments: torch.Tensor) -> torch.Tensor:
        if segments.ndim != 2 or segments.shape[1] != self.num_samples:
            raise ValueError(
                f"the engine {self.name} runs segments of {self.num_samples} samples, got the shape "
                f"{tuple(segments.shape)}. Cut and pad songs by `ApexFeatureExtractor`, or use the engine torch."
            )
        values = segments.detach().to("cpu", torch.float32).contiguous().numpy()
        # One by one: a segment already keeps a CPU busy, and more of them only take memory.
        return torch.from_numpy(np.concatenate([self.run_segment(value[None]) for value in values]))


def describe_record(record: dict[str, Any]) -> str:
    """Say in half a line what a validation record says: speed, and the score that moved furthest in its range."""
    head, change = max(record["largest_change"].items(), key=lambda item: item[1] / record["ranges"][item[0]])
    return (
        f"{record['speed_ratio']:.2f} times the speed of {record['reference']}; largest change of a score "
        f"{change:.3g} ({head}, {change / record['ranges'][head]:.2%} of its range) on {record['num_songs']} songs"
    )


def read_json(path: Path) -> Any:
    """
    Read a small file of JSON that may come from a stranger.

    Raises:
        `ValueError`: If it is too long or no JSON.
    """
    if (num_bytes := path.stat().st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{path}: {num_bytes:,} bytes; at most {MAX_JSON_BYTES:,} are read.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}).") from error


def is_number_table(value: Any) -> TypeGuard[dict[str, float]]:
    """Tell whether a value is a dict of at least one name and finite numbers."""
    return isinstance(value, dict) and bool(value) and all(map(is_number, value.values()))


def is_number(value: Any) -> bool:
    """Tell whether a value of a file of JSON is a finite number that a float can be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_graph(path: Path, inputs: dict[str, Any], outputs: dict[str, Any]) -> int:
    """
    Check what a graph takes and gives, name to shape with anything but a number where a size is open.

    Returns:
        `int`: samples of a segment.

    Raises:
        `ValueError`: If it is no graph of an encoder.
    """
    taken, given = inputs.get(INPUT_NAME), outputs.get(OUTPUT_NAME)
    if len(inputs) != 1 or taken is None or given is None or len(taken) != 2 or len(given) != 3:
        raise ValueError(build_graph_error(path, f"it takes {inputs} and gives {outputs}"))
    if not isinstance(taken[1], int) or taken[1] < 1:
        raise ValueError(build_graph_error(path, f"its segments have the length {taken[1]!r}"))
    return int(taken[1])


def build_graph_error(path: Path, reason: str) -> str:
    """Say that a graph cannot be run, and what to do."""
    return (
        f"{path}: not a valid graph of an encoder, `{INPUT_NAME}` (n, samples) to `{OUTPUT_NAME}` (n, layers, width): "
        f"{reason:.300}. Export the checkpoint again: apex-music export --format ... --model M --output DIR"
    )
