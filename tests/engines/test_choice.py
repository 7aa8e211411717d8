"""The door to engines: exact ones run anywhere, coarse ones where they were measured, and nothing falls back."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from modeling_apex import ApexModel, load_pipeline, load_scorer
from modeling_apex.engines import check_engine, choice
from modeling_apex.engines.choice import build_engine_key, choose_encoder, find_engine_folder
from modeling_apex.engines.encoder_engine import EncoderEngine
from modeling_apex.engines.encoder_graph import load_exported_model
from modeling_apex.engines.model_hashes import compute_fingerprint, compute_scores_hash, compute_weights_hash
from modeling_apex.engines.validation import NotValidatedError, load_records, save_record
from modeling_apex.inference.modeling_apex import pool_hidden_states


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a cache of its own."""

    def find_place(library_name: str, namespace: str, subfolder: str) -> Path:
        return tmp_path / "cache" / subfolder

    monkeypatch.setattr(choice, "cached_assets_path", find_place)


def score(model: ApexModel) -> torch.Tensor:
    values = torch.randn(2, 3, 2400, generator=torch.Generator().manual_seed(5))
    return model(input_values=values).scores


def accept(folder: Path, key: dict, change: float = 0.001) -> None:
    """Store a record as a validation would."""
    save_record(
        folder,
        {
            "key": key,
            "largest_change": {"coherence": change},
            "ranges": {"coherence": 4.0},
            "reference": "torch float32",
            "speed_ratio": 2.0,
            "num_songs": 3,
            "tolerance": 0.01,
            "is_within_tolerance": change <= 0.04,
        },
    )


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_exported_model_scores_as_the_checkpoint(
    engine: str, request: pytest.FixtureRequest, tiny_model: ApexModel
) -> None:
    exported = load_exported_model(request.getfixturevalue(f"{engine}_folder"))
    exported.encoder_engine = choose_encoder(exported, engine)
    assert torch.allclose(score(exported), score(tiny_model), rtol=1e-5)
    assert exported.encoder_engine.describe() == f"engine {engine}, float32: equal to the default path within rounding"


