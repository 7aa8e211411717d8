"""What version 0.1.0 wrote keeps loading, through every door, with the same scores."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline

from modeling_apex import load_pipeline, load_preference_head

from waveforms import make_waveform

FILES = Path(__file__).parent / "made_by_0_1"
REPORTS: dict[str, dict[str, Any]] = json.loads((FILES / "reports.json").read_text(encoding="utf-8"))
FEATURES = {"apex": {}, "fusion": {"features": {"genre": "pop", "tempo": 120.0, "play_count": 900}}}


@pytest.mark.parametrize("name", list(REPORTS))
@pytest.mark.parametrize("load", [load_pipeline, lambda folder: pipeline("apex-popularity", model=str(folder))])
def test_an_exported_folder_scores_as_it_did(name: str, load: Any) -> None:
    scorer = load(FILES / name)
    song = {"array": make_waveform(0.35, 24_000), "sampling_rate": 24_000, **FEATURES[name]}
    report, before = scorer(song, return_timeline=True), REPORTS[name]
    assert report["scores"] == pytest.approx(before["scores"], rel=1e-5)
    assert report["percentiles"] == pytest.approx(before["percentiles"], rel=1e-5)
    assert report.get("training_percentiles", {}) == pytest.approx(before.get("training_percentiles", {}), rel=1e-4)
    for segment, old in zip(report["segments"], before["segments"], strict=True):
        assert segment["scores"] == pytest.approx(old["scores"], rel=1e-5)
    assert set(before) <= set(report), "a field of the report is gone"


@pytest.mark.parametrize("name", list(REPORTS))
def test_the_auto_classes_read_it(name: str) -> None:
    config = AutoConfig.from_pretrained(FILES / name)
    assert config.head_names == list(REPORTS[name]["scores"])
    assert type(AutoModel.from_pretrained(FILES / name)).__module__.startswith("modeling_apex.inference.")
    assert AutoFeatureExtractor.from_pretrained(FILES / name).sampling_rate == 24_000


def test_the_preference_head_is_read() -> None:
    head = load_preference_head(FILES / "apex")
    assert head is not None
    assert head.weights == {"score_streams": 0.02, "clarity": 0.7}
    assert head.position_bias == 0.1
