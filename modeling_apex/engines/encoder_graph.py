"""
The encoder as a graph: export it, prove it against torch, and load a model whose encoder is such a graph.

An engine folder holds `config.json`, `preprocessor_config.json`, the small rest of the model (layer mix and heads) in
`heads.safetensors`, one graph a precision, and `engine.json`: what the graphs are and how they compared with torch on
a probe of noise. `probe.safetensors` keeps torch's answer to that probe, so that a graph can be checked again wherever
it comes to run. Scores need no more than this folder and the engine's own library.
"""

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from modeling_apex.engines import ENGINES, EXPORT_FORMATS
from modeling_apex.engines.encoder_engine import INPUT_NAME, OUTPUT_NAME, EncoderEngine, is_number_table, read_json
from modeling_apex.engines.model_hashes import compute_fingerprint, compute_weights_hash
from modeling_apex.engines.onnx_engine import OnnxEngine, import_onnxruntime
from modeling_apex.engines.openvino_engine import OpenVinoEngine, import_openvino
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel, pool_hidden_states
from modeling_apex.storage.output_folder import load_fields, save_json, share_files, write_new_folder

logger = logging.getLogger(__name__)

ENGINE_FILE = "engine.json"
HEADS_FILE = "heads.safetensors"
PROBE_FILE = "probe.safetensors"
GRAPH_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
# The oldest version of the operators that torch exports to without converting, so that most runtimes read it.
OPSET = 18
EXPORT_LIBRARIES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
EXPORT_AGAIN = "Export the checkpoint again: apex-music export --format ... --model M --output DIR"
FLOAT32_TOLERANCE = 1e-4
PROBE_SEGMENTS = 2


class EncoderGraph(nn.Module):
    """Segments `(n, T)` to pooled layers `(n, L, D)`: what is exported."""

    def __init__(self, model: ApexModel):
        super().__init__()
        self.encoder = model.encoder
        self.layer_indices = list(model.config.layer_indices)

    def forward(self, segments: torch.Tensor) -> torch.Tensor:
        return pool_hidden_states(self.encoder, segments, self.layer_indices)


class ExportedEncoder(nn.Module):
    """Stands where the encoder of a loaded export would be, and says what to do when somebody wants weights of it."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.weights_sha256: str = read_engine_facts(folder)["weights_sha256"]

    @property
    def dtype(self) -> torch.dtype:
        raise RuntimeError(
            "this model was loaded from an exported graph, which has no weights to train or to run by torch. Load the "
            "checkpoint that it was exported from."
        )


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what exporters and quantizers say of themselves, and of operators that no model here has, off stderr."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "nncf", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def build_probe(num_samples: int) -> torch.Tensor:
    """Return the noise that graphs are compared on, `(2, num_samples)`; the same everywhere and always."""
    noise = np.random.RandomState(0).standard_normal((PROBE_SEGMENTS, num_samples))  # a stream that numpy has frozen
    return torch.from_numpy(noise.astype(np.float32))


def compute_relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest relative L2 error of any pooled layer of any segment, both `(n, L, D)`."""
    errors = (found.double() - expected.double()).norm(dim=-1) / expected.double().norm(dim=-1)
    return float(errors.max())


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """
    Read a safetensors file of an engine folder, into memory of its own.

    Raises:
        `ValueError`: If it is missing or damaged.
    """
    try:
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). {EXPORT_AGAIN}") from error


