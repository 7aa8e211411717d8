"""
The engine `torch` away from its defaults: bfloat16, TF32, and `torch.compile`, on a CPU or a GPU.

In bfloat16, the matrix products are in bfloat16; norms, residuals and means are float32.

A compiled path is compiled once, for one shape: a group of segments that is too small is filled up with silence. On a
GPU the fixed shape lets CUDA graphs replay the whole encoder without asking Python.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from modeling_apex.engines.arranged_cache import arrange, is_plain
from modeling_apex.engines.encoder_engine import EncoderEngine
from modeling_apex.inference.modeling_apex import pool_hidden_states


class TorchEngine(EncoderEngine):
    """
    Run the encoder by torch in another precision, compiled, or both.

    Args:
        model ([`ApexModel`]):
            The model, in float32 and on its device; it is not changed.
        precision (`str`, defaults to `"float32"`):
            `"float32"`, `"tf32"` or `"bf16"`.
        compile (`bool`, defaults to `False`):
            Whether to compile it by `torch.compile`; the first call then takes minutes on a large model.
    """

    def __init__(self, model: Any, precision: str = "float32", *, compile: bool = False):
        super().__init__("torch", precision, is_compiled=compile)
        self._encoder = model.encoder
        self._layer_indices: Sequence[int] = model.config.layer_indices
        self._group = model.segments_per_pass or (1 if model.device.type == "cpu" else 8)
        self._run: Callable[[torch.Tensor], torch.Tensor] = self._pool
        dtype = torch.bfloat16 if precision == "bf16" else model.encoder.dtype
        is_gpu = model.device.type == "cuda"
        # On a CPU the packed products are opaque to the compiler, and in float32 they are the default path already.
        if is_plain(model.encoder) and (is_gpu or (precision == "bf16" and not compile)):
            arranged = arrange(model.encoder, dtype)
            self._run = lambda segments: arranged(segments, self._layer_indices)
        elif precision == "bf16":
            self._encoder = copy.deepcopy(model.encoder).to(dtype)
        if compile:
            self._run = compile_encoder(self._run, model.device)

    def _pool(self, segments: torch.Tensor) -> torch.Tensor:
        return pool_hidden_states(self._encoder, segments, self._layer_indices)

    def __call__(self, segments: torch.Tensor) -> torch.Tensor:
        segments = segments.to(self._encoder.device, self._encoder.dtype)
        # Inference mode is left, because a graph that was compiled outside of it would be compiled again inside.
        with torch.inference_mode(False), torch.no_grad(), allow_tf32(self.precision == "tf32"):
            if not self.is_compiled:
                return self._run(segments).float()
            # Always the shape that was compiled: another one would be compiled anew.
            pieces = []
            for group in segments.split(self._group):
                missing = self._group - len(group)
                filled = torch.cat([group, group.new_zeros(missing, group.shape[1])]) if missing else group.clone()
                # CUDA graphs write every result into the same memory, so it is copied before the next call.
                pieces.append(self._run(filled)[: len(group)].float().clone())
            return torch.cat(pieces)


def compile_encoder(
    pool: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compile for one shape; on a GPU the whole encoder becomes one CUDA graph."""
    mode = "reduce-overhead" if device.type == "cuda" else None
    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(pool, dynamic=False, mode=mode)
    return compiled


@contextlib.contextmanager
def allow_tf32(is_allowed: bool) -> Iterator[None]:
    """Let the GPU round the inputs of products and convolutions to TF32, or forbid it; afterwards all is as before."""
    if not torch.cuda.is_available():
        yield
        return
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions
