"""What all engines have in common: a name, what they were measured to change, and the call that the model makes."""

from typing import Any

import numpy as np
import torch


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
