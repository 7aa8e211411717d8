"""Training of the whole model from audio."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import modeling_apex.training.encoder.start as start
import modeling_apex.training.loop as loop
from modeling_apex import ApexFeatureExtractor, ApexModel, load_audio, load_pipeline
from modeling_apex.checkpoints.published import PUBLISHED_AGGREGATOR_WEIGHT, read_encoder
from modeling_apex.corpus.song_source import open_song_source
from modeling_apex.corpus.waveform_store import open_waveform_store
from modeling_apex.inference.configuration_apex import ApexConfig
from modeling_apex.training.encoder.start import load_starting_model
from modeling_apex.training.encoder.task import EndToEndTask, freeze_unused_layers
from modeling_apex.training.processes import build_accelerator
from modeling_apex.training.task import TrainingInputs
from modeling_apex.training.train import train
from modeling_apex.training.trained_model import build_trained_model, describe_trained_model

import published_layout as layout
from song_folders import write_dataset

SIZES = {"train": 8, "validation": 4}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", SIZES, broken=("validation-song-1",))


@pytest.fixture
def task(dataset: Path, tmp_path: Path, tiny_model: ApexModel, quick: Callable) -> Callable[..., EndToEndTask]:
    def build(**differences: Any) -> EndToEndTask:
        arguments = quick(train_encoder=True, max_segments_per_song=2, batch_size=8, **differences)
        extractor = ApexFeatureExtractor.from_config(tiny_model.config)
        store = open_waveform_store(open_song_source(dataset), tmp_path / "cache", extractor)
        model = build_trained_model(tiny_model, arguments)
        return EndToEndTask(store, model, arguments, build_accelerator(arguments, tmp_path))

    return build


def test_decoded_songs_are_those_of_the_feature_extractor(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel
) -> None:

    extractor = ApexFeatureExtractor.from_config(tiny_model.config)
    source = open_song_source(dataset)
    store = open_waveform_store(source, tmp_path / "cache", extractor)
    assert [failure["id"] for failure in store.manifest["failures"]] == ["validation-song-1"]
    assert store.get_split("validation").list_values("id") == [f"validation-song-{index}" for index in (0, 2, 3)]
    split = store.get_split("train")
    for index, song in enumerate(source.iterate("train", 0, 8)):
        values = extractor(load_audio(song.audio), sampling_rate=24_000)["input_values"][0]
        stored = np.asarray(split.segments[split.offsets[index] : split.offsets[index + 1]], np.float32)
        assert stored == pytest.approx(values, abs=4e-3)


@pytest.mark.parametrize("mode", ["song", "segment"])
def test_every_trained_tensor_gets_a_gradient(task: Callable, mode: str) -> None:
    made = task(mode=mode)
    made.module.train()
    made.plan_epoch(0)
    sums, counts = made.compute_error_sums(made.module, 0)
    assert counts.tolist() == [8 if mode == "song" else 13] * 7  # songs of 1, 2 and 3 segments, at most 2 drawn
    made.loss(sums / counts, counts > 0).backward()
    for name, parameter in made.module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            # What is the same for all keys of an attention cancels in its softmax, and what is the same for all rows
            # of a batch cancels in its norm: such a gradient is rounding noise, or none.
            assert parameter.grad.abs().sum() > 0 or "k_proj.bias" in name or name == "aggregator.bias", name
        else:
            assert parameter.grad is None, name
            assert name.endswith(("masked_spec_embed", ".bias")), name


@pytest.mark.parametrize("mode", ["song", "segment"])
def test_processes_share_a_batch(task: Callable, mode: str) -> None:
    made = task(mode=mode)

    def share(index: int, num_processes: int) -> tuple:
        made.accelerator = SimpleNamespace(process_index=index, num_processes=num_processes, device="cpu")
        made.plan_epoch(1)
        return made.compute_error_sums(lambda *inputs: inputs, 0)

    (segments, rows, weights, labels, whole), counts = share(0, 1)
    (*firsts, first_labels, first), _ = share(0, 2)
    (*others, second), same_counts = share(1, 2)
    assert torch.equal(torch.cat([firsts[0], others[0]]), segments)
    assert torch.equal(torch.cat([firsts[1], others[1] + len(first_labels)]), rows)
    assert torch.equal(torch.cat([firsts[2], others[2]]), weights)
    assert torch.equal(torch.cat([first_labels, others[3]]), labels)
    assert (first.start, second.start, second.num_rows) == (0, len(first_labels), len(labels))
    assert first.seed == second.seed == whole.seed
    assert torch.equal(same_counts, counts)


def test_layers_beyond_the_last_chosen_one_are_frozen(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, quick: Callable
) -> None:
    tiny_model.config.layer_indices = [0, 1]
    tiny_model.requires_grad_(True)
    freeze_unused_layers(tiny_model)
    layers = tiny_model.encoder.encoder.layers
    assert [next(layer.parameters()).requires_grad for layer in layers] == [True, False, False]


def test_training_moves_the_encoder_and_resumes_bit_for_bit(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, quick: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model.config.encoder_config.hidden_dropout = 0.1
    arguments = quick(train_encoder=True, batch_size=4, num_epochs=3, encoder_learning_rate=1e-3)
    options = {"model": tiny_model, "cache_dir": tmp_path / "cache"}
    whole = train(dataset, tmp_path / "whole", arguments, **options)
    record = loop._record

    def record_and_die(*values: Any) -> None:
        record(*values)
        if values[-1]["epoch"] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_record", record_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "parts", arguments, **options)
    monkeypatch.undo()
    torch.manual_seed(4)
    parts = train(dataset, tmp_path / "parts", arguments, resume=True, **options)
    assert parts.history == whole.history
    first, second = (load_file(result.best / "model.safetensors") for result in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    trained = ApexModel.from_pretrained(whole.best).state_dict()
    before = tiny_model.state_dict()
    assert not torch.equal(trained["aggregator.weight"], before["aggregator.weight"])
    name = "encoder.feature_extractor.conv_layers.0.conv.weight"
    assert not torch.equal(trained[name], before[name])


def test_the_saved_model_scores_as_the_validation_says(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, quick: Callable
) -> None:
    result = train(dataset, tmp_path / "run", quick(train_encoder=True, batch_size=4, num_epochs=2), model=tiny_model)
    assert (tmp_path / "run-waveforms").is_dir()
    scorer = load_pipeline(result.best)
    songs = [song for song in open_song_source(dataset).iterate("validation", 0, 4) if song.id != "validation-song-1"]
    reports = [scorer(song.audio) for song in songs]
    for name, metrics in result.history[result.best_epoch]["validation"].items():
        errors = [report["scores"][name] - song.columns[name] for report, song in zip(reports, songs, strict=True)]
        assert np.mean(np.square(errors)) == pytest.approx(metrics["mse"], rel=0.02)  # float16 on disk
        assert 0 <= reports[0]["training_percentiles"][name] <= 100
    assert json.loads((tmp_path / "run" / "data.json").read_text())["songs"] == {"train": 8, "validation": 3}


def test_heads_alone_are_not_trained_on_a_dataset(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, quick: Callable
) -> None:
    with pytest.raises(FileNotFoundError, match="Make embeddings first: apex-music embed"):
        train(dataset, tmp_path / "run", quick(), model=tiny_model)
    with pytest.raises(TypeError, match=r"heads learn from a folder of embeddings, got a ParquetSongSource\. Embed"):
        train(open_song_source(dataset), tmp_path / "run", quick(), model=tiny_model)


def test_the_dataset_has_the_labels_that_it_trains_on(
    dataset: Path, tmp_path: Path, tiny_model: ApexModel, quick: Callable
) -> None:
    with pytest.raises(ValueError, match=r"`songs` names the dataset that labels of embeddings come from \(--songs\)"):
        train(dataset, tmp_path / "run", quick(train_encoder=True), model=tiny_model, songs=dataset)


@pytest.fixture
def mert(tmp_path: Path) -> Path:
    layout.write_mert_folder(tmp_path / "MERT-v1-95M")
    return tmp_path / "MERT-v1-95M"


def test_an_encoder_alone_is_a_start(mert: Path, quick: Callable) -> None:
    """MERT, in its published layout: its weights behind the published layer mix, and new heads."""
    arguments = quick(train_encoder=True, task="popularity")
    base = load_starting_model(mert, arguments)
    model = build_trained_model(base, arguments)
    published = read_encoder(mert).state_dict
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in published.items())
    assert state["aggregator.weight"].flatten().tolist() == pytest.approx(PUBLISHED_AGGREGATOR_WEIGHT)
    assert model.config.head_names == ["score_streams", "score_likes"]
    described = describe_trained_model(model.config, "run", arguments, {})
    assert described["encoder"]["source"] == "MERT-v1-95M"
    assert described["encoder"]["is_trained"]
    again = build_trained_model(load_starting_model(mert, arguments), arguments).state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state), "the same start for a run that is resumed"
    with pytest.raises(ValueError, match=r"needs a model that has heads, and .*MERT-v1-95M is an encoder alone"):
        load_starting_model(mert, quick(train_encoder=True, initial_heads="model"))


def test_weights_that_are_not_those_of_the_encoder(mert: Path, quick: Callable) -> None:
    weights = torch.load(mert / "pytorch_model.bin")
    weights.pop("encoder.layers.0.attention.k_proj.weight")
    torch.save(weights, mert / "pytorch_model.bin")
    message = r"the weights are not those that its config describes: encoder\.encoder\.layers\.0\.attention\.k"
    with pytest.raises(ValueError, match=message):
        load_starting_model(mert, quick(train_encoder=True))


def test_without_a_model_named_training_starts_from_mert(
    dataset: Path, tmp_path: Path, mert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from modeling_apex.cli import main

    words = ["train", str(dataset), "--output", str(tmp_path / "run"), "--train-encoder", "--report-to", "none"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "m-a-p/MERT-v1-95M: cannot get the encoder" in said
    assert "To work offline, run `hf download m-a-p/MERT-v1-95M` once while connected" in said
    monkeypatch.setattr(start, "ApexConfig", partial(ApexConfig, segment_seconds=0.2))  # half a minute takes minutes
    monkeypatch.setattr(start, "read_encoder", lambda name: read_encoder({start.DEFAULT_ENCODER: mert}[name]))
    assert main([*words, "--num-epochs", "1"]) == 0
    config = ApexModel.from_pretrained(tmp_path / "run" / "best").config
    assert config.provenance["encoder"]["source"] == "m-a-p/MERT-v1-95M"
    assert not config.freeze_encoder
    assert "at batch size 8" in capsys.readouterr().out


def test_a_dataset_that_is_not_there_is_said_before_a_model_is_fetched(tmp_path: Path, quick: Callable) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        train(tmp_path / "nowhere", tmp_path / "run", quick(train_encoder=True), model="no/such-model")


def test_a_built_dataset_is_no_folder_of_embeddings(
    dataset: Path, embeddings: Path, tmp_path: Path, quick: Callable
) -> None:
    """Both have a manifest.json; a builder's tells options and shards."""
    (dataset / "manifest.json").write_text(json.dumps({"builder": "training", "options": {}, "shards": []}))
    arguments = quick(train_encoder=True)
    assert TrainingInputs(dataset, tmp_path / "run", arguments).open_songs().splits == SIZES
    with pytest.raises(ValueError, match="a folder of embeddings, but `train_encoder` learns from audio"):
        TrainingInputs(embeddings, tmp_path / "run", arguments).open_songs()
