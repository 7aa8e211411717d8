"""
What a GPU makes of a MERT encoder: segments a second, share of its rate, error against the CPU, and what feeds it.

Three ways in turns: transformers' `HubertModel` as the model was published, the arrangement that `--device cuda` runs,
and the same compiled (CUDA graphs). Weights are random, since time does not depend on their values, and segments are
noise, which the encoder gets from memory; the copies to the card and back count. Then the attention kernels that torch
has, batches of other sizes, and whole runs of `embed` and `score` from MP3 files with the decoders that keep up.

Where there is no GPU, the same runs on the CPU with a very small encoder, and the result says so: then it shows that
the script works, and nothing else.

    python tests/benchmarks/bench_gpu.py --output tests/benchmarks/results/gpu.json
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
import torch.nn.functional as F
from bench_decoding import make_song, read_segments
from bench_decoding import measure as measure_processor
from machine_load import add_output, measure_load, write_result
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeling_apex import ApexConfig, ApexModel
from modeling_apex.engines.encoder_graph import build_probe, compute_relative_error
from modeling_apex.engines.torch_engine import TorchEngine, allow_tf32, compile_encoder
from modeling_apex.engines.validation import describe_hardware
from modeling_apex.inference.modeling_apex import pool_hidden_states

SONG_SEGMENTS = 6  # three minutes
SONG_RATE = 44_100
# Dense peak rates in TFLOP/s from NVIDIA's data sheets, by what the products are computed in.
PEAK_RATES = {
    "H200": {"float32": 67.0, "tf32": 494.5, "bf16": 989.0},
    "H100": {"float32": 67.0, "tf32": 494.5, "bf16": 989.0},
    "A100": {"float32": 19.5, "tf32": 156.0, "bf16": 312.0},
    "L4": {"float32": 30.3, "tf32": 60.5, "bf16": 121.0},
}
# What the published configs say, where it differs from the default.
SHAPES: dict[str, dict[str, Any]] = {
    "MERT-v1-95M": {},
    "MERT-v1-330M": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
}
ATTENTION_KERNELS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
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


def build_model(shape: str, is_gpu: bool) -> ApexModel:
    """Return a model with random weights: of a published shape, or where there is no GPU a very small one."""
    torch.manual_seed(0)
    if not is_gpu:
        return ApexModel(ApexConfig(encoder_config=SMALL_ENCODER, layer_indices=[1, -1], segment_seconds=0.5)).eval()
    return ApexModel(ApexConfig(encoder_config=SHAPES[shape] or None)).eval()


def measure_rate(call: Callable[[], Any], seconds: float, num_rounds: int = 5) -> tuple[float, float]:
    """Return calls a wall second, the median of several rounds, and the slowest round over the fastest."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for _ in range(3):
        call()
    rates = []
    for _ in range(num_rounds):
        wait()
        num_calls, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds / num_rounds:
            call()
            wait()
            num_calls += 1
        rates.append(num_calls / (time.perf_counter() - started))
    return statistics.median(rates), max(rates) / min(rates)


