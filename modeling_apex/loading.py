"""
Load a scorer, a pipeline or a model the way the command line and most programs want it: by name, from our own code.

`transformers.pipeline` asks for `trust_remote_code=True` when a folder carries code of its own, even if this package
is installed. Here the installed code always runs, and the errors say what to do.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from modeling_apex.engines import check_engine
from modeling_apex.model_names import choose_hub_options, explaining_missing_model, find_model
from modeling_apex.registration import TASK
from modeling_apex.storage.config_files import read_config_file

if TYPE_CHECKING:
    import torch

    from modeling_apex.inference.modeling_apex import ApexModel
    from modeling_apex.inference.modeling_songeval_apex import SongEvalModel
    from modeling_apex.inference.modeling_spectrogram_fusion_apex import SpectrogramFusionModel
    from modeling_apex.inference.pipeline_apex import ApexPopularityPipeline
    from modeling_apex.inference.scoring_apex import SongScorer
    from modeling_apex.inference.song_report_apex import SongReport

    class SongPipeline(ApexPopularityPipeline):
        """What a type checker is to know of the pipeline, of which transformers tells it nothing."""

        @overload
        def __call__(self, inputs: list[Any] | tuple[Any, ...], **options: Any) -> list[SongReport]: ...
        @overload
        def __call__(self, inputs: str | bytes | os.PathLike | Mapping[str, Any], **options: Any) -> SongReport: ...
        @overload
        def __call__(self, inputs: Any, **options: Any) -> Any: ...
        def __call__(self, inputs: Any, **options: Any) -> Any: ...


logger = logging.getLogger(__name__)


def load_scorer(
    model: "str | os.PathLike | ApexModel | SpectrogramFusionModel | SongEvalModel | None" = None,
    *,
    device: "str | int | torch.device | None" = None,
    dtype: "str | torch.dtype" = "float32",
    engine: str = "torch",
    precision: str = "float32",
    compile: bool = False,
    require_validation: bool = True,
    batch_size: int | None = None,
    on_segment: Callable[[int], None] | None = None,
    **hub_options: Any,
) -> "SongScorer":
    """
    Load what scores songs: without transformers, which takes longer to import than a song to score, where it can.

    Args:
        model, engine, precision, compile, require_validation:
            As for [`load_pipeline`], which also says what is refused.
        device (`str`, `int` or `torch.device`, *optional*):
            Where to run. Defaults to an accelerator if there is one; a loaded model stays where it is.
        dtype (`str` or `torch.dtype`, defaults to `"float32"`):
            What the encoder is loaded in.
        batch_size (`int`, *optional*), on_segment (`Callable[[int], None]`, *optional*):
            As in [`SongScorer`].
        hub_options:
            What else `from_pretrained` takes: `revision`, `token`, `cache_dir`, ...

    Returns:
        [`SongScorer`]
    """
    is_default = _check_options(engine, precision, compile, dtype)
    if device is not None:
        check_device(device)
    hub_options = {name: value for name, value in hub_options.items() if value is not None}
    loaded: Any = _name_model(model)
    if isinstance(loaded, str) and is_default and _is_float32(dtype) and not hub_options:
        from modeling_apex.engines.plain_folder import load_plain_model

        loaded = load_plain_model(loaded, device=None if device is None else str(device)) or loaded
    if isinstance(loaded, str):
        loaded = _load_if_exported(loaded, engine)
    if isinstance(loaded, str):
        loaded = load_model(loaded, dtype=dtype, **hub_options)
        if device is None and engine == "torch":  # the other engines run on the CPU
            from torch import accelerator

            device = accelerator.current_accelerator() if accelerator.is_available() else None
    if device is not None and str(device) != str(loaded.device):
        loaded.to(device)
    _set_engine(loaded, engine, precision, compile, require_validation)

    from modeling_apex.inference.scoring_apex import SongScorer

    scorer = SongScorer(loaded, batch_size=batch_size, on_segment=on_segment)
    if (notice := loaded.config.provenance.get("notice")) and _shows_warnings():
        logger.warning(f"{scorer.model_id}: {notice}")
    return scorer


def load_pipeline(
    model: "str | os.PathLike | ApexModel | SpectrogramFusionModel | SongEvalModel | None" = None,
    *,
    engine: str = "torch",
    precision: str = "float32",
    compile: bool = False,
    require_validation: bool = True,
    **kwargs: Any,
) -> "SongPipeline":
    """
    Load the `apex-popularity` pipeline.

    Args:
        model (`str`, `os.PathLike`, [`ApexModel`], [`SpectrogramFusionModel`] or [`SongEvalModel`], *optional*):
            A Hub id, a folder, or a loaded model. Defaults to the embedded demonstration model.
        engine (`str`, defaults to `"torch"`):
            What runs the encoder: `"torch"`, `"onnx"` or `"openvino"`. A folder that `apex-music export --format`
            wrote runs on the engine that it was written for.
        precision (`str`, defaults to `"float32"`):
            What the encoder computes in. Whatever is coarser than float32 changes scores, and runs only where
            `apex-music validate` has measured by how much.
        compile (`bool`, defaults to `False`):
            Whether to compile the torch path, which takes minutes once.
        require_validation (`bool`, defaults to `True`):
            Whether a coarse precision needs its validation. False only to make that validation.
        kwargs:
            What `transformers.pipeline` takes: `device`, `dtype`, `batch_size`, `revision`, `token`, ...

    Returns:
        [`ApexPopularityPipeline`]

    Raises:
        `FileNotFoundError`: If `model` is neither a folder with a model nor a Hub id that can be reached.
        `ValueError`: If the engine does not fit the model, the device or another option.
        `ImportError`: If the engine's library is not installed.
        [`NotValidatedError`]: If the precision was not validated for this model on this machine.
    """
    import transformers

    from modeling_apex.inference.pipeline_apex import ApexPopularityPipeline

    _check_options(engine, precision, compile, kwargs.get("dtype"))
    if kwargs.get("device") is not None and not isinstance(kwargs["device"], int):  # -1 is transformers' CPU
        check_device(kwargs["device"])
    if engine != "torch":
        kwargs.setdefault("device", "cpu")  # where these engines run; otherwise torch would take an accelerator
    source: Any = _name_model(model)
    source = _load_if_exported(source, engine) if isinstance(source, str) else source
    build_pipeline: Any = transformers.pipeline
    if isinstance(source, str) and "config" not in kwargs:
        source, kwargs = _load_if_unreachable(source, kwargs)
    with explaining_missing_model(source):
        pipeline: SongPipeline = build_pipeline(TASK, model=source, pipeline_class=ApexPopularityPipeline, **kwargs)
    _set_engine(pipeline.model, engine, precision, compile, require_validation)
    return pipeline


def load_model(model: str | os.PathLike, **options: Any) -> "ApexModel | SpectrogramFusionModel | SongEvalModel":
    """
    Load a model of whichever type its config names, in float32, through the installed code.

    Args:
        model (`str` or `os.PathLike`):
            A folder or a Hub id.
        options:
            What `from_pretrained` takes: `revision`, `token`, `cache_dir`, ...

    Returns:
        [`ApexModel`], [`SpectrogramFusionModel`] or [`SongEvalModel`]

    Raises:
        `ValueError`: If the config names a model of another package.
        `FileNotFoundError`: If there is no model of that name.
    """
    name = _name_model(model)
    options = choose_hub_options(name, options)
    with explaining_missing_model(name):
        model_class: Any = _read_model_class(name, options)
        loaded: ApexModel | SpectrogramFusionModel | SongEvalModel = model_class.from_pretrained(
            name, **{"dtype": "float32", **options}
        )
    return loaded


def load_apex_model(model: str | os.PathLike) -> "ApexModel":
    """
    Load an [`ApexModel`] in float32, from a folder or a Hub id, for what only its encoder can do.

    Raises:
        `ValueError`: If the model is of another type.
    """
    name = _name_model(model)
    options = choose_hub_options(name, {})
    with explaining_missing_model(name):
        model_class: Any = _read_model_class(name, options)
        kind = model_class.config_class.model_type
        if kind != "apex":
            use = "it scores songs (`apex-music score`)"
            if kind == "spectrogram-fusion":
                use = f"it learns from a dataset of songs (`apex-music train DATASET --model-type {kind}`)"
            raise ValueError(f"{model}: a {kind} model has no embeddings to store; {use}. Pass an APEX model here.")
        loaded: ApexModel = model_class.from_pretrained(name, **{"dtype": "float32", **options})
    return loaded


def find_model_class(
    model: str | os.PathLike, **options: Any
) -> "type[ApexModel | SpectrogramFusionModel | SongEvalModel]":
    """
    Find the class of a model by what its config says, without building anything; arguments as for `load_model`.

    Raises:
        `ValueError`: If the config names a model of another package.
    """
    name = find_model(model)
    options = choose_hub_options(name, options)
    with explaining_missing_model(name):
        return _read_model_class(name, options)


def _read_model_class(model: str, options: Mapping[str, Any]) -> "type[ApexModel] | type[SpectrogramFusionModel]":
    from transformers import PreTrainedConfig

    from modeling_apex.inference.modeling_apex import ApexModel
    from modeling_apex.inference.modeling_songeval_apex import SongEvalModel
    from modeling_apex.inference.modeling_spectrogram_fusion_apex import SpectrogramFusionModel

    _check_config_file(model)
    try:
        described, _ = PreTrainedConfig.get_config_dict(model, **options)
        name = described.get("model_type")
    except (TypeError, AttributeError) as error:  # the file of a Hub model, which transformers takes as it comes
        raise ValueError(
            f"{model}: its config.json must hold the fields of a config by name ({error}). Choose another model."
        ) from error
    known: tuple[Any, ...] = (ApexModel, SpectrogramFusionModel, SongEvalModel)
    classes = {model_class.config_class.model_type: model_class for model_class in known}
    if name not in classes:
        raise ValueError(
            f"{model}: its config names the model type {name!r:.80}; expected one of {', '.join(classes)}."
        )
    return classes[name]


def check_device(device: "str | int | torch.device") -> None:
    """
    Refuse a device that this machine, or this build of torch, does not have.

    Raises:
        `ValueError`: If it is no device, or not available; the message lists those that are.
    """
    import torch

    there = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        there += [f"{kind}:{number}" for number in range(torch.accelerator.device_count())]
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is not a device. This machine has {', '.join(there)}.") from error
    if wanted.type != "cpu" and f"{wanted.type}:{wanted.index or 0}" not in there:
        raise ValueError(
            f"the device {str(device)!r} is not available with torch {torch.__version__} on this machine, which has "
            f"{', '.join(there)}. Pass one of these, or leave it out."
        )


def _check_options(engine: str, precision: str, compile: bool, dtype: Any) -> bool:
    """Refuse options that exclude each other; tell whether the default path is meant."""
    check_engine(engine, precision, compile=compile)
    is_default = (engine, precision, compile) == ("torch", "float32", False)
    if not is_default and dtype is not None and not _is_float32(dtype):
        raise ValueError(f"`dtype` {dtype!r} is for the default path; with an engine, name a `precision`.")
    return is_default


def _is_float32(dtype: Any) -> bool:
    return str(dtype).removeprefix("torch.") == "float32"


def _name_model(model: Any) -> Any:
    """Return the folder or Hub id of a model that is yet to be loaded; a loaded one as it is."""
    if model is not None and not isinstance(model, (str, os.PathLike)):
        return model
    name = find_model(model)
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise FileNotFoundError(
            f"{name}: no config.json in this folder, so it is not a model. Pass a folder that `save_pretrained`, "
            "`apex-music convert` or `apex-music train` wrote."
        )
    _check_config_file(name)
    return name


def _check_config_file(folder: str) -> None:
    """Refuse a config.json of a folder that transformers could not even begin to read."""
    path = os.path.join(folder, "config.json")
    if os.path.isfile(path):
        read_config_file(path)


def _load_if_exported(model: str, engine: str) -> Any:
    """Load a folder of exported graphs; anything else is left to transformers."""
    from modeling_apex.engines.encoder_graph import is_engine_folder, load_exported_model, read_engine_facts

    if not is_engine_folder(model):
        return model
    exported_for = read_engine_facts(Path(model))["engine"]
    if engine != exported_for:
        raise ValueError(
            f"{model}: is an export for the engine {exported_for}, not {engine}. Pass engine={exported_for!r} "
            f"(`--engine {exported_for}` on the command line), or the checkpoint that it was exported from."
        )
    return load_exported_model(model)


def _load_if_unreachable(model: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Check a model's type; load it from the cache where the Hub does not answer, and return the options left."""
    given = {**options.get("model_kwargs", {}), **options}
    names = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
    hub_options = choose_hub_options(model, {name: given[name] for name in names if name in given})
    with explaining_missing_model(model):
        model_class: Any = _read_model_class(model, hub_options)
        if not hub_options.get("local_files_only"):
            return model, options
        # `transformers.pipeline` takes that option too, and hands it on to our pipeline, which has none of that name.
        dtype = {"dtype": options["dtype"]} if "dtype" in options else {}
        loaded = model_class.from_pretrained(model, **hub_options, **dtype)
    return loaded, {name: value for name, value in options.items() if name not in names}


def _set_engine(model: Any, engine: str, precision: str, compile: bool, require_validation: bool) -> None:
    is_default = (engine, precision, compile) == ("torch", "float32", False)
    if not hasattr(model, "encoder_engine"):
        if not is_default:
            raise ValueError(
                f"a {model.config.model_type} model has no encoder that an engine could run instead. Leave out "
                "`engine`, `precision` and `compile`."
            )
    elif not is_default or model.device.type == "cuda":
        from modeling_apex.engines.choice import choose_encoder

        model.encoder_engine = choose_encoder(
            model, engine, precision, compile=compile, require_validation=require_validation
        )


def _shows_warnings() -> bool:
    """Tell whether the user's setting for messages of transformers lets warnings pass."""
    return os.environ.get("TRANSFORMERS_VERBOSITY", "warning").lower() not in ("error", "critical")