def is_engine_folder(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder holds exported graphs in place of a checkpoint."""
    return (Path(folder) / ENGINE_FILE).is_file()


def read_engine_facts(folder: Path) -> dict[str, Any]:
    """
    Read what an engine folder says about itself.

    Raises:
        `ValueError`: If that is not what an export writes.
    """
    path = folder / ENGINE_FILE
    facts = read_json(path)
    texts = [facts.get(name) if isinstance(facts, dict) else None for name in ("fingerprint", "weights_sha256")]
    if (
        not all(isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) for text in texts)
        or facts.get("engine") not in EXPORT_FORMATS
        or not is_number_table(facts.get("relative_error_on_noise"))
    ):
        raise ValueError(
            f"{path}: does not describe an export; expected `engine` ({' or '.join(EXPORT_FORMATS)}), `fingerprint`, "
            f"`weights_sha256` and `relative_error_on_noise`. {EXPORT_AGAIN}"
        )
    return dict(facts)


def export_engine(
    model: ApexModel,
    output: str | os.PathLike[str],
    engine: str,
    precisions: Sequence[str] = ("float32",),
    calibration: torch.Tensor | None = None,
    add_files: Callable[[Path], object] | None = None,
) -> Path:
    """
    Export a model for an engine, and prove the graph against torch.

    Args:
        model ([`ApexModel`]): A model in float32.
        output (`str` or `os.PathLike`): A folder that does not exist yet, or is empty.
        engine (`str`): `"onnx"` or `"openvino"`.
        precisions (`Sequence[str]`, defaults to `("float32",)`):
            Which graphs to write. The float32 one is always there: the others are measured against it. OpenVINO's
            bfloat16 needs no graph of its own.
        calibration (`torch.FloatTensor` of shape `(num_segments, num_samples)`, *optional*):
            Normalised segments of songs, for the int8 graph of OpenVINO.
        add_files (`Callable[[Path], object]`, *optional*):
            Writes what else belongs into the folder, before it gets its name.

    Returns:
        `Path`: the folder.

    Raises:
        `ValueError`: If the engine exports no such graph, or calibration segments are missing.
        `FileExistsError`: If the folder holds anything.
        `ImportError`: If a library is not installed.
        `RuntimeError`: If the float32 graph differs from torch by more than a relative 1e-4.
    """
    if engine not in EXPORT_FORMATS:
        raise ValueError(f"the format must be one of {', '.join(EXPORT_FORMATS)}, got {engine!r}.")
    unknown = sorted(set(precisions) - set(ENGINES[engine]))
    if unknown:
        raise ValueError(f"{engine} has no precision {unknown[0]!r}; choose from {', '.join(ENGINES[engine])}.")
    if engine == "openvino" and "int8" in precisions:
        check_calibration(calibration)
    # Moved to its place at the end, so that a half-written or wrong graph is never found there.
    with write_new_folder(output) as part:
        _write_engine_folder(model, part, engine)
        if "int8" in precisions:
            add_int8_graph(part, calibration)
        if add_files is not None:
            add_files(part)
    return Path(os.path.expanduser(output))


def _write_engine_folder(model: ApexModel, folder: Path, engine: str) -> None:
    model.config.save_pretrained(folder)
    ApexFeatureExtractor.from_config(model.config).save_pretrained(folder)
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file({name: weights[name] for name in weights if not name.startswith("encoder.")}, folder / HEADS_FILE)
    probe = build_probe(model.config.segment_num_samples)
    path = folder / f"encoder{GRAPH_SUFFIXES[engine]}"
    graph = EncoderGraph(model).eval()
    with torch.no_grad(), quiet_libraries():
        expected = torch.cat([graph(row) for row in probe.split(1)])  # (n, L, D)
        write = write_onnx_graph if engine == "onnx" else write_openvino_graph
        write(graph, probe, path)
    save_file({"pooled": expected}, folder / PROBE_FILE)
    error = measure_probe_error(open_graph(path, engine, "float32"), folder)
    if not error <= FLOAT32_TOLERANCE:
        raise RuntimeError(
            f"the exported graph differs from torch by a relative {error:.1e} on noise; at most "
            f"{FLOAT32_TOLERANCE:.0e} is rounding. Nothing was written. Try another release of {engine}."
        )
    facts = {
        "engine": engine,
        "fingerprint": compute_fingerprint(model),
        "weights_sha256": compute_weights_hash(model),
        "input": {"name": INPUT_NAME, "shape": ["n", model.config.segment_num_samples]},
        "output": {"name": OUTPUT_NAME, "shape": ["n", len(model.config.layer_indices), model.config.hidden_size]},
        "relative_error_on_noise": {"float32": error},
        "versions": {name: version(name) for name in ("torch", "transformers", *EXPORT_LIBRARIES[engine])},
    }
    save_json(folder / ENGINE_FILE, facts, is_shared=True)
    share_files(folder)


def add_int8_graph(folder: Path, calibration: torch.Tensor | None = None) -> None:
    """
    Quantize the float32 graph of an engine folder, and note how far its answer to the probe is from torch's.

    Both quantize matrix products and no convolution: rounding errors of the first layers go through all others, and
    change scores several times as much. ONNX Runtime scales inputs as they come, and leaves attention in float32;
    OpenVINO takes scales from calibration segments, for attention too.

    Raises:
        `ValueError`: If calibration segments `(num_segments, num_samples)` are needed and missing.
        `ImportError`: If the quantizer is not installed.
    """
    facts = read_engine_facts(folder)
    for leftover in folder.glob("encoder_int8*"):  # of a run that was killed; some writers would append to it
        leftover.unlink()
    source, target = (name_graph(folder, facts["engine"], precision) for precision in ("float32", "int8"))
    if facts["engine"] == "onnx":
        quantize_onnx_graph(source, target)
    else:
        quantize_openvino_graph(source, target, check_calibration(calibration))
    share_files(folder)
    facts["relative_error_on_noise"]["int8"] = measure_probe_error(open_graph(target, facts["engine"], "int8"), folder)
    save_json(folder / ENGINE_FILE, facts, is_shared=True)


def write_onnx_graph(graph: EncoderGraph, example: torch.Tensor, path: Path) -> None:
    """Write a graph as ONNX, with its weights beside it."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError('exporting to ONNX needs onnx and onnxscript: pip install "apex-music[onnx]".') from error
    import_onnxruntime()  # needed for the check; said before the minutes of the export
    program: Any = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: torch.export.Dim("n", min=1, max=1024)},),
        verbose=False,
    )
    program.save(str(path), external_data=True)


