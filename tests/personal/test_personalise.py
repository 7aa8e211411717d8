"""`apex-music personalise`: what it learns from ratings and votes, what it says of itself, and what it refuses."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_apex import ApexModel, load_pipeline, load_scorer
from modeling_apex.cli import main
from modeling_apex.corpus.embedded_songs import EmbeddedSongs
from modeling_apex.corpus.embedding_manifest import build_identity
from modeling_apex.engines.plain_folder import PlainModel
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.loading import load_model
from modeling_apex.personal.fitting import (
    PENALTIES,
    TasteData,
    choose_penalty,
    fit_taste,
    predict_held_out,
)
from modeling_apex.personal.making import personalise
from modeling_apex.rewards import SongReward
from modeling_apex.statistics.result_schema import SCHEMAS

from result_schemas import list_violations
from small_model import build_small_model
from song_folders import HEAD_NAMES, make_wav, write_embeddings

NUM_SONGS = 160
Rows = Sequence[Sequence[object]]


@pytest.fixture(scope="module")
def model() -> ApexModel:
    return build_small_model()


@pytest.fixture(scope="module")
def stored(model: ApexModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, and the embeddings of songs."""
    folder = tmp_path_factory.mktemp("stored")
    model.save_pretrained(folder / "model")
    ApexFeatureExtractor.from_config(model.config).save_pretrained(folder / "model")
    write_embeddings(
        folder / "embeddings", {"train": NUM_SONGS}, build_identity(model, dtype="float32", resampler="sinc")
    )
    return folder


@pytest.fixture(scope="module")
def tastes(stored: Path, model: ApexModel) -> dict[str, np.ndarray]:
    """Strengths of the songs by a taste that no score of the model has: one direction of its trunk."""
    reports = list(EmbeddedSongs(stored / "embeddings", model).score(load_scorer(model), return_embedding=True))
    with torch.no_grad():
        hidden = model.shared(torch.tensor([report["embedding"] for report in reports])).numpy()
    direction = np.random.default_rng(5).normal(size=hidden.shape[1])
    strengths = (hidden - hidden.mean(0)) / hidden.std(0) @ direction
    taste = (strengths - strengths.mean()) / strengths.std()
    return {"taste": taste, "noise": np.random.default_rng(6).normal(size=len(taste))}


def write_table(path: Path, header: Sequence[str], rows: Rows) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_ratings(path: Path, strengths: np.ndarray) -> Path:
    ratings = np.clip(np.round(3 + strengths), 1, 5).astype(int)
    return write_table(path, ["id", "rating"], [[f"train-{row}.wav", rating] for row, rating in enumerate(ratings)])


def write_pairs(path: Path, strengths: np.ndarray, pairs: np.ndarray) -> Path:
    rows = [[f"train-{a}", f"train-{b}", "A" if strengths[a] > strengths[b] else "B"] for a, b in pairs]
    return write_table(path, ["song_a", "song_b", "preference"], rows)


def run(table: Path, stored: Path, output: Path, *words: str) -> int:
    places = ["--model", str(stored / "model"), "--embeddings", str(stored / "embeddings"), "--num-draws", "200"]
    return main(["personalise", str(table), *places, "--output", str(output), *words])


