"""The packed matrix products against public operators, and what happens where they are missing."""

import pytest
import torch

from modeling_apex.engines import packed_linear
from modeling_apex.engines.packed_linear import PackedLinear, PlainLinear, build_linear, can_pack


@pytest.fixture(autouse=True)
def _probe_anew():
    can_pack.cache_clear()
    yield
    can_pack.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 7, 300])
def test_packed_equals_plain(
    dtype: torch.dtype, gelu: bool, with_residual: bool, with_bias: bool, num_rows: int
) -> None:
    if not can_pack(dtype):
        pytest.skip(f"this build of torch, or this CPU, has no packed operators for {dtype}")
    generator = torch.Generator().manual_seed(num_rows)
    inputs, weight, bias, residual = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((num_rows, 48), (24, 48), (24,), (num_rows, 24))
    )
    options = {"gelu": gelu, "residual": residual if with_residual else None}
    chosen = build_linear(weight, bias if with_bias else None)
    assert isinstance(chosen, PackedLinear)
    exact = PlainLinear(weight.double(), bias.double() if with_bias else None)(
        inputs.double(), gelu=gelu, residual=residual.double() if with_residual else None
    )
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for linear in (chosen, PlainLinear(weight, bias if with_bias else None)):
        torch.testing.assert_close(linear(inputs, **options).double(), exact, rtol=tolerance, atol=tolerance)


def test_rows_may_overlap_in_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    samples, weight = torch.randn(100, generator=generator), torch.randn(4, 10, generator=generator)
    patches = samples.as_strided((31, 10), (3, 1))
    torch.testing.assert_close(build_linear(weight)(patches), patches.contiguous() @ weight.T)


def test_switch_turns_packed_operators_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APEX_PACKED_OPERATORS", "0")
    assert type(build_linear(torch.ones(2, 3))) is PlainLinear


@pytest.mark.parametrize("failure", [AttributeError, NotImplementedError, RuntimeError, TypeError])
def test_missing_operators_are_replaced(monkeypatch: pytest.MonkeyPatch, failure: type[Exception]) -> None:
    def fail(*arguments: object) -> None:
        raise failure("no such operator")

    monkeypatch.setattr(packed_linear.PackedLinear, "__init__", fail)
    assert type(build_linear(torch.ones(2, 3))) is PlainLinear


def test_operators_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        packed_linear.PackedLinear, "__call__", lambda self, inputs, **options: inputs.new_zeros(len(inputs), 16)
    )
    assert not can_pack(torch.float32)
    assert type(build_linear(torch.ones(2, 3))) is PlainLinear