def test_a_model_is_exported_to_the_cache_once(tiny_model: ApexModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = score(tiny_model)
    tiny_model.encoder_engine = choose_encoder(tiny_model, "openvino")
    assert torch.allclose(score(tiny_model), expected, rtol=1e-5)
    folder = find_engine_folder(compute_fingerprint(tiny_model), "openvino")
    assert (folder / "encoder.xml").is_file()
    monkeypatch.setattr(choice, "export_engine", None)
    monkeypatch.setattr(choice, "measure_probe_error", None)  # the probe was passed here before
    assert isinstance(choose_encoder(tiny_model, "openvino"), EncoderEngine)
    with torch.no_grad():
        tiny_model.aggregator.bias.add_(1)
    assert find_engine_folder(compute_fingerprint(tiny_model), "openvino") != folder, "other weights, other graph"


def test_a_faster_process_wins_and_a_failed_export_shows(
    tiny_model: ApexModel, openvino_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_race(model: ApexModel, folder: Path, engine: str) -> None:
        shutil.copytree(openvino_folder, folder)
        raise FileExistsError("the other process was faster")

    def fill_disk(model: ApexModel, folder: Path, engine: str) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(choice, "export_engine", fill_disk)
    with pytest.raises(OSError, match="no space left"):
        choose_encoder(tiny_model, "openvino")
    monkeypatch.setattr(choice, "export_engine", lose_race)
    assert isinstance(choose_encoder(tiny_model, "openvino"), EncoderEngine)


def test_a_coarse_precision_runs_only_with_its_record(
    onnx_folder: Path, tmp_path: Path, tiny_model: ApexModel
) -> None:
    folder = shutil.copytree(onnx_folder, tmp_path / "exported")
    model = load_exported_model(folder)
    with pytest.raises(NotValidatedError, match="the engine onnx in int8 was never validated") as refusal:
        choose_encoder(model, "onnx", "int8")
    assert f"apex-music validate SONG... --model {folder} --engine onnx --precision int8" in str(refusal.value)
    key = build_engine_key(model, folder, "onnx", "int8")
    accept(folder, key)
    engine = choose_encoder(model, "onnx", "int8")
    assert engine is not None
    assert engine.describe() == (
        "engine onnx, int8: 2.00 times the speed of torch float32; largest change of a score 0.001 (coherence, 0.03% "
        "of its range) on 3 songs"
    )
    model.encoder_engine = engine
    difference = (score(model) - score(tiny_model)).abs().max()
    assert 0 < difference < 5
    accept(folder, key, change=0.4)
    with pytest.raises(NotValidatedError, match=r"failed its validation: .* 10\.00% of its range\).* --tolerance T"):
        choose_encoder(model, "onnx", "int8")
    for name, other in (("library", "onnxruntime 0.1"), ("hardware", "abacus"), ("fingerprint", "another model")):
        (folder / "validation.json").unlink()
        accept(folder, {**key, name: other})
        with pytest.raises(NotValidatedError, match="was never validated"):
            choose_encoder(model, "onnx", "int8")


def test_torch_in_bf16_needs_its_record_too(tiny_model: ApexModel) -> None:
    expected = score(tiny_model)
    with pytest.raises(NotValidatedError, match="the engine torch in bf16 was never validated"):
        choose_encoder(tiny_model, "torch", "bf16")
    folder = find_engine_folder(compute_fingerprint(tiny_model), "torch")
    accept(folder, build_engine_key(tiny_model, folder, "torch", "bf16"))
    tiny_model.encoder_engine = choose_encoder(tiny_model, "torch", "bf16")
    assert 0 < (score(tiny_model) - expected).abs().max() < 5
    assert tiny_model.encoder.dtype == torch.float32, "the model itself keeps its precision"
    with torch.no_grad():
        tiny_model.aggregator.bias.add_(1)
    with pytest.raises(NotValidatedError, match="was never validated"):  # the record is of other weights
        choose_encoder(tiny_model, "torch", "bf16")


def test_the_default_path_is_chosen_for_the_weights_that_there_are(tiny_model: ApexModel) -> None:
    values = torch.randn(2, 2400, generator=torch.Generator().manual_seed(5))
    packed = choose_encoder(tiny_model)
    assert packed is not None
    kept = tiny_model._arranged_encoders.get(tiny_model.encoder)
    choose_encoder(tiny_model)
    assert tiny_model._arranged_encoders.get(tiny_model.encoder) is kept, "packed once"
    expected = pool_hidden_states(tiny_model.encoder, values, tiny_model.config.layer_indices)
    assert torch.allclose(packed(values), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        next(tiny_model.encoder.parameters()).add_(1)
    choose_encoder(tiny_model)
    assert tiny_model._arranged_encoders.get(tiny_model.encoder) is not kept, "packed anew for other weights"
    assert choose_encoder(tiny_model.train().to("meta")) is None, "no CPU"
    tiny_model.config.freeze_encoder = False
    assert choose_encoder(ApexModel(tiny_model.config).train()) is None, "an encoder in training"


def test_float32_that_differs_is_refused(
    openvino_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: ApexModel
) -> None:
    folder = shutil.copytree(openvino_folder, tmp_path / "exported")
    (folder / "validation.json").unlink(missing_ok=True)
    monkeypatch.setattr(choice, "measure_probe_error", lambda engine, folder: 3e-3)
    with pytest.raises(RuntimeError, match=r"the engine openvino differs from torch by a relative 3\.0e-03"):
        choose_encoder(load_exported_model(folder), "openvino")
    assert load_records(folder) == []


def test_a_folder_that_cannot_be_written_is_checked_every_time(
    openvino_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, record: dict) -> None:
        raise PermissionError("read-only")

    folder = shutil.copytree(openvino_folder, tmp_path / "exported")
    (folder / "validation.json").unlink(missing_ok=True)
    monkeypatch.setattr(choice, "save_record", refuse)
    assert isinstance(choose_encoder(load_exported_model(folder), "openvino"), EncoderEngine)


def test_what_does_not_fit_is_refused(onnx_folder: Path, tmp_path: Path, tiny_model: ApexModel) -> None:
    with pytest.raises(ValueError, match="`engine` must be one of torch, onnx, openvino, got 'tensorrt'"):
        check_engine("tensorrt", "float32")
    with pytest.raises(ValueError, match="`precision` must be one of float32, int8 for the engine 'onnx', got 'bf16'"):
        choose_encoder(tiny_model, "onnx", "bf16")
    with pytest.raises(ValueError, match="`compile` is for the engine 'torch'; 'onnx' compiles its graph by itself"):
        choose_encoder(tiny_model, "onnx", compile=True)
    with pytest.raises(ValueError, match="'tf32' is a mode of CUDA devices, and this model is on cpu"):
        choose_encoder(tiny_model, "torch", "tf32")
    exported = load_exported_model(onnx_folder)
    with pytest.raises(ValueError, match="is an export for the engine onnx, not openvino"):
        choose_encoder(exported, "openvino")
    folder = shutil.copytree(onnx_folder, tmp_path / "float32 only")
    (folder / "encoder_int8.onnx").unlink()
    with pytest.raises(
        ValueError, match=r"holds no graph for int8\. Export the checkpoint again with --precision int8"
    ):
        choose_encoder(load_exported_model(folder), "onnx", "int8")
    with pytest.raises(ValueError, match="int8 for OpenVINO is calibrated on songs"):
        choose_encoder(tiny_model, "openvino", "int8")
    tiny_model.encoder.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"engines start from a float32 model, and this encoder is torch\.bfloat16"):
        choose_encoder(tiny_model, "openvino")
    with pytest.raises(ValueError, match="the engine openvino runs on the CPU, and this model is on meta"):
        choose_encoder(ApexModel(tiny_model.config).to("meta"), "openvino")


def test_pipeline_takes_engines(
    onnx_folder: Path, tiny_folder: Path, song_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = str(song_file(seconds=0.35))
    expected = load_pipeline(tiny_folder)(song, return_timeline=True)
    report = load_pipeline(onnx_folder, engine="onnx", batch_size=3)(song, return_timeline=True)
    assert report["scores"] == pytest.approx(expected["scores"], rel=1e-5, abs=1e-6)
    assert [segment["scores"] for segment in report["segments"]] == [
        pytest.approx(segment["scores"], rel=1e-5, abs=1e-6) for segment in expected["segments"]
    ]
    with pytest.raises(ValueError, match=r"is an export for the engine onnx, not torch\. Pass engine='onnx'"):
        load_pipeline(onnx_folder)
    with pytest.raises(ValueError, match="`dtype` 'bfloat16' is for the default path; with an engine, name a"):
        load_pipeline(onnx_folder, engine="onnx", dtype="bfloat16")
    with pytest.raises(NotValidatedError):
        load_pipeline(tiny_folder, precision="bf16")
    scorer = load_pipeline(tiny_folder, precision="bf16", require_validation=False)
    assert scorer.model.encoder_engine.describe() == "engine torch, bf16: not validated"


def test_an_export_is_known_by_the_weights_it_was_made_from(onnx_folder: Path, tiny_model: ApexModel) -> None:
    assert compute_weights_hash(load_exported_model(onnx_folder)) == compute_weights_hash(tiny_model)
    assert json.loads((onnx_folder / "engine.json").read_text())["fingerprint"] == compute_fingerprint(tiny_model)
    exported = load_scorer(onnx_folder, engine="onnx")
    assert compute_scores_hash(exported.model) == compute_scores_hash(load_scorer(tiny_model).model)
