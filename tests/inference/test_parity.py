"""The whole path, from published weights and an audio file to scores, against an independent restatement."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modeling_apex import ApexFeatureExtractor, ApexModel, load_audio, load_pipeline
from modeling_apex.checkpoints.convert import convert_checkpoint, save_conversion
from modeling_apex.inference.modeling_apex import pool_hidden_states

import published_layout as layout
import reference_apex as reference
from waveforms import make_waveform

TOLERANCE = 1e-5
# What `torch.manual_seed(42); nn.Conv1d(4, 1, 1)` gives, the authors' aggregator.
AGGREGATOR_WEIGHT = [0.3822692632675171, 0.4150039553642273, -0.11713624000549316, 0.45930564403533936]
AGGREGATOR_BIAS = -0.10955178737640381
LAYERS = [2, 5, 8, -1]


def relative_error(actual: object, expected: torch.Tensor) -> float:
    actual = torch.as_tensor(np.asarray(actual)).double()
    return float((actual - expected).abs().max() / expected.abs().max())


def check_every_stage(folder: Path, weights: dict, config: dict, path: Path, segment_num_samples: int) -> None:
    audio, rate = soundfile.read(path, dtype="float64", always_2d=True)
    waveform = reference.resample(torch.from_numpy(audio.mean(1)), rate, config["sample_rate"])
    assert relative_error(load_audio(path), waveform) < TOLERANCE

    extractor = ApexFeatureExtractor.from_pretrained(folder)
    features = extractor(load_audio(path), sampling_rate=24_000, return_tensors="pt")
    values = reference.normalize(reference.segment(waveform, segment_num_samples))
    assert features["input_values"].shape == (1, *values.shape)
    assert relative_error(features["input_values"][0], values) < TOLERANCE

    model = ApexModel.from_pretrained(folder)
    states = reference.hidden_states(values, weights, config)
    with torch.no_grad():
        pooled = pool_hidden_states(model.encoder, features["input_values"][0], LAYERS)
        output = model(**features)
    for column, layer in enumerate(LAYERS):
        assert relative_error(pooled[:, column], states[layer].mean(1)) < TOLERANCE, layer

    segments = reference.aggregate(states, LAYERS, torch.tensor(AGGREGATOR_WEIGHT).double(), AGGREGATOR_BIAS)
    assert relative_error(output.segment_embeddings[0], segments) < TOLERANCE
    assert relative_error(output.song_embedding[0], segments.mean(0)) < TOLERANCE

    scores = reference.score(segments.mean(0), weights, layout.SCORE_NAMES)
    assert model.config.head_names == layout.SCORE_NAMES
    assert relative_error(output.scores[0], scores) < TOLERANCE
    report = load_pipeline(folder)(str(path))
    assert list(report["scores"]) == layout.SCORE_NAMES
    assert relative_error(list(report["scores"].values()), scores) < TOLERANCE
    assert report["num_segments"] == len(values)


def as_double(*parts: dict) -> dict:
    return {name: tensor.double() for part in parts for name, tensor in part.items()}


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("published")
    encoder = layout.write_mert_folder(root / "mert")
    heads = layout.write_apex_folder(root / "apex", "mert", layout.MERT_SMALL["hidden_size"], segment_sec=1)
    folder = save_conversion(convert_checkpoint(root / "mert", root / "apex"), root / "converted")
    return folder, as_double(encoder, heads)


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("sampling_rate", [44_100, 48_000, 32_000, 8_000])
@pytest.mark.parametrize("seconds", [0.4, 1.0, 2.3])
def test_every_stage_equals_the_restatement(
    small_checkpoint: tuple[Path, dict], tmp_path: Path, num_channels: int, sampling_rate: int, seconds: float
) -> None:
    folder, weights = small_checkpoint
    path = tmp_path / "song.wav"
    waveform = make_waveform(seconds, sampling_rate, num_channels=num_channels)
    soundfile.write(path, waveform.T, sampling_rate, subtype="FLOAT")
    check_every_stage(folder, weights, layout.MERT_SMALL, path, 24_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # the restatement takes float64 and its time
@pytest.mark.parametrize("seconds", [7.0, 30.0, 64.0])
def test_every_stage_equals_the_restatement_at_the_size_of_mert_95m(tmp_path: Path, seconds: float) -> None:
    encoder = layout.write_mert_folder(tmp_path / "mert", layout.MERT_95M)
    heads = layout.write_best_model(tmp_path / "best_model.pt", 768)
    folder = save_conversion(convert_checkpoint(tmp_path / "mert", tmp_path / "best_model.pt"), tmp_path / "converted")
    path = tmp_path / "song.wav"
    soundfile.write(path, make_waveform(seconds, 44_100, num_channels=2).T, 44_100, subtype="FLOAT")
    check_every_stage(folder, as_double(encoder, heads), layout.MERT_95M, path, 720_000)


def test_published_aggregator_is_what_seed_42_gives() -> None:
    torch.manual_seed(42)
    convolution = torch.nn.Conv1d(4, 1, kernel_size=1)
    assert convolution.weight.detach().flatten().tolist() == AGGREGATOR_WEIGHT
    assert convolution.bias.item() == AGGREGATOR_BIAS
