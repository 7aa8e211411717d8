"""
The arranged form of a model's encoder, kept for as long as its weights are what they were.

What comes in is an encoder of transformers; what leaves is its [`PackedEncoder`] on a CPU and its [`GpuEncoder`] on a
GPU, made on first use and anew when a weight has changed, or nothing where the encoder itself is due.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch

from modeling_apex.engines.gpu_encoder import GpuEncoder
from modeling_apex.engines.packed_encoder import PackedEncoder, can_arrange

ArrangedEncoder = PackedEncoder | GpuEncoder
# How an encoder is arranged, by the kind of device that its weights lie on.
ARRANGEMENTS: dict[str, Callable[..., ArrangedEncoder]] = {"cpu": PackedEncoder, "cuda": GpuEncoder}


class ArrangedEncoderCache:
    """
    Keep the arranged form of one encoder's weights, and arrange anew when they change.

    A copied or unpickled model starts with an empty cache: packed weights can be neither copied nor pickled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: tuple[Any, ...] | None = None
        self._arranged: ArrangedEncoder | None = None

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return type(self), ()

    def get(self, encoder: Any, before_arranging: Callable[[], None] = lambda: None) -> ArrangedEncoder | None:
        """
        Return the arranged form of an encoder's present weights.

        Args:
            encoder (`HubertModel`):
                The encoder.
            before_arranging (`Callable[[], None]`, *optional*):
                What is called before weights are read.

        Returns:
            [`PackedEncoder`], [`GpuEncoder`] or `None`: `None` where the plain path is due: in training mode, while
            compiling, on another device or in a dtype other than float32 and bfloat16, for an encoder that was altered
            (hooks, adapters, another attention implementation than the default), or of a variant that MERT does not
            use.
        """
        if encoder.training or torch.compiler.is_compiling() or not is_plain(encoder):
            return None
        state = tuple(_describe_state(weight) for weight in encoder.parameters())
        with self._lock:
            if state != self._state:
                before_arranging()
                self._arranged = arrange(encoder, encoder.dtype)
                self._state = state
            return self._arranged


def arrange(encoder: Any, dtype: torch.dtype) -> ArrangedEncoder:
    """Arrange an encoder that [`is_plain`] for its device, with matrix products in `dtype`."""
    weights = {name: weight.detach() for name, weight in encoder.state_dict().items()}
    return ARRANGEMENTS[encoder.device.type](weights, encoder.config, dtype)


def is_plain(encoder: Any) -> bool:
    """Tell whether an encoder is as MERT was published, without hooks or adapters, where an arrangement serves it."""
    return (
        encoder.dtype in (torch.float32, torch.bfloat16)
        and encoder.device.type in ARRANGEMENTS
        and encoder.config._attn_implementation in (None, "sdpa")
        and can_arrange(encoder.config)
        and not any(
            module._forward_hooks or module._forward_pre_hooks or type(module).__module__.startswith("peft")
            for module in encoder.modules()
        )
    )


def _describe_state(weight: torch.Tensor) -> tuple[int, int, float]:
    """
    Return what changes when a weight does.

    Torch counts changes, but its fused optimizers change weights without counting. So what can be trained is summed as
    well; what is frozen is not, since reading it would bring a mapped checkpoint back into memory.
    """
    version = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, float(weight.sum(dtype=torch.float64)) if weight.requires_grad else 0.0
