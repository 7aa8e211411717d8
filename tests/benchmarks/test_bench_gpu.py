"""The GPU benchmark: its operations are counted right, and where there is no GPU it runs and says so."""

import pytest
import torch
from bench_gpu import count_flops, get_peak_rate, measure
from torch.utils.flop_counter import FlopCounterMode

from modeling_apex import ApexModel
from modeling_apex.engines.encoder_graph import EncoderGraph


def test_operations_are_those_that_torch_counts(tiny_config) -> None:
    config = tiny_config()
    config.encoder_config._attn_implementation = "eager"  # torch does not count its fused attention on a CPU
    model = ApexModel(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        EncoderGraph(model)(torch.zeros(1, config.segment_num_samples))
    assert count_flops(config) == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_peak_rate_is_that_of_the_device_or_unknown() -> None:
    assert get_peak_rate("cuda NVIDIA H200", "bf16") == 989e12
    assert get_peak_rate("cuda NVIDIA L40S", "bf16") is None


def test_without_a_gpu_it_runs_and_says_so() -> None:
    result = measure(torch.device("cpu"), batch_size=2, seconds=0.05, with_compile=False)
    assert "No GPU was available" in result["note"]
    errors = {row["precision"]: row["relative_error_to_cpu"] for row in result["paths"]}
    assert errors["float32"] < 1e-5 < errors["bf16"] < 0.05
    assert all(row["segments_per_second"] > 0 and row["share_of_peak"] is None for row in result["paths"])
