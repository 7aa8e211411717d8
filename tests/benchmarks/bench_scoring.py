"""
Measure what scoring a song costs at the shape of MERT-v1-95M, beside the published way, in one run.

    python tests/benchmarks/bench_scoring.py [--seconds 180] [--long-seconds 3600] [--repeats 3]

Weights are random, in the published layout: time, memory and the error of the embedding do not depend on training, and
differences of scores are therefore measured on apex-tiny (`bench_engines.py`). Both paths run in turns in one process;
memory is the peak of a process of its own. The floor is what the song's matrix products alone take at the fastest rate
that this CPU showed for one of the encoder's own (2,249 x 768 by 768 x 3,072); the parts are what each of its
operations takes by itself. Result: results/scoring.json, and the same for an Intel CPU in results/scoring_intel.json.
"""

import argparse
import functools
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the published layouts and waveforms are made

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from machine_load import add_output, measure_load, write_result

from modeling_apex import load_pipeline
from modeling_apex.checkpoints.convert import convert_checkpoint, save_conversion
from modeling_apex.engines.packed_linear import build_linear
from modeling_apex.engines.torch_engine import TorchEngine
from modeling_apex.inference.audio_apex import stream_segments
from modeling_apex.inference.feature_extraction_apex import normalize_segments
from modeling_apex.inference.modeling_apex import pool_hidden_states

import published_layout as layout
from published_path import PublishedPath

