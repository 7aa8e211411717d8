"""
One small interface to the fast matrix products of a CPU: weights packed once in oneDNN's own layout.

On many CPUs `torch.nn.functional.linear` takes a generic path; oneDNN, which ships inside torch, is faster with a
weight that it has laid out itself, and it applies the activation or adds the residual while a result is still in
cache. Torch reaches these operators from its compiler only, so their names are private: they are used here and nowhere
else, probed before first use, and [`PlainLinear`] computes the same with public ones wherever they are missing.
"""

import functools
import os
import platform
from typing import Any

import torch
import torch.nn.functional as F

# Set to 0 to compute everything with public operators: for a second opinion on a number, or on an unknown CPU.
SWITCH = "APEX_PACKED_OPERATORS"


class PlainLinear:
    """
    Affine map by public operators: `activation(inputs @ weight.T + bias) + residual`.

    Args:
        weight (`torch.FloatTensor` of shape `(num_outputs, num_inputs)`):
            The weight; its dtype is the dtype of the product.
        bias (`torch.FloatTensor` of shape `(num_outputs,)`, *optional*):
            The bias.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        self.weight = weight.contiguous()
        self.bias = None if bias is None else bias.to(weight.dtype)

    def __call__(
        self, inputs: torch.Tensor, *, gelu: bool = False, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Map rows.

        Args:
            inputs (`torch.FloatTensor` of shape `(num_rows, num_inputs)`):
                Rows in the dtype of the weight; they may overlap in memory.
            gelu (`bool`, defaults to `False`):
                Whether to apply the exact GELU.
            residual (`torch.FloatTensor` of shape `(num_rows, num_outputs)`, *optional*):
                What to add at the end.

        Returns:
            `torch.FloatTensor` of shape `(num_rows, num_outputs)`.
        """
        outputs = F.linear(inputs, self.weight, self.bias)
        if gelu:
            outputs = F.gelu(outputs)
        return outputs if residual is None else outputs.add_(residual)


class PackedLinear(PlainLinear):
    """The same map with the weight in oneDNN's layout; see [`PlainLinear`] for its arguments."""

    # How many rows the layout is tuned for; others work as well.
    TYPICAL_ROWS = 1024

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        super().__init__(weight, bias)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, self.TYPICAL_ROWS)

    def __call__(
        self, inputs: torch.Tensor, *, gelu: bool = False, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        outputs: torch.Tensor
        if residual is not None and not gelu:
            outputs = torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, self.weight, self.bias, "add")
            return outputs
        activation: tuple[str, list[Any], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        outputs = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, *activation)
        return outputs if residual is None else outputs.add_(residual)


@functools.cache
def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether this build of torch, on this CPU, may use packed operators for a dtype, by trying them."""
    if os.environ.get(SWITCH, "1") == "0" or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    inputs, weight, residual = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((8, 32), (16, 32), (8, 16))
    )
    bias = torch.randn(16, generator=generator).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    try:
        packed, plain = PackedLinear(weight, bias), PlainLinear(weight, bias)
        pairs = [
            (packed(inputs, **options), plain(inputs, **options))
            for options in ({}, {"gelu": True}, {"residual": residual}, {"gelu": True, "residual": residual})
        ]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # no such operator, or not on this CPU
        return False
    return all(torch.allclose(fast, slow, rtol=tolerance, atol=tolerance) for fast, slow in pairs)


@functools.cache
def has_fast_attention(cpu_description: str = "/proc/cpuinfo") -> bool:
    """
    Tell whether torch's fused attention is the fastest here: its products are MKL's, which are fast on Intel's CPUs.

    By the maker's name and not by a measurement, so that the same machine computes the same digits every time.
    """
    if not torch.backends.mkl.is_available():
        return False
    if not os.path.isfile(cpu_description):  # another system than Linux
        return "GenuineIntel" in platform.processor()
    with open(cpu_description, encoding="utf-8") as file:
        return any(line.startswith("vendor_id") and "GenuineIntel" in line for line in file)


def build_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> PlainLinear:
    """Choose the fastest affine map that this CPU has; see [`PlainLinear`] for the arguments."""
    return PackedLinear(weight, bias) if can_pack(weight.dtype) else PlainLinear(weight, bias)
