"""
Load a pipeline the way the command line and most programs want it: by name, from our own code.

`transformers.pipeline` asks for `trust_remote_code=True` when a folder carries code of its own, even if this package
is installed. Here the installed code always runs, and the errors say what to do.
"""

import os
from pathlib import Path
from typing import Any

from modeling_apex.registration import EMBEDDED_MODEL, TASK


def load_pipeline(
    model: Any = None,
    *,
    engine: str = "torch",
    precision: str = "float32",
    compile: bool = False,
    require_validation: bool = True,
    **kwargs: Any,
) -> Any:
    """
    Load the `apex-popularity` pipeline.

    Args:
        model (`str`, `os.PathLike` or [`ApexModel`], *optional*):
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

    from modeling_apex.engines import check_engine
    from modeling_apex.inference.pipeline_apex import ApexPopularityPipeline

    check_engine(engine, precision, compile=compile)
    is_default = engine == "torch" and precision == "float32" and not compile
    if not is_default and kwargs.get("dtype") not in (None, "float32"):
        raise ValueError(f"`dtype` {kwargs['dtype']!r} is for the default path; with an engine, name a `precision`.")
    if engine != "torch":
        kwargs.setdefault("device", "cpu")  # where these engines run; otherwise torch would take an accelerator
    if model is None:
        model = EMBEDDED_MODEL
        check_embedded_model()
    if isinstance(model, (str, os.PathLike)):
        model = os.path.expanduser(os.fspath(model))
        if os.path.isdir(model) and not os.path.isfile(os.path.join(model, "config.json")):
            raise FileNotFoundError(
                f"{model}: no config.json in this folder, so it is not a model. Pass a folder that `save_pretrained`, "
                "`apex-music convert` or `apex-music train` wrote."
            )
        model = _load_if_exported(model, engine)
    build_pipeline: Any = transformers.pipeline
    try:
        scorer = build_pipeline(TASK, model=model, pipeline_class=ApexPopularityPipeline, **kwargs)
    except OSError as error:
        if not isinstance(model, str) or os.path.isdir(model):
            raise
        raise FileNotFoundError(
            f"{model}: no such folder, and not to be had from the Hub: {error} To work offline, run "
            f"`hf download {model}` once while connected, or pass a folder."
        ) from error
    if not is_default or scorer.model.device.type == "cuda":
        from modeling_apex.engines.choice import choose_encoder

        scorer.model.encoder_engine = choose_encoder(
            scorer.model, engine, precision, compile=compile, require_validation=require_validation
        )
    return scorer


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


def load_model(model: str | os.PathLike, **options: Any) -> Any:
    """
    Load a model of whichever type its config names, in float32, through the installed code.

    Args:
        model (`str` or `os.PathLike`):
            A folder or a Hub id.
        options:
            What `from_pretrained` takes: `revision`, `token`, `cache_dir`, ...

    Returns:
        [`ApexModel`] or [`SpectrogramFusionModel`]

    Raises:
        `ValueError`: If the config names a model of another package.
    """
    import torch

    model_class = find_model_class(model, **{name: value for name, value in options.items() if name != "dtype"})
    return model_class.from_pretrained(os.fspath(model), **{"dtype": torch.float32, **options})


def load_apex_model(model: str | os.PathLike, **options: Any) -> Any:
    """
    Load an [`ApexModel`], for what only its encoder can do; arguments as for `load_model`.

    Raises:
        `ValueError`: If the model is of another type.
    """
    hub_options = {name: value for name, value in options.items() if name != "dtype"}
    name = find_model_class(model, **hub_options).config_class.model_type
    if name != "apex":
        raise ValueError(
            f"{model}: a {name} model has no embeddings to store; it learns from a dataset of songs (`apex-music "
            f"train DATASET --model-type {name}`). Pass an APEX model here."
        )
    return load_model(model, **options)


def find_model_class(model: str | os.PathLike, **hub_options: Any) -> Any:
    """
    Find the class of a model by what its config says, without building anything.

    Args:
        model (`str` or `os.PathLike`):
            A folder or a Hub id.
        hub_options:
            `revision`, `token`, `cache_dir`, ...

    Returns:
        `type`: [`ApexModel`] or [`SpectrogramFusionModel`].

    Raises:
        `ValueError`: If the config names a model of another package.
    """
    from transformers import PreTrainedConfig

    from modeling_apex.inference.modeling_apex import ApexModel
    from modeling_apex.inference.modeling_spectrogram_fusion_apex import SpectrogramFusionModel

    described, _ = PreTrainedConfig.get_config_dict(os.fspath(model), **hub_options)
    classes: dict[str, Any] = {
        model_class.config_class.model_type: model_class for model_class in (ApexModel, SpectrogramFusionModel)
    }
    name = described.get("model_type")
    if name not in classes:
        raise ValueError(f"{model}: its config names the model type {name!r}; expected one of {', '.join(classes)}.")
    return classes[name]


def check_embedded_model() -> None:
    """
    Make sure that the embedded demonstration model is there.

    Raises:
        `FileNotFoundError`: If this installation came without it.
    """
    if not (EMBEDDED_MODEL / "config.json").is_file():
        raise FileNotFoundError(
            "no model was named, and this installation has no embedded one. Pass a model: a folder, or a Hub id such "
            "as amaai-lab/apex (`--model` on the command line, `model=` in Python)."
        )