def test_ratings_become_a_head_that_beats_the_scores_of_everyone(
    stored: Path, tastes: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = write_ratings(tmp_path / "ratings.csv", tastes["taste"])
    assert run(table, stored, tmp_path / "mine", "--range", "1", "5") == 0
    said = capsys.readouterr().out
    assert "The personal head predicts this listener's judgements better than each of the 7 other scores." in said
    assert "160 judgements of 160 songs; 5 folds by song" in said
    assert "percentiles of all scores are ranks among 160 songs that the listener judged\n" in said
    results = json.loads((tmp_path / "mine" / "personal.json").read_text())
    assert list_violations(results, SCHEMAS["personal"]) == []
    assert results["personal"]["estimate"] > 0.85
    assert set(results["differences"]) == set(results["generic"]) == set(HEAD_NAMES)
    assert all(found["low"] > 0 for found in results["differences"].values())
    assert results["resampled"] == {"unit": "song", "num_units": {"song": NUM_SONGS}}


def test_the_new_model_loads_through_every_door_and_keeps_its_other_scores(
    stored: Path, tastes: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = write_ratings(tmp_path / "ratings.csv", tastes["taste"])
    assert run(table, stored, tmp_path / "mine") == 0
    songs = []
    for seed in range(3):
        songs.append(str(tmp_path / f"{seed}.wav"))
        Path(songs[-1]).write_bytes(make_wav(seed, 0.3))
    before = list(load_scorer(stored / "model").score(songs))
    scorer = load_scorer(tmp_path / "mine")
    assert type(scorer.model) is PlainModel
    reports = list(scorer.score(songs))
    for report, other in zip(reports, before, strict=True):
        assert {name: report["scores"][name] for name in HEAD_NAMES} == other["scores"]
        assert 1 <= report["scores"]["personal"] <= 5
        assert (report["groups"]["personal"], report["scales"]["personal"]) == ("personal", "rating")
        assert set(report["intervals"]) == {"personal"}
    assert load_pipeline(tmp_path / "mine")(songs[0])["scores"] == pytest.approx(reports[0]["scores"], abs=1e-6)
    reward = SongReward(tmp_path / "mine", score="personal")
    waveform = np.zeros(2400, np.float32) + np.random.default_rng(0).normal(size=2400).astype(np.float32) * 0.1
    assert 1 <= reward(waveform, 24_000).tolist()[0] <= 5
    words = ["select", *songs, "--model", str(tmp_path / "mine"), "--by", "personal", "--output", str(tmp_path / "b")]
    assert main(words) == 0
    chosen = json.loads((tmp_path / "b" / "selected.jsonl").read_text())
    assert chosen["key"] == max(report["scores"]["personal"] for report in reports)
    again = ["--model", str(tmp_path / "mine"), "--embeddings", str(stored / "embeddings")]
    assert main(["personalise", str(table), *again, "--output", str(tmp_path / "twice")]) == 2
    assert "the model has a score 'personal' already. Name the new one by --head" in capsys.readouterr().err
    fewer = write_ratings(tmp_path / "fewer.csv", tastes["taste"][:100])
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    config["reference"]["name"] += "\nwritten: elsewhere"  # a stranger's model
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    assert main(["personalise", str(fewer), *again, "--output", str(tmp_path / "twice"), "--head", "second"]) == 0
    replaced = "among 100 songs that the listener judged, no longer among 160 songs that the listener judged"
    said = capsys.readouterr().out
    assert replaced in said
    assert "\nwritten: elsewhere" not in said


def test_the_head_is_the_line_that_was_fitted(stored: Path, tastes: dict, model: ApexModel, tmp_path: Path) -> None:
    """In the middle of the range a rating keeps its unit; the order is that of the fit everywhere."""
    table = write_ratings(tmp_path / "ratings.csv", tastes["taste"])
    options = {"model": stored / "model", "num_draws": 20, "score_range": (-100.0, 106.0)}
    results = personalise(table, stored / "embeddings", tmp_path / "mine", **options)
    built = load_model(tmp_path / "mine")
    reports = list(EmbeddedSongs(stored / "embeddings", built).score(load_scorer(built), return_embedding=True))
    with torch.no_grad():
        hidden = model.shared(torch.tensor([report["embedding"] for report in reports])).double().numpy()
    rows = np.arange(NUM_SONGS)[:, None]
    ratings = np.clip(np.round(3 + tastes["taste"]), 1, 5)
    weights, offsets = fit_taste(TasteData(hidden, rows, ratings, rows), np.array([results["penalty"]]))
    wanted = hidden @ weights[0] + offsets[0]
    assert [report["scores"]["personal"] for report in reports] == pytest.approx(wanted, abs=0.02)


def test_votes_become_chances(stored: Path, tastes: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pairs = np.random.default_rng(0).permutation(NUM_SONGS).reshape(-1, 2)
    table = write_pairs(tmp_path / "pairs.csv", tastes["taste"], pairs)
    assert run(table, stored, tmp_path / "mine", "--head", "mine") == 0
    assert "5 folds by pairs that share a song" in capsys.readouterr().out
    results = json.loads((tmp_path / "mine" / "personal.json").read_text())
    assert (results["metric"], results["head"]["scale"]) == ("accuracy", "probability")
    assert results["personal"]["estimate"] > 0.75
    assert results["personal"]["low"] > 0.6
    assert set(next(load_model(tmp_path / "mine").config.heads[i] for i in (-1,)).values()) >= {0.0, 1.0, "mine"}


def test_votes_among_few_songs_are_held_out_by_song(stored: Path, tastes: dict, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    pairs = np.unique([sorted(generator.choice(25, 2, replace=False)) for _ in range(140)], axis=0)
    table = write_pairs(tmp_path / "pairs.csv", tastes["taste"], pairs)
    results = personalise(table, stored / "embeddings", tmp_path / "mine", model=stored / "model", num_draws=50)
    assert results["folds"]["of"] == "song"
    assert results["resampled"]["unit"] == "second song and first song"


def test_what_cannot_be_learnt_is_not_claimed(
    stored: Path, tastes: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = write_ratings(tmp_path / "ratings.csv", tastes["noise"])
    assert run(table, stored, tmp_path / "mine") == 0
    assert "The personal head is not shown to be better than score_streams, " in capsys.readouterr().out
    results = json.loads((tmp_path / "mine" / "personal.json").read_text())
    assert results["personal"]["low"] < 0.1
    assert results["not_beaten"]


def test_no_song_of_a_judgement_is_learnt_from_before_it_is_told() -> None:
    """Features that name the song tell nothing of it held out, however well they tell it learnt by heart."""
    generator = np.random.default_rng(0)
    rows = np.repeat(np.arange(20), 3)[:, None]
    data = TasteData(np.eye(20), rows, generator.normal(size=20)[rows[:, 0]], rows)
    weights, offsets = fit_taste(data, np.array([1e-6]))
    by_heart = data.predict(weights @ data.features.T + offsets[:, None])[0]
    assert np.corrcoef(by_heart, data.values)[0, 1] > 0.99
    held_out = predict_held_out(data, np.array([1e-6]), 5, 0)[0]
    assert np.corrcoef(held_out, data.values)[0, 1] < 0.2
    pairs = np.array([[a, b] for a in range(12) for b in range(a)])
    votes = TasteData(np.eye(12), pairs, (generator.random(len(pairs)) > 0.5).astype(float), pairs)
    strengths = np.abs(predict_held_out(votes, np.array([1e-3]), 4, 0)[0])
    assert strengths.max() < 1e-9
    assert choose_penalty(data, PENALTIES, 5, 0) == PENALTIES[-1]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            ["song", "rating"],
            [[f"train-{n}", n % 5] for n in range(19)],
            r"judgements \(19\) are too few .* 20",
        ),
        (["song", "rating"], [[f"train-{n}", 3] for n in range(30)], "all ratings are 3, from which no taste"),
        (["song", "rating"], [["train-1", 1], ["train-1", 2]], r"ratings\.csv:3: train-1 already in .*csv:2"),
        (["song", "rating"], [["train-1", "good"]], "rating is 'good', and a finite number is needed"),
        (["song", "stars"], [["train-1", 4]], "has the columns song, stars. Expected a column 'rating'"),
        (["song", "rating"], [[f"other-{n}", n % 5] for n in range(30)], "none of its 30 rows is about one of the"),
        (["song", "rating"], [["", 4]], "song must name a song, got ''"),
        (
            ["song", "rating"],
            [[f"train-{n}" if n < 15 else f"other-{n}", n % 5] for n in range(30)],
            "only 15 of 30 judgements are about songs that have embeddings, and 20 are needed",
        ),
        (
            ["song", "rating", "group"],
            [[f"train-{n}", n % 5, n % 4] for n in range(40)],
            "come down to 4 independent groups .group., and 10 are needed",
        ),
        (["song_a", "song_b", "preference"], [["train-1", "train-1", "A"]], "must name two different songs"),
        (["song_a", "song_b", "preference"], [["train-1", "train-2", "C"]], "preference is 'C', expected A, B, TIE"),
        (
            ["song_a", "song_b", "preference"],
            [["train-1", "train-2", "A"], ["train-2", "train-1", "A"]],
            "train-2 and train-1 already in",
        ),
        (
            ["song_a", "song_b", "preference"],
            [[f"train-{n}", f"train-{n + 40}", "TIE"] for n in range(30)],
            "all votes are ties",
        ),
    ],
)
def test_refusals(
    header: list, rows: Rows, message: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = write_table(tmp_path / "ratings.csv", header, rows)
    assert run(table, stored, tmp_path / "mine") == 2
    said = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        personalise(table, stored / "embeddings", tmp_path / "mine", model=stored / "model")
    assert "Traceback" not in said
    assert not (tmp_path / "mine").exists()


def test_refuses_what_it_cannot_carry(
    stored: Path, tastes: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = write_ratings(tmp_path / "ratings.csv", tastes["taste"])
    changes = {"narrow": {"branch_dims": [1]}, "segments": {"prediction_level": "segment"}}
    messages = {"narrow": "branches are 1 wide at their narrowest", "segments": "scores each segment on its own"}
    for name, change in changes.items():
        other = build_small_model()
        other = ApexModel(type(other.config).from_dict(other.config.to_dict() | change))
        other.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=messages[name]):
            personalise(table, stored / "embeddings", tmp_path / "mine", model=tmp_path / name)
    for words, message in (
        (["--range", "2", "5"], "must hold the ratings of .*ratings.csv, which run from 1 to 5"),
        (["--head", "my taste"], "--head 'my taste': the name of a score must be a plain word"),
    ):
        assert run(table, stored, tmp_path / "mine", *words) == 2
        assert capsys.readouterr().err
        options = {"score_range": (2.0, 5.0)} if "--range" in words else {"head_name": "my taste"}
        with pytest.raises(ValueError, match=message):
            personalise(table, stored / "embeddings", tmp_path / "mine", model=stored / "model", **options)
    pairs = write_pairs(tmp_path / "pairs.csv", tastes["taste"], np.arange(NUM_SONGS).reshape(-1, 2))
    with pytest.raises(ValueError, match="--range is for ratings; a head fitted to votes gives probabilities"):
        personalise(pairs, stored / "embeddings", tmp_path / "m", model=stored / "model", score_range=(0.0, 1.0))
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv: no such file\. Name a table of ratings"):
        personalise(tmp_path / "nothing.csv", stored / "embeddings", tmp_path / "mine", model=stored / "model")


def test_songs_are_embedded_on_the_way(
    stored: Path, tmp_path: Path, song_file: Callable, capsys: pytest.CaptureFixture
) -> None:
    for seed in range(24):
        song_file(f"songs/{seed}.wav", 0.12, seed=seed)
    (tmp_path / "songs").mkdir(exist_ok=True)
    folder = next(path.parent for path in tmp_path.rglob("0.wav"))
    shutil.copy(__file__, folder / "broken.wav")
    table = write_table(tmp_path / "r.csv", ["song", "rating"], [[f"{seed}.wav", seed % 4] for seed in range(24)])
    words = ["personalise", str(table), "--songs", str(folder), "--model", str(stored / "model"), "--num-draws", "20"]
    assert main([*words, "--output", str(tmp_path / "mine")]) == 1
    assert "not embedded: broken" in capsys.readouterr().err
    assert (tmp_path / "mine" / "model.safetensors").is_file()
    assert (tmp_path / "mine-embeddings" / "manifest.json").is_file()
    assert main([*words, "--output", str(tmp_path / "mine")]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
