"""The config of the spectrogram-fusion model: round trips, derived sizes, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from modeling_apex import SpectrogramFusionConfig

from fusion_models import FEATURES, build_fusion_config

NUMERIC = FEATURES[1]


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    config = build_fusion_config(hit_threshold=60, percentile_tables={"popularity": [float(q) for q in range(101)]})
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is SpectrogramFusionConfig
    described, again = config.to_dict(), loaded.to_dict()
    for words in (described, again):
        words.pop("transformers_version", None)
        words.pop("_name_or_path", None)
    assert described == again
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "spectrogram-fusion"


def test_no_arguments_and_derived_sizes() -> None:
    config = SpectrogramFusionConfig()
    assert config.head_names == ["popularity", "hit_probability"]
    assert config.segment_num_samples == 240_000
    assert config.minimum_num_samples == config.fft_size == 1024
    assert config.maximum_hertz == 12_000
    assert (config.num_bands, SpectrogramFusionConfig(spectrogram="log-stft").num_bands) == (64, 513)
    assert config.has_audio


def test_leaking_features_are_named() -> None:
    assert build_fusion_config().leaking_names == ["play_count"]
    assert build_fusion_config().feature_names == ["genre", "tempo", "play_count"]


def test_pointers_to_code_are_dropped() -> None:
    config = SpectrogramFusionConfig(auto_map={"AutoConfig": "other--code.Class"}, custom_pipelines={"x": {}})
    assert not hasattr(config, "auto_map")
    assert not hasattr(config, "custom_pipelines")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"branches": "both"}, ValueError, "`branches` must be one of 'fused', 'audio', 'features'"),
        ({"branches": "features"}, ValueError, "`features` is empty, but `branches` is 'features'"),
        ({"branches": "audio", "features": FEATURES}, ValueError, "`features` must be empty where `branches` is 'aud"),
        ({"spectrogram": "cqt"}, ValueError, "`spectrogram` must be one of 'log-mel', 'log-stft'"),
        ({"hit_threshold": 101.0}, ValueError, "`hit_threshold` is a popularity, at most 100, got 101"),
        ({"hit_threshold": 0.0}, ValueError, "`hit_threshold` must be above 0"),
        ({"hop_size": 2048}, ValueError, "`hop_size` 2048 is above `fft_size` 1024: samples would be lost"),
        ({"maximum_hertz": 13_000.0}, ValueError, "`maximum_hertz` 13000 is above half the sampling rate, 12000"),
        ({"maximum_hertz": 20.0}, ValueError, "`maximum_hertz` must be above 30"),
        ({"segment_seconds": 0.01}, ValueError, "`segment_seconds` 0.01 is 240 samples, fewer than the 1024"),
        ({"channels": []}, ValueError, "`channels` is empty"),
        ({"channels": [10**6]}, ValueError, "`channels` 1,000,000 is too large; at most 16,384 is allowed"),
        ({"hidden_size": 10**9}, ValueError, "`hidden_size` 1,000,000,000 is too large"),
        ({"power_floor": 0.0}, ValueError, "`power_floor` must be above 0"),
        ({"dropout": 1.0}, ValueError, "`dropout` must be below 1"),
        ({"hit_treshold": 50.0}, ValueError, "unknown config field `hit_treshold`; did you mean `hit_threshold`"),
        ({"percentile_tables": {"plays": []}}, ValueError, "names 'plays', but the heads are popularity, hit_pro"),
        ({"features": {"tempo": 1}}, TypeError, "`features` must be a list of dicts"),
        ({"features": ["tempo"]}, TypeError, r"`features\[0\]` must be a dict, got 'tempo'"),
        ({"features": [NUMERIC, NUMERIC]}, ValueError, "`features` names a feature twice"),
        ({"features": [{**NUMERIC, "kind": "text"}]}, ValueError, r"`features\[0\].kind` must be one of 'numeric'"),
        ({"features": [{**NUMERIC, "unit": "bpm"}]}, ValueError, "is numeric and must have exactly is_leaking, kind"),
        ({"features": [{**NUMERIC, "name": "a b"}]}, ValueError, r"`features\[0\].name` must be a plain identifier"),
        ({"features": [{**NUMERIC, "std": 0.0}]}, ValueError, r"`features\[0\].std` must be above 0"),
        ({"features": [{**NUMERIC, "is_leaking": 1}]}, TypeError, r"`features\[0\].is_leaking` must be true or fal"),
        ({"features": [{**FEATURES[0], "categories": []}]}, TypeError, "must be a list with at least one string"),
        ({"features": [{**FEATURES[0], "categories": [1, 2]}]}, ValueError, "must be distinct strings"),
        ({"features": [{**FEATURES[0], "categories": ["a"] * 100_001}]}, ValueError, "has 100,001; at most 100,000"),
    ],
)
def test_refusals(fields: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        SpectrogramFusionConfig(**fields)
