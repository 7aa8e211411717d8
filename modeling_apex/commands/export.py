"""`apex-music export`: a checkpoint to a self-contained Hub folder, or to a graph for another engine."""

import argparse
from pathlib import Path
from typing import Any

from modeling_apex.engines import EXPORT_FORMATS
from modeling_apex.process_exit import print_lines

HELP = "write a self-contained Hub folder (weights, configs, code, card), or a graph for ONNX or OpenVINO"
DESCRIPTION = (
    "Write a folder that loads with `trust_remote_code=True` where this package is not installed. With --format onnx "
    "or openvino: the encoder as a graph, checked against torch, and the heads beside it; --engine scores with it."
)
EXAMPLES = (
    "--model runs/best --output hub-folder",
    "--model apex-95m --format onnx --output apex-95m-onnx",
    "--model apex-95m --format openvino --precision int8 --calibrate songs/ --output apex-ov",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="M", help="folder or Hub id of the model")
    parser.add_argument("--output", required=True, metavar="DIR", help="new folder for the export")
    parser.add_argument(
        "--format", choices=("hub", *EXPORT_FORMATS), default="hub", help="what to write (default: hub)"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="with onnx and openvino: int8 adds a quantized graph to the float32 one",
    )
    parser.add_argument(
        "--calibrate", nargs="+", metavar="SONG", default=[], help="songs that OpenVINO's int8 graph is scaled by"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.calibrate and (arguments.format, arguments.precision) != ("openvino", "int8"):
        raise ValueError("--calibrate is for --format openvino --precision int8; nothing else uses songs.")
    if arguments.format == "hub" and arguments.precision != "float32":
        raise ValueError("--precision is for --format onnx or openvino; a Hub folder holds the weights as they are.")
    folder = _export_hub_folder(arguments) if arguments.format == "hub" else _export_graph(arguments)
    for path in sorted(folder.iterdir()):
        print_lines(f"{path.stat().st_size:>12,}  {path}")
    if arguments.format != "hub":
        print_lines(_describe_errors(folder, arguments.format))
    return 0


def _export_hub_folder(arguments: argparse.Namespace) -> Path:
    from modeling_apex.checkpoints.export import export_model

    return export_model(arguments.model, arguments.output)


def _export_graph(arguments: argparse.Namespace) -> Path:
    from modeling_apex.arena.preference import load_preference_head
    from modeling_apex.corpus.song_files import find_songs
    from modeling_apex.engines.calibration import read_calibration_segments
    from modeling_apex.engines.encoder_graph import export_engine
    from modeling_apex.loading import load_model
    from modeling_apex.storage.output_folder import check_new_folder

    check_new_folder(arguments.output)
    model: Any = load_model(arguments.model)
    if not hasattr(model, "encoder_engine"):
        raise ValueError(
            f"a {model.config.model_type} model has no encoder that an engine could run instead, so there is no graph "
            "to write. Leave out --format."
        )
    calibration = None
    if arguments.calibrate:
        calibration = read_calibration_segments(find_songs(arguments.calibrate), model.config)
    head = load_preference_head(arguments.model)
    return export_engine(
        model,
        arguments.output,
        arguments.format,
        ("float32", arguments.precision),
        calibration=calibration,
        # Without it, `rank` would sort the same songs by something else.
        add_files=head.save_pretrained if head is not None else None,
    )


def _describe_errors(folder: Path, engine: str) -> str:
    from modeling_apex.engines.encoder_graph import read_engine_facts

    errors = read_engine_facts(folder)["relative_error_on_noise"]
    listed = ", ".join(f"{precision} {error:.1e}" for precision, error in errors.items())
    return f"relative error of the pooled layers against torch, on noise: {listed}; use it with --engine {engine}"