def write_openvino_graph(graph: EncoderGraph, example: torch.Tensor, path: Path) -> None:
    """Write a graph as OpenVINO's `.xml` and `.bin`, in float32."""
    openvino = import_openvino()
    dynamic = ({0: torch.export.Dim("n", min=1, max=1024)},)
    converted = openvino.convert_model(torch.export.export(graph, (example,), dynamic_shapes=dynamic))
    # The conversion forgets that only the number of segments is open.
    converted.reshape({0: [-1, example.shape[1]]})
    openvino.save_model(converted, str(path), compress_to_fp16=False)


def check_calibration(calibration: torch.Tensor | None) -> torch.Tensor:
    """Return the segments to calibrate on, or raise a `ValueError` if there are none."""
    if calibration is None or not len(calibration):
        raise ValueError(
            "int8 for OpenVINO is calibrated on songs. Export the checkpoint with some that are like those it will "
            "score: apex-music export --format openvino --precision int8 --calibrate SONG... --model M --output DIR"
        )
    return calibration


def quantize_onnx_graph(source: Path, target: Path) -> None:
    """Write the int8 twin of a float32 ONNX graph."""
    import_onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_libraries():
        quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"WeightSymmetric": True},
        )


def quantize_openvino_graph(source: Path, target: Path, calibration: torch.Tensor) -> None:
    """Write the int8 twin of a float32 OpenVINO graph: weights and inputs of its matrix products."""
    openvino = import_openvino()
    try:
        with quiet_libraries():
            import nncf
    except ImportError as error:
        raise ImportError('int8 for OpenVINO needs nncf: pip install "apex-music[openvino]".') from error
    with quiet_libraries():
        quantized = nncf.quantize(
            openvino.Core().read_model(str(source)),
            nncf.Dataset([row.numpy() for row in calibration.split(1)]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(types=["Convolution", "GroupConvolution"], validate=False),
            # Shifting the scale of inputs into the weights, which is for a few extreme channels, and cutting off
            # extremes both cost accuracy here.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
                activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
            ),
        )
    openvino.save_model(quantized, str(target), compress_to_fp16=False)


def has_graph(folder: Path, engine: str, precision: str) -> bool:
    """Tell whether a folder holds a whole graph: its error is noted last, so one that a kill cut off has none."""
    if not name_graph(folder, engine, precision).is_file():
        return False
    return precision != "int8" or precision in read_engine_facts(folder)["relative_error_on_noise"]


def name_graph(folder: Path, engine: str, precision: str) -> Path:
    """Return the file of a graph. OpenVINO computes bfloat16 from the float32 graph."""
    suffix = "_int8" if precision == "int8" else ""
    return folder / f"encoder{suffix}{GRAPH_SUFFIXES[engine]}"


def open_graph(path: Path, engine: str, precision: str) -> EncoderEngine:
    """Open an exported graph, as it is; `choose_encoder` is the door that also checks it."""
    return OnnxEngine(path, precision) if engine == "onnx" else OpenVinoEngine(path, precision)


def measure_probe_error(engine: EncoderEngine, folder: Path) -> float:
    """Compare an engine with torch's stored answer to the probe; the largest relative error of any layer."""
    expected = read_weights(folder / PROBE_FILE).get("pooled")  # (n, L, D)
    found = engine(build_probe(ApexConfig.from_pretrained(folder).segment_num_samples))
    if expected is None or expected.shape != found.shape:
        raise ValueError(f"{folder / PROBE_FILE}: does not hold an answer to the probe. {EXPORT_AGAIN}")
    return compute_relative_error(found, expected)


def load_exported_model(folder: str | os.PathLike[str]) -> ApexModel:
    """
    Load layer mix and heads of an engine folder; its encoder is the graph, which `choose_encoder` opens.

    Raises:
        `RuntimeError`: If the heads do not match the config.
    """
    folder = Path(folder)
    load_fields(folder / "config.json", EXPORT_AGAIN)  # transformers takes a list of them as it comes
    config = ApexConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = ApexModel(config)
    model.encoder = ExportedEncoder(folder)
    try:
        model.load_state_dict(read_weights(folder / HEADS_FILE), assign=True)
    except RuntimeError as error:
        raise RuntimeError(f"{folder / HEADS_FILE}: does not match config.json beside it: {error}") from error
    model.config._name_or_path = str(folder)
    model.requires_grad_(False).eval()
    return model
