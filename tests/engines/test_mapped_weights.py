"""Pages of mapped weights are given back, and nothing that was in them is lost."""

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_apex.engines import mapped_weights
from modeling_apex.engines.mapped_weights import page_out, trim_heap

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the call")


def measure_mapped_kilobytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1])


@pytest.fixture
def mapped(tmp_path: Path) -> dict[str, torch.Tensor]:
    weights = {"large": torch.arange(1 << 22, dtype=torch.float32), "small": torch.ones(3)}
    save_file(weights, tmp_path / "weights.safetensors")
    return load_file(tmp_path / "weights.safetensors")


@on_linux
def test_memory_of_mapped_weights_is_given_back(mapped: dict[str, torch.Tensor]) -> None:
    expected = torch.arange(1 << 22, dtype=torch.float32)
    assert torch.equal(mapped["large"], expected)  # takes 16 MB, page by page
    before = measure_mapped_kilobytes()
    assert (1 << 24) - (1 << 13) <= page_out(mapped.values()) <= 1 << 24
    assert measure_mapped_kilobytes() < before - 12_000
    assert torch.equal(mapped["large"], expected)


@on_linux
def test_changed_weights_keep_their_change(mapped: dict[str, torch.Tensor]) -> None:
    mapped["large"].add_(1)
    page_out(mapped.values())
    assert torch.equal(mapped["large"], torch.arange(1, (1 << 22) + 1, dtype=torch.float32))


def test_other_tensors_are_left_alone() -> None:
    assert page_out([torch.zeros(1 << 20), torch.zeros(0)]) == 0


@pytest.mark.parametrize("obstacle", ["system", "maps", "call"])
def test_without_the_means_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, mapped: dict[str, torch.Tensor], obstacle: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError

    if obstacle == "system":
        monkeypatch.setattr(sys, "platform", "win32")
    elif obstacle == "maps":
        monkeypatch.setattr(Path, "read_bytes", fail)
    else:
        monkeypatch.setattr(mapped_weights.ctypes, "CDLL", fail)
    assert page_out(mapped.values()) == 0


def test_a_trimmed_heap_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [torch.full((1000,), float(number)) for number in range(200)]
    del kept[::2]
    trim_heap()
    assert [float(tensor[-1]) for tensor in kept] == list(range(1, 200, 2))
    calls = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=calls.append))
    trim_heap()
    assert calls == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # a C library without the call
    trim_heap()
    monkeypatch.setattr(sys, "platform", "darwin")
    trim_heap()
    assert calls == [0]
