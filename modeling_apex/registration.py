"""
Make transformers find this package's classes: the Auto classes and the pipeline task.

Importing `modeling_apex` is enough. Where transformers' own registries are already loaded, registration happens at
once; otherwise it waits for them, so that importing this package, or asking the command line for help, does not cost
the seconds that torch and the pipelines take to import.

The inference modules import nothing of this package, since they also lie beside exported checkpoints. What the package
does better or in addition is hung into them here, as each is loaded: see [`HOOKS`].
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

TASK = "apex-popularity"
EMBEDDED_MODEL = Path(__file__).parent / "pretrained" / "apex-tiny"


def register_auto_classes() -> None:
    """Register configs, feature extractor and models with `AutoConfig`, `AutoFeatureExtractor` and `AutoModel`."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    from modeling_apex.inference.configuration_apex import ApexConfig
    from modeling_apex.inference.configuration_songeval_apex import SongEvalConfig
    from modeling_apex.inference.configuration_spectrogram_fusion_apex import SpectrogramFusionConfig
    from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
    from modeling_apex.inference.modeling_apex import ApexModel
    from modeling_apex.inference.modeling_songeval_apex import SongEvalModel
    from modeling_apex.inference.modeling_spectrogram_fusion_apex import SpectrogramFusionModel

    models: dict[Any, Any] = {ApexConfig: ApexModel, SpectrogramFusionConfig: SpectrogramFusionModel}
    for config_class, model_class in models.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
        AutoFeatureExtractor.register(config_class, ApexFeatureExtractor, exist_ok=True)
    # It hears a song whole, by `load_whole_song`, and so has no extractor that cuts one into segments.
    AutoConfig.register(SongEvalConfig.model_type, SongEvalConfig, exist_ok=True)
    AutoModel.register(SongEvalConfig, SongEvalModel, exist_ok=True)


def register_pipeline() -> None:
    """Register the task `apex-popularity`, with the embedded model as its default."""
    from transformers import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from modeling_apex.inference.pipeline_apex import ApexPopularityPipeline

    PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # a second registration would log a warning
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=ApexPopularityPipeline,
        pt_model=AutoModel,
        default={"model": (str(EMBEDDED_MODEL), "main")},
        type="audio",
    )
    # `register_pipeline` leaves the default's path on the class, and saving would write it into config.json.
    clean = {TASK: {"impl": ApexPopularityPipeline, "pt": (AutoModel,), "type": "audio"}}
    ApexPopularityPipeline._registered_impl = clean


REGISTRATIONS = {
    "transformers.models.auto.modeling_auto": register_auto_classes,
    "transformers.pipelines": register_pipeline,
}
# The inference modules, which export ships as well. Importing one of them can import a registry half-way through, and
# registering then would find our module without its classes, so these are watched too: whichever ends last registers.
FLAT_PREFIX = "modeling_apex.inference."
FLAT_MODULES = tuple(
    f"{FLAT_PREFIX}{path.stem}" for path in sorted((Path(__file__).parent / "inference").glob("*_apex.py"))
)
# From what is `None` in code beside a checkpoint, or is how transformers reads a file of it, in an inference module or
# a class of one, to the function of this package that stands there where it is installed.
HOOKS = {
    "decoding_apex:open_url": "download:download",
    "decoding_apex:name_source": "storage.source_names:name_source",
    "decoding_apex:refuse_format": "containers.recognition:refuse_format",
    "decoding_apex:mend_header": "containers.byte_views:mend_header",
    "decoding_apex:decode_container": "containers.opening:decode_container",
    "decoding_apex:complete_song": "containers.opening:complete_song",
    "configuration_fields_apex:check_fields": "checkpoints.config_checks:check_fields",
    "configuration_fields_apex:ApexFields.validate_encoder": "checkpoints.config_checks:validate_encoder",
    "configuration_apex:ApexConfig._dict_from_json_file": "storage.config_files:read_config_file",
    "configuration_spectrogram_fusion_apex:SpectrogramFusionConfig._dict_from_json_file": (
        "storage.config_files:read_config_file"
    ),
    "configuration_songeval_apex:SongEvalConfig._dict_from_json_file": "storage.config_files:read_config_file",
    "feature_extraction_apex:ApexFeatureExtractor.get_feature_extractor_dict": (
        "storage.config_files:read_extractor_fields"
    ),
    "score_heads_apex:ScoreHeadsMixin.count_workers": "inference.worker_threads_apex:count_workers",
    "scoring_apex:SongScorer.count_workers": "inference.worker_threads_apex:count_workers",
    "scoring_apex:SongScorer.measure_novelty": "inference.novelty_apex:measure_novelty",
    "scoring_apex:SongScorer.read_ahead": "inference.read_ahead_apex:read_ahead",
    "modeling_apex:ApexPreTrainedModel.open_checkpoint": "checkpoints.opening:open_checkpoint",
    "modeling_apex:ApexPreTrainedModel.keep_weights": "engines.mapped_weights:keep_weights",
    "modeling_apex:ApexModel.choose_encoder": "engines.choice:choose_encoder",
}
# What our modules take from transformers. A program may begin with one of these, which imports a registry half-way
# through: our classes cannot be made yet, so registration waits for them as well.
AWAITED_MODULES = (
    "transformers.configuration_utils",
    "transformers.modeling_layers",
    "transformers.modeling_utils",
    "transformers.models.hubert.configuration_hubert",
    "transformers.models.hubert.modeling_hubert",
)
_loaded: set[str] = set()
_registered: set[str] = set()


class RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Run the registrations right after transformers imports its registries."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in REGISTRATIONS and fullname not in FLAT_MODULES and fullname not in AWAITED_MODULES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _follow_loading(spec.loader)
        return spec


def _follow_loading(loader: Any) -> None:
    """Do what is due once a loader, which is new for each module, has run its module."""
    run_module = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        run_module(module)
        hang_hooks(module)
        _loaded.add(module.__name__)
        register_what_is_loaded()

    loader.exec_module = exec_module


def hang_hooks(module: ModuleType) -> None:
    """Set the hooks of an inference module to functions of the package, which are imported when they are called."""
    import pkgutil  # here, because importing this package is to cost nothing

    def defer(source: str) -> Callable[..., Any]:
        return lambda *arguments, **options: pkgutil.resolve_name(f"modeling_apex.{source}")(*arguments, **options)

    for place, source in HOOKS.items():
        name, _, attribute = place.partition(":")
        if module.__name__ == f"{FLAT_PREFIX}{name}":
            owner, _, attribute = attribute.rpartition(".")
            setattr(getattr(module, owner) if owner else module, attribute, defer(source))


def register_what_is_loaded() -> None:
    """Run the registration of each loaded registry, unless a module that it needs is in the middle of its import."""
    if any(name in sys.modules and name not in _loaded for name in (*FLAT_MODULES, *AWAITED_MODULES)):
        return
    for registry, registration in REGISTRATIONS.items():
        if registry in _loaded and registry not in _registered:
            _registered.add(registry)
            registration()


def register() -> None:
    """Register now what can be registered now, and the rest as soon as transformers imports its registries."""
    if not any(isinstance(finder, RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegisterAfterImport())
    _loaded.update(name for name in (*REGISTRATIONS, *AWAITED_MODULES) if name in sys.modules)
    register_what_is_loaded()
