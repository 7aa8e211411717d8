"""The GPU benchmark: its operations are counted right, and where there is no GPU it runs and says so."""

import sys
from pathlib import Path

import bench_gpu
import pytest
import torch
from bench_gpu import SHAPES, build_parser, count_flops, get_peak_rate, measure
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertModel

from modeling_apex import ApexConfig, ApexModel
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
    words = "--batch-size 2 --batch-sizes 1 --seconds 0.05 --num-songs 2 --song-seconds 2 --decoders 1 --no-compile"
    result = measure(torch.device("cpu"), build_parser().parse_args(words.split()), load=0.5)
    assert "No GPU was available" in result["note"]
    (shape,) = result["shapes"].values()
    errors = {(row["way"], row["precision"]): row["relative_error_to_cpu"] for row in shape["paths"]}
    assert errors["published", "float32"] < 1e-6
    assert errors["ours", "float32"] < 1e-5 < errors["ours", "bf16"] < 0.05
    assert [row["batch_size"] for row in shape["paths"]] == [2, 2, 2, 2, 1]
    assert all(row["segments_per_second"] > 0 and row["share_of_peak"] is None for row in shape["paths"])
    assert result["files"]["embed_songs_per_second"].keys() == {1}
    assert result["files"]["score_songs_per_second"] > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_the_published_ones(shape: str) -> None:
    config = ApexConfig(encoder_config=SHAPES[shape] or None).encoder_config
    with torch.device("meta"):
        num_weights = sum(weight.numel() for weight in HubertModel(config).parameters())
    assert num_weights / 1e6 == pytest.approx({"MERT-v1-95M": 94, "MERT-v1-330M": 315}[shape], abs=1)


def test_the_result_of_a_gpu_is_not_replaced_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "gpu.json"
    output.write_text('{"is_gpu": true}')
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_gpu", "--output", str(output)])
    bench_gpu.main()
    assert output.read_text() == '{"is_gpu": true}'
    assert "there is none here: it is left as it is" in capsys.readouterr().err
