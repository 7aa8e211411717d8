"""The tail: what the padded last segment of a song counts, by every door that scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_apex import (
    ApexConfig,
    ApexFeatureExtractor,
    ApexModel,
    SpectrogramFusionConfig,
    SpectrogramFusionModel,
    load_pipeline,
    load_scorer,
)
from modeling_apex.cli import main
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.engines.plain_folder import PlainModel
from modeling_apex.inference.score_heads_apex import weigh_segments

from waveforms import make_waveform

LENGTHS = [[2400, 2400, 600], [2400, 0, 0], [300, 0, 0], [2400, 2400, 2400]]
MASK = torch.tensor(LENGTHS) > 0


def set_tail(model: Any, tail: str, tail_seconds: float = 0.05) -> Any:
    model.config.tail, model.config.tail_seconds = tail, tail_seconds
    return model


@pytest.mark.parametrize(
    ("tail", "tail_seconds", "expected"),
    [
        ("full", 0.05, [[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1]]),
        ("weighted", 0.05, [[1, 1, 0.25], [1, 0, 0], [1, 0, 0], [1, 1, 1]]),
        ("drop", 0.05, [[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]]),
        ("drop", 0.025, [[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1]]),  # exactly as long as asked for
        ("drop", 99.0, [[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]]),  # longer than a segment
        ("drop", 0.0, [[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1]]),
    ],
)
def test_weights_of_segments(
    tiny_config: Callable[..., ApexConfig], tail: str, tail_seconds: float, expected: list[list[float]]
) -> None:
    config = tiny_config(tail=tail, tail_seconds=tail_seconds)
    weights = weigh_segments(MASK, torch.tensor(LENGTHS), config)
    assert weights.tolist() == expected
    assert torch.equal(weigh_segments(MASK, torch.tensor(LENGTHS), tiny_config(), tail), weights) or tail == "drop"


def test_segments_without_a_length_are_refused_where_it_matters(tiny_config: Callable[..., ApexConfig]) -> None:
    config = tiny_config(tail="weighted")
    alone = torch.tensor([[True, False], [True, False]])
    assert weigh_segments(alone, None, config).tolist() == [[1, 0], [1, 0]]
    with pytest.raises(ValueError, match=r"`num_real_samples` is missing: with tail='weighted' a segment counts"):
        weigh_segments(MASK, None, config)
    for lengths in ([[1, 2]], [[2400, 0, 600], [1, 0, 0], [1, 0, 0], [1, 1, 1]]):
        with pytest.raises(ValueError, match=r"must be positive for each real segment and of the shape \(4, 3\)"):
            weigh_segments(MASK, torch.tensor(lengths), config)
    with pytest.raises(ValueError, match="`tail` must be one of 'full', 'weighted', 'drop', got 'half'"):
        weigh_segments(MASK, None, config, "half")


@pytest.mark.parametrize("fields", [{"tail": "half"}, {"tail_seconds": -1.0}])
def test_a_config_with_another_rule_is_refused(tiny_config: Callable[..., ApexConfig], fields: dict) -> None:
    with pytest.raises(ValueError, match="`tail"):
        tiny_config(**fields)


def test_the_extractor_says_how_much_of_each_segment_is_real(tiny_config: Callable[..., ApexConfig]) -> None:
    extractor = ApexFeatureExtractor.from_config(tiny_config())
    features = extractor([make_waveform(0.21), make_waveform(0.1)], sampling_rate=24_000, return_tensors="pt")
    assert features["num_real_samples"].tolist() == [[2400, 2400, 240], [2400, 0, 0]]


@pytest.mark.parametrize("level", ["song", "segment"])
@pytest.mark.parametrize("tail", ["full", "weighted", "drop"])
def test_a_song_is_the_mean_that_its_config_asks_for(tiny_model: ApexModel, tail: str, level: str) -> None:
    tiny_model.config.prediction_level = level
    set_tail(tiny_model, tail)
    extractor = ApexFeatureExtractor.from_config(tiny_model.config)
    songs = [make_waveform(0.21), make_waveform(0.04, seed=1), make_waveform(0.3, seed=2)]
    shares = {"full": [1, 1, 1], "weighted": [1, 1, 0.1], "drop": [1, 1, 0]}[tail]
    with torch.no_grad():
        output = tiny_model(**extractor(songs, sampling_rate=24_000, return_tensors="pt"), output_segment_scores=True)
        mean = np.average(output.segment_embeddings[0].numpy(), axis=0, weights=shares)
        alone = [tiny_model(**extractor(song, sampling_rate=24_000, return_tensors="pt")).scores for song in songs]
        of_mean = tiny_model.compute_scores(torch.tensor(mean[None], dtype=torch.float32))[0].numpy()
    if level == "segment":
        of_mean = np.average(output.segment_scores[0].numpy(), axis=0, weights=shares)
    assert output.song_embedding[0].numpy() == pytest.approx(mean, abs=1e-5)
    assert output.scores[0].numpy() == pytest.approx(of_mean, abs=1e-3)
    assert torch.allclose(output.scores, torch.cat(alone), atol=1e-3)
    single, whole = songs[1:2], songs[2:]
    with torch.no_grad():  # no tail, nothing to weigh: not a bit changes
        for song in (single, whole):
            features = extractor(song, sampling_rate=24_000, return_tensors="pt")
            assert torch.equal(tiny_model(**features).scores, tiny_model(**features, tail="full").scores)


@pytest.mark.parametrize("tail", ["weighted", "drop"])
def test_all_doors_weigh_alike(tiny_model: ApexModel, tmp_path: Path, song_file: Callable, tail: str) -> None:
    songs = [str(song_file("long.wav", 0.33)), str(song_file("short.wav", 0.02, seed=1))]
    tiny_model.save_pretrained(tmp_path / "full")
    set_tail(tiny_model, tail, 5.0).save_pretrained(tmp_path / "other")
    full, other = tmp_path / "full", tmp_path / "other"
    assert type(load_scorer(other).model) is PlainModel
    expected = [report["scores"] for report in load_scorer(other).score(songs)]
    published = [report["scores"] for report in load_scorer(full).score(songs)]
    assert expected[0] != published[0]
    assert expected[1] == published[1]
    for door in (load_scorer(full).score, load_pipeline(full, device="cpu")):
        assert [report["scores"] for report in door(songs, tail=tail)] == expected
    assert [report["scores"] for report in load_pipeline(other, device="cpu")(songs)] == expected
    assert [report["scores"] for report in load_scorer(other).score(songs, tail="full")] == published
    with pytest.raises(ValueError, match="`tail` must be one of full, weighted, drop, got 'none'"):
        load_scorer(full).score(songs, tail="none")


def test_a_folder_of_before_is_full(tiny_folder: Path, song_file: Callable) -> None:
    song = [str(song_file(seconds=0.33))]
    expected = [report["scores"] for report in load_scorer(tiny_folder).score(song)]
    config = json.loads((tiny_folder / "config.json").read_text())
    del config["tail"], config["tail_seconds"]
    (tiny_folder / "config.json").write_text(json.dumps(config))
    scorer = load_scorer(tiny_folder)
    assert type(scorer.model) is PlainModel
    assert [report["scores"] for report in scorer.score(song)] == expected
    assert ApexModel.from_pretrained(tiny_folder).config.tail == "full"


def test_the_hash_of_a_model_knows_its_tail(tiny_model: ApexModel) -> None:
    before = compute_scores_hash(tiny_model)
    hashes = {compute_scores_hash(set_tail(tiny_model, *tail)) for tail in (("weighted",), ("drop", 1), ("drop", 2))}
    assert len({before, *hashes}) == 4
    assert compute_scores_hash(set_tail(tiny_model, "full", 9.0)) == before


def test_a_fusion_model_weighs_its_tail() -> None:
    config = SpectrogramFusionConfig(branches="audio", segment_seconds=0.1, channels=[4, 4], tail="weighted")
    model = SpectrogramFusionModel(config).eval()
    features = ApexFeatureExtractor.from_config(config)(make_waveform(0.15), sampling_rate=24_000, return_tensors="pt")
    with torch.no_grad():
        output, full = model(**features), model(**features, tail="full")
    first, last = output.segment_embeddings[0]
    assert torch.allclose(output.song_embedding[0], (first + 0.5 * last) / 1.5, atol=1e-6)
    assert torch.allclose(full.song_embedding[0], (first + last) / 2, atol=1e-6)


def test_the_command_line_takes_the_tail(
    tiny_folder: Path, song_file: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    song, model = str(song_file(seconds=0.33)), load_scorer(tiny_folder)
    words = ["score", song, "--model", str(tiny_folder), "--device", "cpu", "--output"]
    for tail in ("full", "weighted", "drop"):
        output = tmp_path / f"{tail}.jsonl"
        assert main([*words, str(output), "--tail", tail]) == 0
        report = json.loads(output.read_text())
        assert report["scores"] == next(iter(model.score([song], tail=tail)))["scores"]
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path / "other.jsonl"), "--tail", "half"])
    assert "invalid choice: 'half'" in capsys.readouterr().err
