"""
Speed and error of every engine and precision, beside the published way, in one run on one thread.

Speed is measured at the size of MERT-v1-95M, on random weights, since time does not depend on their values: CPU
seconds of a 30 s segment, the least of several rounds in which every path has its turn. The published way is
restated: HuBERT with eager attention in float32, every hidden state kept, the chosen ones averaged over time. What a
path changes in scores is measured with apex-tiny on the sample songs, which are synthetic.

    python tests/benchmarks/bench_engines.py --output tests/benchmarks/results/engines.json
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import HubertModel

from modeling_apex import ApexConfig, ApexModel, load_pipeline
from modeling_apex.engines import ENGINES
from modeling_apex.engines.calibration import read_calibration_segments
from modeling_apex.engines.encoder_engine import EncoderEngine
from modeling_apex.engines.encoder_graph import (
    add_int8_graph,
    build_probe,
    export_engine,
    name_graph,
    open_graph,
    read_engine_facts,
)
from modeling_apex.engines.torch_engine import TorchEngine
from modeling_apex.engines.validation import describe_hardware, measure_shortcut
from modeling_apex.registration import EMBEDDED_MODEL

SAMPLES = sorted((Path(__file__).parent.parent.parent / "spaces_demo" / "samples").glob("*.ogg"))
CALIBRATION_SONGS = SAMPLES[::2]
# Named as a user names them: engine, precision, compiled.
PATHS = [
    *((engine, precision, False) for engine in ENGINES for precision in ENGINES[engine] if precision != "tf32"),
    ("torch", "float32", True),
]


def build_paths(
    model: ApexModel, folder: Path, calibration: torch.Tensor
) -> dict[tuple[str, str, bool], EncoderEngine | None]:
    """Build every engine for a model, by way of exports into a folder."""
    built: dict[tuple[str, str, bool], EncoderEngine | None] = {}
    for engine, precision, is_compiled in PATHS:
        if engine == "torch":
            is_default = precision == "float32" and not is_compiled
            built[engine, precision, is_compiled] = (
                None if is_default else TorchEngine(model, precision, compile=is_compiled)
            )
            continue
        exported = folder / engine
        if not exported.exists():
            export_engine(model, exported, engine)
        if precision == "int8":
            add_int8_graph(exported, calibration)
        built[engine, precision, is_compiled] = open_graph(name_graph(exported, engine, precision), engine, precision)
    return built


def build_published(model: ApexModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """Restate how the published code encodes a segment, with the weights of a model."""
    encoder: Any = HubertModel._from_config(model.config.encoder_config, attn_implementation="eager").eval()
    encoder.load_state_dict(model.encoder.state_dict())

    def encode(segments: torch.Tensor) -> torch.Tensor:
        states = encoder(segments, output_hidden_states=True).hidden_states
        pooled = torch.stack([states[index].mean(1) for index in model.config.layer_indices], dim=1)  # (n, L, D)
        return model.aggregator(pooled).squeeze(1)  # (n, D)

    return encode


def measure_full_size(num_rounds: int) -> list[dict[str, Any]]:
    """Time every path on one segment of the 95M shape."""
    torch.manual_seed(0)
    model = ApexModel(ApexConfig()).eval()
    segment = build_probe(model.config.segment_num_samples)[:1]
    with tempfile.TemporaryDirectory() as name:
        built = build_paths(model, Path(name), build_probe(model.config.segment_num_samples))
        seconds: dict[Any, list[float]] = {path: [] for path in ("published", *PATHS)}
        outputs: dict[Any, torch.Tensor] = {}
        published = build_published(model)
        for _ in range(num_rounds):
            for path in seconds:
                encode = published if path == "published" else model.compute_segment_embeddings
                model.encoder_engine = None if path == "published" else built[path]
                with torch.inference_mode():
                    started = time.process_time()
                    outputs[path] = encode(segment)
                    seconds[path].append(time.process_time() - started)
    reference = outputs["published"]
    rows = []
    for path in seconds:
        engine, precision, is_compiled = ("published", "float32", False) if path == "published" else path
        rows.append(
            {
                "engine": engine,
                "precision": precision,
                "is_compiled": is_compiled,
                "cpu_seconds": min(seconds[path]),
                "speed_ratio_to_published": min(seconds["published"]) / min(seconds[path]),
                "relative_error_of_embedding": float((outputs[path] - reference).norm() / reference.norm()),
            }
        )
    return rows


def measure_tiny_scores() -> dict[str, dict[str, Any]]:
    """Score the sample songs with apex-tiny by every path; per path, the largest change of every score."""
    songs = [str(path) for path in SAMPLES]
    exact, other = load_pipeline(), load_pipeline()
    reports = exact(songs)
    calibration = read_calibration_segments([str(path) for path in CALIBRATION_SONGS], exact.model.config)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for path, engine in build_paths(other.model, Path(name), calibration).items():
            other.model.encoder_engine = engine
            record = measure_shortcut(
                lambda some: reports[: len(some)],
                lambda some: other(list(some)),
                songs,
                {"hardware": "cpu"},
                reference="torch float32",
            )
            found[format_path(path)] = {name: record[name] for name in ("largest_change", "ranges")}
        facts = {engine: read_engine_facts(Path(name) / engine)["versions"] for engine in ("onnx", "openvino")}
    found["versions"] = {**facts["onnx"], **facts["openvino"]}
    return found


def format_path(path: tuple[str, str, bool]) -> str:
    engine, precision, is_compiled = path
    return f"{engine} {precision}{' compiled' if is_compiled else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="the least time of so many counts (default: 3)")
    parser.add_argument("--output", help="write the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scores = measure_tiny_scores()
    versions = scores.pop("versions")
    result = {
        "command": "python tests/benchmarks/bench_engines.py",
        "hardware": describe_hardware(torch.device("cpu")),
        "num_threads": 1,
        "num_rounds": arguments.rounds,
        "versions": versions,
        "full_size": {
            "model": "the shape of MERT-v1-95M, random weights",
            "segment_seconds": 30,
            "paths": measure_full_size(arguments.rounds),
        },
        "scores": {
            "model": EMBEDDED_MODEL.name,
            "songs": f"the {len(SAMPLES)} sample songs, which are synthetic",
            "calibration": f"int8 of OpenVINO: {len(CALIBRATION_SONGS)} of them",
            "paths": scores,
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
