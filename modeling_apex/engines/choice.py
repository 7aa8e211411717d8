"""
The one place where an encoder is chosen: from a model and a name to what runs, or a refusal that says what to do.

Where a model was not exported beforehand, its graph is written once into the cache of Hugging Face (`HF_ASSETS_CACHE`)
and found there again by the fingerprint of the model; the records of `validation` lie beside it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import cached_assets_path

from modeling_apex.engines import check_engine
from modeling_apex.engines.arranged_cache import ArrangedEncoderCache
from modeling_apex.engines.encoder_engine import EncoderEngine
from modeling_apex.engines.encoder_graph import (
    FLOAT32_TOLERANCE,
    ExportedEncoder,
    add_int8_graph,
    build_probe,
    check_calibration,
    compute_relative_error,
    export_engine,
    has_graph,
    is_engine_folder,
    measure_probe_error,
    name_graph,
    open_graph,
    read_engine_facts,
)
from modeling_apex.engines.mapped_weights import check_weights, copy_mapped
from modeling_apex.engines.model_hashes import compute_fingerprint
from modeling_apex.engines.torch_engine import TorchEngine, allow_tf32
from modeling_apex.engines.validation import build_record_key, find_record, require_record, save_record
from modeling_apex.inference.modeling_apex import ApexModel, pool_hidden_states
from modeling_apex.storage.output_lock import OutputLock

logger = logging.getLogger(__name__)

# The largest relative error on noise that is rounding, and not a mistake of a compiler or a library.
ROUNDING = {"float32": FLOAT32_TOLERANCE, "tf32": 1e-2, "bf16": 5e-2}


def choose_encoder(
    model: ApexModel,
    engine: str = "torch",
    precision: str = "float32",
    *,
    compile: bool = False,
    require_validation: bool = True,
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """
    Choose what encodes segments `(n, T)` to pooled layers `(n, L, D)`, where no gradient is wanted.

    Args:
        model ([`ApexModel`]):
            A loaded model in float32, on its device, or one that `load_exported_model` loaded.
        engine (`str`, defaults to `"torch"`):
            `"torch"`, `"onnx"` or `"openvino"`.
        precision (`str`, defaults to `"float32"`):
            What to compute in; see `ENGINES`.
        compile (`bool`, defaults to `False`):
            Whether to compile the torch path.
        require_validation (`bool`, defaults to `True`):
            Whether a precision below float32 needs its record. False only to make that record.

    Returns:
        `Callable` or `None`: for the default path, the arranged form of the model's present weights, which a model
        without an `encoder_engine` asks for anew each time; else an [`EncoderEngine`] to set as its
        `encoder_engine`. `None` where the encoder itself is due.

    Raises:
        `ValueError`: If there is no such engine, or it does not fit the model's device or precision.
        `ImportError`: If the engine's library is not installed.
        [`NotValidatedError`]: If a precision below float32 was not validated for this model on this machine.
        `RuntimeError`: If a float32 engine differs from torch by more than rounding.
    """
    check_engine(engine, precision, compile=compile)
    if engine == "torch" and precision == "float32" and not compile:
        return _choose_default(model)
    exported = get_exported_folder(model)
    if exported is None:
        _refuse_unfit_model(model, engine, precision)
    elif (exported_for := read_engine_facts(exported)["engine"]) != engine:
        raise ValueError(f"{exported}: is an export for the engine {exported_for}, not {engine}.")
    return _build_engine(model, exported, engine, precision, compile, require_validation)


def _choose_default(model: ApexModel) -> Callable[[torch.Tensor], torch.Tensor] | None:
    # In the model, so that it lives as long; a copied model starts with an empty one.
    cache: ArrangedEncoderCache = model.__dict__.setdefault("_arranged_encoders", ArrangedEncoderCache())
    arranged = cache.get(model.encoder, before_arranging=lambda: check_weights(model))
    if arranged is None:  # the encoder itself runs: by then its weights are not to lie in a file
        copy_mapped(model)
        # On a GPU even float32 is an engine: torch's own default lets cuDNN round convolutions to TF32.
        return TorchEngine(model) if model.device.type == "cuda" else None

    def encode(segments: torch.Tensor) -> torch.Tensor:
        with allow_tf32(False):
            return arranged(segments.to(model.encoder.device), model.config.layer_indices)

    return encode


def _build_engine(
    model: ApexModel, exported: Path | None, engine: str, precision: str, compile: bool, require_validation: bool
) -> EncoderEngine:
    """Build an engine that was asked for by name, once its record was found or it was compared with torch."""
    folder = exported or find_engine_folder(compute_fingerprint(model), engine)
    if engine != "torch":
        _prepare_graph(model, folder, engine, precision)
    key = build_engine_key(model, folder, engine, precision, compile)
    # Before the graph is opened or anything compiled, which takes a while: a refusal should not.
    name = str(model.config._name_or_path or "MODEL")
    record = require_record(folder, key, name) if precision != "float32" and require_validation else None
    built: EncoderEngine
    if engine == "torch":
        copy_mapped(model)
        built = TorchEngine(model, precision, compile=compile)
    else:
        built = open_graph(name_graph(folder, engine, precision), engine, precision)
    built.record = record
    if engine == "torch" and (precision == "float32" or compile):
        _check_against_model(built, model)
    elif precision == "float32":
        _check_on_probe(built, folder, key)
    return built


def build_engine_key(
    model: ApexModel, folder: Path, engine: str, precision: str, compile: bool = False
) -> dict[str, Any]:
    """Build the key of an engine's record; see `build_record_key`."""
    fingerprint = compute_fingerprint(model) if engine == "torch" else read_engine_facts(folder)["fingerprint"]
    return build_record_key(fingerprint, engine, precision, model.device, is_compiled=compile)


