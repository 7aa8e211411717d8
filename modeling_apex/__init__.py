"""
APEX for the Hugging Face ecosystem: popularity and aesthetic scores of AI-generated songs, from audio alone.

Importing this package registers `ApexModel` and `SpectrogramFusionModel`, with their configs and feature extractor,
with the Auto classes of transformers, and the pipeline task `apex-popularity`. Public names are loaded when they are
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from modeling_apex.registration import register

if TYPE_CHECKING:
    from modeling_apex.arena.preference import PreferenceHead, score_preference
    from modeling_apex.audio_apex import AudioError, AudioLimits, load_audio
    from modeling_apex.configuration_apex import ApexConfig
    from modeling_apex.configuration_spectrogram_fusion_apex import SpectrogramFusionConfig
    from modeling_apex.feature_extraction_apex import ApexFeatureExtractor
    from modeling_apex.loading import load_pipeline, load_preference_head
    from modeling_apex.modeling_apex import ApexModel, ApexOutput
    from modeling_apex.modeling_spectrogram_fusion_apex import SpectrogramFusionModel, SpectrogramFusionOutput
    from modeling_apex.pipeline_apex import ApexPopularityPipeline
    from modeling_apex.ranking import rank_reports
    from modeling_apex.report_apex import flatten_reports, format_csv

__version__ = "0.1.0"

_PUBLIC_NAMES = {
    "ApexConfig": "configuration_apex",
    "ApexFeatureExtractor": "feature_extraction_apex",
    "ApexModel": "modeling_apex",
    "ApexOutput": "modeling_apex",
    "ApexPopularityPipeline": "pipeline_apex",
    "AudioError": "audio_apex",
    "AudioLimits": "audio_apex",
    "flatten_reports": "report_apex",
    "format_csv": "report_apex",
    "load_audio": "audio_apex",
    "load_pipeline": "loading",
    "load_preference_head": "loading",
    "rank_reports": "ranking",
    "PreferenceHead": "arena.preference",
    "SpectrogramFusionConfig": "configuration_spectrogram_fusion_apex",
    "SpectrogramFusionModel": "modeling_spectrogram_fusion_apex",
    "SpectrogramFusionOutput": "modeling_spectrogram_fusion_apex",
    "score_preference": "arena.preference",
}

__all__ = [
    "ApexConfig",
    "ApexFeatureExtractor",
    "ApexModel",
    "ApexOutput",
    "ApexPopularityPipeline",
    "AudioError",
    "AudioLimits",
    "PreferenceHead",
    "SpectrogramFusionConfig",
    "SpectrogramFusionModel",
    "SpectrogramFusionOutput",
    "flatten_reports",
    "format_csv",
    "load_audio",
    "load_pipeline",
    "load_preference_head",
    "rank_reports",
    "score_preference",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
