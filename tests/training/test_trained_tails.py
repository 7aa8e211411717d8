"""What a padded segment counts in training: as much as in use, whatever is trained and from what it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_apex import ApexFeatureExtractor, ApexModel, SpectrogramFusionModel, load_scorer
from modeling_apex.corpus.embed import embed_songs
from modeling_apex.corpus.embedding_store import open_embedding_store, weigh_song_embeddings
from modeling_apex.corpus.song_source import open_song_source
from modeling_apex.corpus.waveform_store import open_waveform_store
from modeling_apex.training.arguments import build_arguments
from modeling_apex.training.batches import average_segments, draw_segments
from modeling_apex.training.encoder.task import EndToEndTask
from modeling_apex.training.evaluate import predict_split
from modeling_apex.training.fusion.data import build_feature_rows, open_fusion_store
from modeling_apex.training.fusion.task import predict_stored_songs
from modeling_apex.training.heads.task import HeadsTask
from modeling_apex.training.processes import build_accelerator
from modeling_apex.training.train import train

from song_folders import write_dataset
from track_folders import SMALL, write_tracks

SIZES = {"train": 12, "validation": 6}  # songs of 0.05, 0.15 and 0.25 s in segments of 0.1 s


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", SIZES)


@pytest.fixture
def embedded(dataset: Path, tiny_model: ApexModel, tmp_path: Path) -> Path:
    return embed_songs(dataset, tmp_path / "embedded", tiny_model).folder


def score_files(model: str | Path, dataset: Path, split: str = "validation") -> np.ndarray:
    source = open_song_source(dataset)
    songs = [song.audio for song in source.iterate(split, 0, source.splits[split])]
    return np.array([list(report["scores"].values()) for report in load_scorer(model).score(songs)])


@pytest.mark.parametrize(("tail", "shares"), [("full", [1, 1, 1]), ("weighted", [1, 1, 0.5]), ("drop", [1, 1, 0])])
def test_song_embeddings_are_the_means_that_the_model_makes(
    embedded: Path, tmp_path: Path, tiny_model: ApexModel, tail: str, shares: list[float]
) -> None:
    tiny_model.config.tail, tiny_model.config.tail_seconds = tail, 0.06
    columns = tmp_path / "columns"
    opened = open_embedding_store(embedded, columns)
    split = weigh_song_embeddings(opened, tiny_model.config, columns).get_split("train")
    for song in range(split.num_songs):
        rows = split.segments[split.offsets[song] : split.offsets[song + 1]]
        weights = [1.0] if len(rows) == 1 else shares[-len(rows) :]
        expected = np.average(rows, axis=0, weights=weights)
        assert split.song_embeddings[song : song + 1][0] == pytest.approx(expected, abs=1e-6)
    plain = opened.get_split("train")
    assert np.array_equal(plain.song_embeddings[:], split.song_embeddings[:]) == (tail == "full")
    assert not (embedded / "columns").exists()  # what is only read stays as it is
    names = (path.name.partition("-")[2] for path in sorted(columns.iterdir()) if not path.name.startswith("."))
    assert [name for name in names if name != "audio"] == {
        "full": [""],
        "weighted": ["", "weighted"],
        "drop": ["", "drop-0.06-24000"],
    }[tail]


@pytest.mark.parametrize("mode", ["song", "segment"])
@pytest.mark.parametrize("tail", ["weighted", "drop"])
def test_heads_learn_and_score_by_their_tail(
    embedded: Path, dataset: Path, tiny_model: ApexModel, tmp_path: Path, quick: Callable, tail: str, mode: str
) -> None:
    tiny_model.config.tail_seconds = 0.06
    result = train(embedded, tmp_path / "run", quick(tail=tail, mode=mode), model=tiny_model)
    model = ApexModel.from_pretrained(result.best)
    assert (model.config.tail, model.config.tail_seconds) == (tail, 0.06)
    predicted = predict_split(model, open_embedding_store(embedded).get_split("validation"))
    assert predicted == pytest.approx(score_files(result.best, dataset), abs=1e-3)
    arguments = quick(tail=tail, mode=mode)
    store = weigh_song_embeddings(open_embedding_store(embedded), model.config)
    task = HeadsTask(store, model, arguments, build_accelerator(arguments, tmp_path))
    task.module.eval()
    assert task.predict("validation") == pytest.approx(predicted, abs=1e-3)
    assert task.num_rows == (12 if mode == "song" else {"weighted": 24, "drop": 16}[tail])
    assert sum(len(task.load_batch(batch)[0]) for batch in range(task.plan_epoch(0))) == task.num_rows


def test_the_improved_preset_weighs_and_the_published_does_not() -> None:
    tails = {preset: build_arguments(preset).tail for preset in ("published", "improved", "fusion")}
    assert tails == {"published": "full", "improved": "weighted", "fusion": "full"}
    with pytest.raises(ValueError, match="`tail` must be one of full, weighted, drop, got 'half'"):
        build_arguments(tail="half")


@pytest.mark.parametrize("mode", ["song", "segment"])
def test_an_encoder_learns_and_scores_by_its_tail(
    dataset: Path, tiny_model: ApexModel, tmp_path: Path, quick: Callable, mode: str
) -> None:
    arguments = quick(train_encoder=True, batch_size=4, num_epochs=1, tail="weighted", mode=mode)
    options: dict[str, Any] = {"model": tiny_model, "cache_dir": tmp_path / "cache"}
    result = train(dataset, tmp_path / "run", arguments, **options)
    model = ApexModel.from_pretrained(result.best)
    extractor = ApexFeatureExtractor.from_config(model.config)
    store = open_waveform_store(open_song_source(dataset), tmp_path / "cache", extractor, config=model.config)
    task = EndToEndTask(store, model, arguments, build_accelerator(arguments, tmp_path))
    task.module.eval()
    scores = score_files(result.best, dataset)
    assert task.predict("validation") == pytest.approx(scores, rel=2e-2)  # stored waveforms are in float16
    assert store.get_split("train").num_real_samples.tolist()[:4] == [1200, 2400, 1200, 2400]


def test_waveforms_without_lengths_serve_full_tails_alone(
    dataset: Path, tiny_model: ApexModel, tmp_path: Path
) -> None:
    extractor = ApexFeatureExtractor.from_config(tiny_model.config)
    opened = open_waveform_store(open_song_source(dataset), tmp_path / "cache", extractor)
    for path in opened.folder.glob("*.num_real_samples.npy"):  # as they were before there was a choice
        path.unlink()
    old = open_waveform_store(open_song_source(dataset), tmp_path / "cache", extractor).get_split("train")
    assert old.weigh_segments(tiny_model.config).tolist() == [1.0] * 24
    tiny_model.config.tail = "weighted"
    with pytest.raises(ValueError, match="'train' were opened without the lengths of their segments"):
        old.weigh_segments(tiny_model.config)
    new = open_waveform_store(open_song_source(dataset), tmp_path / "cache", extractor, config=tiny_model.config)
    assert new.get_split("train").weigh_segments(tiny_model.config).tolist()[:3] == [1.0, 1.0, 0.5]


def test_a_fusion_model_learns_and_scores_by_its_tail(tmp_path: Path) -> None:
    tracks = write_tracks(tmp_path / "tracks", {"train": 12, "validation": 6})
    fields = {"num_epochs": 1, "batch_size": 4, "segment_seconds": 0.1, "report_to": "none", "branches": "audio"}
    arguments = build_arguments("fusion", tail="weighted", **fields)
    result = train(tracks, tmp_path / "run", arguments, config=SMALL, cache_dir=tmp_path / "cache")
    model = SpectrogramFusionModel.from_pretrained(result.best).eval()
    assert model.config.tail == "weighted"
    store = open_fusion_store(open_song_source(tracks), tmp_path / "cache", model.config)
    split = store.get_split("validation")
    stored = predict_stored_songs(model, split, build_feature_rows(split, model.config.features))
    assert stored == pytest.approx(score_files(result.best, tracks), rel=1e-2)
    model.config.tail = "full"
    assert not np.allclose(stored, predict_stored_songs(model, split, np.zeros((6, 0), np.float32)), rtol=1e-6)


def test_what_counts_nothing_is_not_drawn_and_what_counts_less_is_averaged_so() -> None:
    generator = np.random.default_rng(0)
    weights = np.array([1, 1, 0, 1, 0.5], np.float32)
    drawn = draw_segments(np.array([0, 3, 5]), np.array([0, 1]), 3, generator, weights)
    assert [rows.tolist() for rows in drawn] == [[0, 1], [3, 4]]
    rows = torch.tensor([[2.0], [4.0], [8.0]])
    mean = average_segments(rows, torch.tensor([0, 1, 1]), 2, torch.tensor([1.0, 1.0, 0.5]))
    assert mean.tolist() == [[2.0], [pytest.approx(16 / 3)]]