def build_published(model: ApexModel, precision: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the encoder of transformers in a precision, with torch's fused attention, as most would run it."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    encoder = build_encoder_copy(model, dtype)

    def run(segments: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), allow_tf32(precision == "tf32"):
            return pool_hidden_states(encoder, segments.to(dtype), model.config.layer_indices).float()

    return run


def build_encoder_copy(model: ApexModel, dtype: torch.dtype) -> torch.nn.Module:
    """Return a copy of a model's encoder in another dtype."""
    encoder = type(model.encoder)(model.encoder.config).eval()
    encoder.load_state_dict(model.encoder.state_dict())
    return encoder.to(model.device, dtype)


def measure_path(
    run: Callable[[torch.Tensor], torch.Tensor],
    model: ApexModel,
    segment: torch.Tensor,
    batch_size: int,
    seconds: float,
    ceiling: float | None,
    peak: float | None,
) -> dict[str, Any]:
    """Time one way of encoding, with the copies to the device and back; rates of products in FLOP/s."""
    batch = segment.repeat(batch_size, 1)
    if model.device.type == "cuda":
        batch = batch.pin_memory()
        torch.cuda.reset_peak_memory_stats()
    rate, spread = measure_rate(lambda: run(batch.to(model.device, non_blocking=True)).cpu(), seconds)
    flops = rate * batch_size * count_flops(model.config)
    return {
        "batch_size": batch_size,
        "segments_per_second": rate * batch_size,
        "songs_per_hour": rate * batch_size / SONG_SEGMENTS * 3600,
        "spread": spread,
        "share_of_peak": None if peak is None else flops / peak,
        "share_of_product": None if ceiling is None else flops / ceiling,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if model.device.type == "cuda" else None,
    }


def measure_paths(shape: str, result: dict[str, Any], device: torch.device, options: argparse.Namespace) -> None:
    """Measure every way and precision of one shape, and batches of other sizes in the fastest precision."""
    is_gpu = device.type == "cuda"
    model = build_model(shape, is_gpu)
    segment = build_probe(model.config.segment_num_samples)[:1]
    with torch.no_grad():
        expected = pool_hidden_states(model.encoder, segment, model.config.layer_indices)  # float32 on the CPU
    model.to(device)
    ceilings = measure_products(device)
    found = result["shapes"][shape] = {
        "flops_per_segment": count_flops(model.config),
        "product_flops_per_second": ceilings,
        "paths": [],
    }

    def add(way: str, precision: str, run: Callable[[torch.Tensor], torch.Tensor], batch_size: int) -> None:
        error = compute_relative_error(run(segment.repeat(batch_size, 1).to(device))[:1].cpu(), expected)
        peak = get_peak_rate(describe_hardware(device), precision)
        row = measure_path(run, model, segment, batch_size, options.seconds, ceilings.get(precision), peak)
        found["paths"].append({"way": way, "precision": precision, **row, "relative_error_to_cpu": error})
        rate = f"{row['segments_per_second']:.0f} segments/s, error {error:.1e}"
        print(shape, way, precision, batch_size, rate, file=sys.stderr, flush=True)
        save(result, options)

    for precision in options.precisions if is_gpu else ("float32", "bf16"):
        published = build_published(model, precision)
        add("published", precision, published, options.batch_size)
        ours = TorchEngine(model, precision)
        add("ours", precision, ours, options.batch_size)
        if options.compile:
            model.segments_per_pass = options.batch_size
            add("ours, compiled", precision, TorchEngine(model, precision, compile=True), options.batch_size)
            if precision == "bf16":
                add("published, compiled", precision, compile_encoder(published, device), options.batch_size)
            torch.compiler.reset()
    for batch_size in options.batch_sizes:
        add("ours", "bf16", ours, batch_size)
    if is_gpu:
        found["attention_seconds"] = measure_attention(model, options)


def measure_products(device: torch.device) -> dict[str, float]:
    """Return the rate of a large product of random numbers in FLOP/s, what this card gives rather than promises."""
    size = 8192 if device.type == "cuda" else 256
    rates = {}
    for precision in ("float32", "tf32", "bf16"):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        with allow_tf32(precision == "tf32"):
            rates[precision] = 2 * size**3 * measure_rate(lambda: left @ right, 0.5)[0]  # noqa: B023
    return rates


def measure_attention(model: ApexModel, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of one layer's attention a segment in bfloat16, by each kernel that torch has for it."""
    encoder = model.config.encoder_config
    num_frames = model.config.segment_num_samples
    for kernel, stride in zip(encoder.conv_kernel, encoder.conv_stride, strict=True):
        num_frames = (num_frames - kernel) // stride + 1
    shape = (options.batch_size, num_frames, 3, encoder.num_attention_heads, -1)
    parts = torch.randn(*shape[:2], 3 * encoder.hidden_size, device=model.device, dtype=torch.bfloat16).view(shape)
    query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))
    seconds = {}
    for name in ATTENTION_KERNELS:
        with sdpa_kernel(getattr(SDPBackend, name)):
            rate, _ = measure_rate(lambda: F.scaled_dot_product_attention(query, key, value), 0.5)
        seconds[name] = 1 / rate / options.batch_size
    return seconds


