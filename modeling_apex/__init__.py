"""
APEX for the Hugging Face ecosystem: popularity and aesthetic scores of AI-generated songs, from audio alone.

Importing this package registers `ApexModel`, `SpectrogramFusionModel` and `SongEvalModel`, with configs and extractor,
with the Auto classes of transformers, and the pipeline task `apex-popularity`. Public names are loaded when they are
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from modeling_apex.registration import register

if TYPE_CHECKING:
    from modeling_apex.arena.preference import PreferenceHead, load_preference_head, score_preference
    from modeling_apex.arena.ranking import rank_reports
    from modeling_apex.inference.audio_apex import AudioError, AudioLimits, load_audio
    from modeling_apex.inference.configuration_apex import ApexConfig
    from modeling_apex.inference.configuration_songeval_apex import SongEvalConfig
    from modeling_apex.inference.configuration_spectrogram_fusion_apex import SpectrogramFusionConfig
    from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
    from modeling_apex.inference.modeling_apex import ApexModel, ApexOutput
    from modeling_apex.inference.modeling_songeval_apex import SongEvalModel
    from modeling_apex.inference.modeling_spectrogram_fusion_apex import (
        SpectrogramFusionModel,
        SpectrogramFusionOutput,
    )
    from modeling_apex.inference.pipeline_apex import ApexPopularityPipeline
    from modeling_apex.inference.report_apex import flatten_reports, format_csv, format_rows
    from modeling_apex.inference.scoring_apex import SongScorer
    from modeling_apex.inference.song_report_apex import SongReport
    from modeling_apex.inference.whole_song_apex import load_whole_song
    from modeling_apex.loading import load_pipeline, load_scorer

__version__ = "0.2.0"

_PUBLIC_NAMES = {
    "ApexConfig": "inference.configuration_apex",
    "ApexFeatureExtractor": "inference.feature_extraction_apex",
    "ApexModel": "inference.modeling_apex",
    "ApexOutput": "inference.modeling_apex",
    "ApexPopularityPipeline": "inference.pipeline_apex",
    "AudioError": "inference.audio_apex",
    "AudioLimits": "inference.audio_apex",
    "flatten_reports": "inference.report_apex",
    "format_csv": "inference.report_apex",
    "format_rows": "inference.report_apex",
    "load_audio": "inference.audio_apex",
    "load_pipeline": "loading",
    "load_scorer": "loading",
    "load_whole_song": "inference.whole_song_apex",
    "load_preference_head": "arena.preference",
    "rank_reports": "arena.ranking",
    "PreferenceHead": "arena.preference",
    "SongReport": "inference.song_report_apex",
    "SongScorer": "inference.scoring_apex",
    "SongEvalConfig": "inference.configuration_songeval_apex",
    "SongEvalModel": "inference.modeling_songeval_apex",
    "SpectrogramFusionConfig": "inference.configuration_spectrogram_fusion_apex",
    "SpectrogramFusionModel": "inference.modeling_spectrogram_fusion_apex",
    "SpectrogramFusionOutput": "inference.modeling_spectrogram_fusion_apex",
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
    "SongEvalConfig",
    "SongEvalModel",
    "SongReport",
    "SongScorer",
    "SpectrogramFusionConfig",
    "SpectrogramFusionModel",
    "SpectrogramFusionOutput",
    "flatten_reports",
    "format_csv",
    "format_rows",
    "load_audio",
    "load_pipeline",
    "load_preference_head",
    "load_scorer",
    "load_whole_song",
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
