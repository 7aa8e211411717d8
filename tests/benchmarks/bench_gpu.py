"""
Throughput of a GPU at the size of MERT-v1-95M: songs a second, share of the peak rate, and error against the CPU.

Weights are random, since time does not depend on their values, and segments are noise that lies in memory: this is the
encoder alone, fed through pinned memory. `apex-music embed --decoders N` adds decoding, on as many threads as keep up.
Where there is no GPU, the same runs on the CPU with a very small encoder, and the result says so: then it shows that
the script works, and nothing else.

    python tests/benchmarks/bench_gpu.py --output tests/benchmarks/results/gpu.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from modeling_apex import ApexConfig, ApexModel
from modeling_apex.engines.encoder_graph import EncoderGraph, build_probe, compute_relative_error
from modeling_apex.engines.torch_engine import TorchEngine
from modeling_apex.engines.validation import describe_hardware

SONG_SEGMENTS = 6  # three minutes
# Dense peak rates in TFLOP/s from NVIDIA's data sheets, by what the products are computed in.
PEAK_RATES = {
    "H200": {"float32": 67.0, "tf32": 494.5, "bf16": 989.0},
    "H100": {"float32": 67.0, "tf32": 494.5, "bf16": 989.0},
    "A100": {"float32": 19.5, "tf32": 156.0, "bf16": 312.0},
    "L4": {"float32": 30.3, "tf32": 60.5, "bf16": 121.0},
}
SMALL_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}


def count_flops(config: ApexConfig) -> float:
    """Count the floating-point operations of one segment: convolutions, linears, attention; two to a multiply-add."""
    encoder = config.encoder_config
    length, width, total = config.segment_num_samples, 1, 0.0
    for channels, kernel, stride in zip(encoder.conv_dim, encoder.conv_kernel, encoder.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
        total += 2 * channels * width * kernel * length
        width = channels
    hidden = encoder.hidden_size
    total += 2 * length * width * hidden
    kernel = encoder.num_conv_pos_embeddings
    # An even kernel yields one frame too many, which is then cut off.
    total += 2 * hidden * (hidden // encoder.num_conv_pos_embedding_groups) * kernel * (length + 1 - kernel % 2)
    linears = 2 * length * (4 * hidden**2 + 2 * hidden * encoder.intermediate_size)
    return total + encoder.num_hidden_layers * (linears + 4 * length**2 * hidden)


def get_peak_rate(hardware: str, precision: str) -> float | None:
    """Return the data sheet's rate of a GPU in FLOP/s; `None` for one that is not listed."""
    for name, rates in PEAK_RATES.items():
        if name in hardware.split():
            return rates[precision] * 1e12
    return None


def measure_path(
    model: ApexModel, precision: str, is_compiled: bool, batch_size: int, seconds: float, segment: torch.Tensor
) -> dict[str, Any]:
    """Time one way of encoding, in wall seconds, with the copies to the device."""
    device = model.device
    model.segments_per_pass = batch_size
    engine = TorchEngine(model, precision, compile=is_compiled)
    batch = segment.repeat(batch_size, 1)
    if device.type == "cuda":
        batch = batch.pin_memory()
    for _ in range(3):
        pooled = engine(batch.to(device, non_blocking=True)).cpu()
    num_batches, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        pooled = engine(batch.to(device, non_blocking=True)).cpu()
        num_batches += 1
    rate = num_batches * batch_size / (time.perf_counter() - started)
    peak = get_peak_rate(describe_hardware(device), precision)
    return {
        "precision": precision,
        "is_compiled": is_compiled,
        "segments_per_second": rate,
        "songs_per_second": rate / SONG_SEGMENTS,
        "share_of_peak": None if peak is None else rate * count_flops(model.config) / peak,
        "pooled": pooled[:1],
    }


def measure(device: torch.device, batch_size: int, seconds: float, with_compile: bool) -> dict[str, Any]:
    """Measure every precision that a device has, plain and compiled."""
    is_gpu = device.type == "cuda"
    torch.manual_seed(0)
    config = ApexConfig() if is_gpu else ApexConfig(encoder_config=SMALL_ENCODER, layer_indices=[1, -1])
    if not is_gpu:
        config.segment_seconds = 0.5
    model = ApexModel(config).eval()
    segment = build_probe(config.segment_num_samples)[:1]
    with torch.no_grad():
        expected = EncoderGraph(model)(segment)  # float32 on the CPU
    model.to(device)
    rows = []
    for precision in ("float32", "tf32", "bf16") if is_gpu else ("float32", "bf16"):
        for is_compiled in (False, True) if with_compile else (False,):
            row = measure_path(model, precision, is_compiled, batch_size, seconds, segment)
            row["relative_error_to_cpu"] = compute_relative_error(row.pop("pooled"), expected)
            rows.append(row)
    result = {
        "command": "python tests/benchmarks/bench_gpu.py",
        "hardware": describe_hardware(device),
        "is_gpu": is_gpu,
        "model": "the shape of MERT-v1-95M" if is_gpu else "a very small encoder",
        "attention": model.config.encoder_config._attn_implementation or "sdpa",
        "batch_size": batch_size,
        "flops_per_segment": count_flops(config),
        "paths": rows,
    }
    if not is_gpu:
        result["note"] = "No GPU was available. These numbers show that the script runs, and say nothing about a GPU."
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each path is timed (default: 10)")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled paths")
    parser.add_argument("--output", help="write the result as JSON")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = measure(device, arguments.batch_size, arguments.seconds, not arguments.no_compile)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