def measure_files(result: dict[str, Any], device: torch.device, options: argparse.Namespace) -> None:
    """Embed and score songs from MP3 files in bfloat16, decoding beside the encoder; songs a wall second."""
    from modeling_apex.corpus.embed import embed_songs
    from modeling_apex.loading import load_scorer

    model = build_model(next(iter(SHAPES)), device.type == "cuda")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "songs")
        folder.mkdir()
        soundfile.write(folder / "0.mp3", make_song(options.song_seconds, SONG_RATE, 2), SONG_RATE)
        for number in range(1, options.num_songs):
            shutil.copy(folder / "0.mp3", folder / f"{number}.mp3")
        read_segments(folder / "0.mp3")
        decoding = min(measure_processor(lambda: read_segments(folder / "0.mp3")) for _ in range(3))
        model.save_pretrained(Path(place, "model"))
        found = result["files"] = {
            "num_songs": options.num_songs,
            "song_seconds": options.song_seconds,
            "decode_processor_seconds_per_segment": decoding / (options.song_seconds / model.config.segment_seconds),
            "embed_songs_per_second": {},
        }
        for num_decoders in options.decoders:
            output = Path(place, f"embeddings-{num_decoders}")
            begun = time.perf_counter()
            embed_songs(folder, output, Path(place, "model"), dtype="bfloat16", num_decoders=num_decoders)
            found["embed_songs_per_second"][num_decoders] = options.num_songs / (time.perf_counter() - begun)
            save(result, options)
        scorer = load_scorer(Path(place, "model"), device=str(device), dtype="bfloat16", batch_size=32)
        songs = sorted(str(path) for path in folder.iterdir())[: max(1, options.num_songs // 4)]
        begun = time.perf_counter()
        reports = list(scorer.score(songs))
        found["score_songs_per_second"] = len(reports) / (time.perf_counter() - begun)


def measure(device: torch.device, options: argparse.Namespace, load: float) -> dict[str, Any]:
    """Measure all of it on a device; what there is is written after every step."""
    is_gpu = device.type == "cuda"
    result: dict[str, Any] = {
        "command": "python tests/benchmarks/bench_gpu.py",
        "hardware": describe_hardware(device),
        "is_gpu": is_gpu,
        "torch": torch.__version__,
        "num_cores": os.cpu_count(),
        "load_at_start": load,
        "shapes": {},
    }
    if not is_gpu:
        result["note"] = "No GPU was available. These numbers show that the script runs, and say nothing about a GPU."
    measure_files(result, device, options)
    for shape in options.shapes if is_gpu else ("a very small encoder",):
        measure_paths(shape, result, device, options)
        options.batch_sizes = []  # of the first shape only
    save(result, options)
    return result


def save(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Write a result, which may lack what is still to be measured."""
    write_result(options, result, result["load_at_start"])


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, words in (
        ("--batch-size", 16, "segments at once in the main table (default: 16)"),
        ("--num-songs", 256, "MP3 files to embed (default: 256)"),
    ):
        parser.add_argument(name, type=int, default=default, help=words)
    for name, default, words in (
        ("--batch-sizes", [1, 6, 32, 64], "and in bf16 also these"),
        ("--decoders", [1, 4, 14], "threads that decode for embed (default: 1 4 14)"),
    ):
        parser.add_argument(name, type=int, nargs="*", default=default, help=words)
    parser.add_argument("--song-seconds", type=float, default=180.0, help="length of the MP3 files (default: 180)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each path is timed (default: 2)")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES), help="encoders (default: both)")
    parser.add_argument("--precisions", nargs="*", default=["float32", "tf32", "bf16"], help="(default: all three)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out the compiled paths")
    add_output(parser)
    return parser


def main() -> None:
    parser = build_parser()
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = arguments.output
    if device.type == "cpu" and known and known.exists() and json.loads(known.read_text("utf-8"))["is_gpu"]:
        print(f"{known} is of a GPU, and there is none here: it is left as it is", file=sys.stderr)
        return
    result = measure(device, arguments, measure_load(parser, arguments))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
