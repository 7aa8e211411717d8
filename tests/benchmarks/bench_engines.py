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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine_load import add_output, measure_load, write_result

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

from published_path import PublishedPath

SAMPLES = sorted((Path(__file__).parent.parent.parent / "spaces_demo" / "samples").glob("*.ogg"))
CALIBRATION_SONGS = SAMPLES[::2]
# Named as a user names them: engine, precision, compiled.
PATHS = [
    *((engine, precision, False) for engine in ENGINES for precision in ENGINES[engine] if precision != "tf32"),
    ("torch", "float32", True),
]


def build_paths(
    model: ApexModel, folder: Path, calibration: torch.Tensor, paths: list[tuple[str, str, bool]]
) -> dict[tuple[str, str, bool], EncoderEngine | None]:
    """Build engines for a model, by way of exports into a folder; what lies there from an earlier run is taken."""
    built: dict[tuple[str, str, bool], EncoderEngine | None] = {}
    for engine, precision, is_compiled in paths:
        if engine == "torch":
            is_default = precision == "float32" and not is_compiled
            built[engine, precision, is_compiled] = (
                None if is_default else TorchEngine(model, precision, compile=is_compiled)
            )
            continue
        exported = folder / engine
        if not exported.exists():
            export_engine(model, exported, engine)
        graph = name_graph(exported, engine, precision)
        if not graph.exists():
            add_int8_graph(exported, calibration)
        built[engine, precision, is_compiled] = open_graph(graph, engine, precision)
    return built


def measure_full_size(
    num_rounds: int, folder: Path, paths: list[tuple[str, str, bool]]
) -> Iterator[list[dict[str, Any]]]:
    """Time every path on one segment of the 95M shape; yield the rows so far after every round."""
    torch.manual_seed(0)
    model = ApexModel(ApexConfig()).eval()
    segment = build_probe(model.config.segment_num_samples)[:1]
    built = build_paths(model, folder, build_probe(model.config.segment_num_samples), paths)
    published = PublishedPath(model)
    seconds: dict[Any, list[float]] = {path: [] for path in ("published", *paths)}
    outputs: dict[Any, torch.Tensor] = {}
    for _ in range(num_rounds):
        for path in seconds:
            model.encoder_engine = None if path == "published" else built[path]
            with torch.inference_mode():
                started = time.process_time()
                if path == "published":
                    outputs[path] = published.embed_segment(segment[0])[None]
                else:
                    outputs[path] = model.compute_segment_embeddings(segment)
                seconds[path].append(time.process_time() - started)
        yield [
            {
                "engine": "published" if path == "published" else path[0],
                "precision": "float32" if path == "published" else path[1],
                "is_compiled": path != "published" and path[2],
                "cpu_seconds": min(times),
                "speed_ratio_to_published": min(seconds["published"]) / min(times),
                "relative_error_of_embedding": float(
                    (outputs[path] - outputs["published"]).norm() / outputs["published"].norm()
                ),
            }
            for path, times in seconds.items()
        ]


def measure_tiny_scores(folder: Path, paths: list[tuple[str, str, bool]]) -> dict[str, dict[str, Any]]:
    """Score the sample songs with apex-tiny by every path; per path, the largest change of every score."""
    songs = [str(path) for path in SAMPLES]
    exact, other = load_pipeline(), load_pipeline()
    reports = exact(songs)
    calibration = read_calibration_segments([str(path) for path in CALIBRATION_SONGS], exact.model.config)
    found = {}
    for path, engine in build_paths(other.model, folder, calibration, paths).items():
        other.model.encoder_engine = engine
        record = measure_shortcut(
            lambda some: reports[: len(some)],
            lambda some: other(list(some)),
            songs,
            {"hardware": "cpu"},
            reference="torch float32",
        )
        found[format_path(path)] = {name: record[name] for name in ("largest_change", "ranges")}
    facts = {engine: read_engine_facts(folder / engine)["versions"] for engine in ("onnx", "openvino")}
    found["versions"] = {**facts["onnx"], **facts["openvino"]}
    return found


def format_path(path: tuple[str, str, bool]) -> str:
    engine, precision, is_compiled = path
    return f"{engine} {precision}{' compiled' if is_compiled else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="the least time of so many counts (default: 3)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--folder", help="keep the exports here, for the next run (default: a temporary folder)")
    add_output(parser)
    arguments = parser.parse_args()
    load = measure_load(parser, arguments)
    torch.set_num_threads(1)
    paths = [path for path in PATHS if not (arguments.no_compile and path[2])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        scores = measure_tiny_scores(folder / "tiny", paths)
        result: dict[str, Any] = {
            "command": "python tests/benchmarks/bench_engines.py",
            "hardware": describe_hardware(torch.device("cpu")),
            "num_threads": 1,
            "versions": scores.pop("versions"),
            "scores": {
                "model": EMBEDDED_MODEL.name,
                "songs": f"the {len(SAMPLES)} sample songs, which are synthetic",
                "calibration": f"for int8 of OpenVINO {len(CALIBRATION_SONGS)} of them",
                "paths": scores,
            },
        }
        for num_rounds, rows in enumerate(measure_full_size(arguments.rounds, folder / "full", paths), start=1):
            result["num_rounds"] = num_rounds
            result["full_size"] = {
                "model": "the shape of MERT-v1-95M, random weights",
                "segment_seconds": 30,
                "paths": rows,
            }
            write_result(arguments, result, load)  # after every round anew
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