def get_exported_folder(model: ApexModel) -> Path | None:
    """Return the engine folder that a model was loaded from; `None` for a model with an encoder of its own."""
    encoder: Any = model.encoder
    return encoder.folder if isinstance(encoder, ExportedEncoder) else None


def find_engine_folder(fingerprint: str, engine: str) -> Path:
    """Return where graphs and records of a model lie in the cache of Hugging Face."""
    return Path(cached_assets_path("apex-music", namespace="engines", subfolder=fingerprint[:32])) / engine


def _refuse_unfit_model(model: ApexModel, engine: str, precision: str) -> None:
    if model.encoder.dtype != torch.float32:
        raise ValueError(
            f"engines start from a float32 model, and this encoder is {model.encoder.dtype}. Load it without `dtype` "
            "and name a `precision`."
        )
    if engine != "torch" and model.device.type != "cpu":
        raise ValueError(f"the engine {engine} runs on the CPU, and this model is on {model.device}.")
    if precision == "tf32" and model.device.type != "cuda":
        raise ValueError(f"`precision` 'tf32' is a mode of CUDA devices, and this model is on {model.device}.")


def _prepare_graph(model: ApexModel, folder: Path, engine: str, precision: str) -> None:
    """Make sure that the graph of a precision is there: written now, if its place is the cache."""
    if has_graph(folder, engine, precision):
        return
    if get_exported_folder(model) is not None:
        raise ValueError(
            f"{folder}: holds no graph for {precision}. Export the checkpoint again with --precision {precision}."
        )
    if engine == "openvino" and precision == "int8":
        check_calibration(None)  # there are no songs here: said before the minutes of an export
    logger.info("exporting the encoder for %s to %s", engine, folder)
    if not is_engine_folder(folder):
        try:
            export_engine(model, folder, engine)
        except OSError:
            if not is_engine_folder(folder):  # otherwise another process was faster, with the same graph
                raise
    with OutputLock(folder, waits=True):  # another run may be adding the same one
        if not has_graph(folder, engine, precision):
            add_int8_graph(folder)


def _check_on_probe(engine: EncoderEngine, folder: Path, key: dict[str, Any]) -> None:
    """Compare a float32 graph with torch's stored answer, once for every library version and kind of processor."""
    if find_record(folder, key) is not None:
        return
    error = measure_probe_error(engine, folder)
    _refuse_error(engine, error)
    try:
        save_record(folder, {"key": key, "relative_error_on_noise": error})
    except OSError as problem:  # a folder that only others may write: then every start checks
        logger.info("%s: the check of the graph cannot be stored (%s)", folder, problem)


def _check_against_model(engine: EncoderEngine, model: ApexModel) -> None:
    probe = build_probe(model.config.segment_num_samples)[:1].to(model.device)
    with torch.no_grad(), allow_tf32(False):
        expected = pool_hidden_states(model.encoder, probe, model.config.layer_indices)
    _refuse_error(engine, compute_relative_error(engine(probe).cpu(), expected.cpu()))


def _refuse_error(engine: EncoderEngine, error: float) -> None:
    largest = ROUNDING[engine.precision]
    if not error <= largest:
        raise RuntimeError(
            f"the engine {engine.name} differs from torch by a relative {error:.1e} on noise; at most {largest:.0e} "
            "is rounding. Use the default path, or another release of the library."
        )