RESULT = Path(__file__).parent / "results" / "scoring.json"
RATE = 44_100
SEGMENT = 720_000  # samples of 30 s at 24,000 Hz
TYPICAL_PRODUCT = (2_249, 768, 3_072)  # rows, inputs and outputs
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="length of the song (default: 180)")
    parser.add_argument("--long-seconds", type=float, default=3600, help="length of the long file (default: 3600)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each path (default: 3)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--part", choices=("memory", "time", "all"), default="all", help="what to measure anew")
    add_output(parser, RESULT)
    parser.add_argument("--measure-memory", nargs=3, metavar=("PATH", "MODEL", "SONG"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.measure_memory:
        measure_memory(*arguments.measure_memory)
        return
    load = measure_load(parser, arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(Path(folder))
        result = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
        if arguments.part != "time":
            result |= measure_peaks(model, Path(folder), arguments)
        if arguments.part != "memory":
            result |= measure_times(model, Path(folder), arguments)
    write_result(arguments, result, load)
    print(json.dumps(result, indent=2))


def build_model(folder: Path) -> Path:
    """Write a model of random weights at the published shape."""
    layout.write_mert_folder(folder / "mert", layout.MERT_95M)
    layout.write_best_model(folder / "best_model.pt", 768)
    model = folder / "model"
    save_conversion(convert_checkpoint(folder / "mert", folder / "best_model.pt"), model)
    return model


def measure_peaks(model: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak memory of both paths, for a song and for a long file."""
    song, long_song = folder / "song.wav", folder / "long.wav"
    write_song(song, arguments.seconds)
    write_song(long_song, arguments.long_seconds)
    memory = {
        "published": run_memory("published", model, song),
        "ours": run_memory("ours", model, song),
        # Its memory peaks with the first segment, when the whole file lies decoded and resampled; the rest is hours.
        "published_long_first_segment_only": run_memory("published-first", model, long_song),
        "ours_long": run_memory("ours", model, long_song),
    }
    return {"long_seconds": arguments.long_seconds, "peak_memory_mb": memory}


def measure_times(model: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both paths in turns, the floor, the last segment and the rooms."""
    song = folder / "song.wav"
    write_song(song, arguments.seconds)
    published, ours = PublishedPath(model), load_pipeline(model, device="cpu")
    wide = load_pipeline(model, device="cpu")
    wide.model.encoder_engine = TorchEngine(wide.model, "bf16")
    paths = {
        "published": lambda: published(song)["embedding"],
        "ours": lambda: torch.tensor(ours(str(song), return_embedding=True)["embedding"]),
        "ours_bfloat16": lambda: torch.tensor(wide(str(song), return_embedding=True)["embedding"]),
    }
    times, embeddings = take_turns(paths, arguments.repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    floors = measure_floors(ours.model.config.encoder_config, arguments.seconds / 30)
    parts = measure_parts(ours.model.config.encoder_config, arguments.seconds / 30)
    return {
        "command": "python tests/benchmarks/bench_scoring.py",
        "machine": describe_machine(),
        "song_seconds": arguments.seconds,
        "seconds": {name: {"median": medians[name], "all": values} for name, values in times.items()},
        "published_over_ours": medians["published"] / medians["ours"],
        "published_over_ours_bfloat16": medians["published"] / medians["ours_bfloat16"],
        "floor_seconds": floors,
        "parts_seconds": parts,
        "ours_over_floor": medians["ours"] / floors["float32"],
        "published_over_floor": medians["published"] / floors["float32"],
        "ours_bfloat16_over_floor": medians["ours_bfloat16"] / floors["bfloat16"],
        "embedding_error": {
            name: float((embeddings[name] - embeddings["published"]).norm() / embeddings["published"].norm())
            for name in ("ours", "ours_bfloat16")
        },
        "last_segment": measure_last_segment(ours.model),
        "rooms": measure_rooms(ours, song),
    }


def write_song(path: Path, seconds: float) -> None:
    """Write noise with a beat, block by block, as a stereo file of 16 bit at 44,100 Hz."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 2, subtype="PCM_16") as file:
        for start in range(0, round(seconds * RATE), RATE):
            block = generator.normal(0, 0.1, (min(RATE, round(seconds * RATE) - start), 2))
            file.write(block * np.exp(-3 * np.arange(len(block)) / RATE)[:, None])


def take_turns(
    paths: dict[str, Callable[[], torch.Tensor]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Run every path once to warm up and then in turns; return the wall seconds of each and its last result."""
    times: dict[str, list[float]] = {name: [] for name in paths}
    results = {}
    for turn in range(repeats + 1):
        for name, path in paths.items():
            start = time.perf_counter()
            results[name] = path()
            if turn or repeats == 0:
                times[name].append(time.perf_counter() - start)
    return times, results


def list_products(config: Any) -> list[tuple[int, int, int]]:
    """List the matrix products of one 30 s segment but those of attention, as rows, inputs and outputs of each."""
    products, frames, width = [], SEGMENT, 1
    for size, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        products.append((frames, kernel * width, size))
        width = size
    hidden, wide = config.hidden_size, config.intermediate_size
    layer = [(frames, hidden, 3 * hidden), (frames, hidden, hidden), (frames, hidden, wide), (frames, wide, hidden)]
    return [*products, (frames, width, hidden), *layer * config.num_hidden_layers]


def count_operations(config: Any) -> float:
    """Count the floating-point operations of the matrix products of one 30 s segment, two for each product."""
    products = list_products(config)
    frames = products[-1][0]
    attention = config.num_hidden_layers * 4.0 * frames * frames * config.hidden_size
    return sum(2.0 * math.prod(product) for product in products) + attention


def measure_floors(config: Any, num_segments: float) -> dict[str, float]:
    """Return the seconds that the song's matrix products take at the best rate that one of them reaches."""
    floors = {}
    for name, dtype in DTYPES.items():
        rate = 2 * math.prod(TYPICAL_PRODUCT) / time_product(*TYPICAL_PRODUCT, dtype)
        floors[name] = count_operations(config) * num_segments / rate
    return floors


def measure_parts(config: Any, num_segments: float) -> dict[str, dict[str, float]]:
    """
    Return the seconds of what the encoder is made of, each operation by itself at its own shape, its data in cache.

    The floor knows one product at its best rate. Here every product has its own shape, attention has its exponentials,
    and what is no product at all is there too, so the sum is what these operations allow before anything is lost
    between them.
    """
    products = list_products(config)
    frames, hidden, num_layers = products[-1][0], config.hidden_size, config.num_hidden_layers
    head_size = hidden // config.num_attention_heads
    # What GELU is applied to: the convolutions' outputs, and those of the first half of each feed-forward layer.
    activated = [(rows, width) for rows, _, width in products[: len(config.conv_dim)]]
    activated += [(frames, config.intermediate_size)] * num_layers
    parts = {}
    for name, dtype in DTYPES.items():
        seconds = {product: time_product(*product, dtype) for product in set(products)}
        gelu = {shape: time_rows(F.gelu, *shape, dtype) for shape in set(activated)}
        heads = torch.randn(3, 1, config.num_attention_heads, frames, head_size).to(dtype)
        attention = time_best(functools.partial(F.scaled_dot_product_attention, *heads))
        norm = time_rows(lambda values: F.layer_norm(values, values.shape[1:]), frames, hidden, torch.float32)
        parts[name] = {
            "products": sum(seconds[product] for product in products) * num_segments,
            "attention": attention * num_layers * num_segments,
            "GELU": sum(gelu[shape] for shape in activated) * num_segments,
            "norms": norm * 2 * num_layers * num_segments,
        }
    return parts


def time_product(num_rows: int, num_inputs: int, num_outputs: int, dtype: torch.dtype) -> float:
    """Return the seconds of a product of the encoder's kind."""
    linear = build_linear(torch.randn(num_outputs, num_inputs).to(dtype))
    return time_rows(linear, num_rows, num_inputs, dtype)


def time_rows(call: Callable[[torch.Tensor], Any], num_rows: int, width: int, dtype: torch.dtype) -> float:
    """Return the seconds of what is computed row by row; many rows are timed by a part of them that fits in cache."""
    rows = torch.randn(min(num_rows, TYPICAL_PRODUCT[0]), width).to(dtype)
    return time_best(lambda: call(rows)) * num_rows / len(rows)


def time_best(call: Callable[[], Any]) -> float:
    return min(time_call(call) for _ in range(20))


def measure_last_segment(model: Any) -> dict[str, float]:
    """Compare a last segment of 5 s with a full one, and with the plain path that computes its padding."""
    generator = torch.Generator().manual_seed(0)
    full = torch.from_numpy(normalize_segments(torch.randn(1, SEGMENT, generator=generator).numpy()))
    short = torch.randn(1, SEGMENT, generator=generator)
    short[:, 120_000:] = 0
    short = torch.from_numpy(normalize_segments(short.numpy()))
    seconds = {}
    with torch.no_grad():
        for name, segment in (("full", full), ("short", short)):
            seconds[name] = min(time_call(lambda segment=segment: model._encode(segment)) for _ in range(3))
        plain = pool_hidden_states(model.encoder, short, model.config.layer_indices)
        error = (model._encode(short) - plain).norm() / plain.norm()
    return {"short_over_full": seconds["short"] / seconds["full"], "error": float(error)}


def measure_rooms(scorer: Any, song: Path) -> dict[str, float]:
    """Return the seconds that one song spends in each room."""
    rooms = {}
    start = time.perf_counter()
    segments = [segment.samples for segment in stream_segments(song)]
    rooms["1 to 3: decode, resample, split"] = time.perf_counter() - start
    start = time.perf_counter()
    values = [torch.from_numpy(normalize_segments(samples[None])) for samples in segments]
    rooms["4: normalise"] = time.perf_counter() - start
    model = scorer.model
    with torch.no_grad():
        start = time.perf_counter()
        embeddings = model.compute_segment_embeddings(torch.cat(values))
        rooms["5 and 6: encoder and layer mix"] = time.perf_counter() - start
        start = time.perf_counter()
        model(segment_embeddings=embeddings[None])
        rooms["7 to 9: song embedding and heads"] = time.perf_counter() - start
    return rooms


def measure_memory(path: str, model: str, song: str) -> None:
    """Score one song and print the peak memory of this process in MB: all of it, and what no file backs."""
    if path == "ours":
        load_pipeline(model, device="cpu")(song)
    else:
        PublishedPath(Path(model))(song, max_segments=1 if path == "published-first" else None)
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))


def run_memory(path: str, model: Path, song: Path) -> float:
    command = [sys.executable, __file__, "--measure-memory", path, str(model), str(song)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def time_call(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def describe_machine() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
