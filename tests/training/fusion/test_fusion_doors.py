"""A spectrogram-fusion model through the doors that any model has: pipeline, report, export, command line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Audio, Dataset
from transformers import pipeline

from modeling_apex import ApexModel, SpectrogramFusionModel, flatten_reports, load_audio, load_pipeline, rank_reports
from modeling_apex.checkpoints.export import build_short_card, export_model, list_code
from modeling_apex.cli import main
from modeling_apex.corpus.feature_table import FeatureTable
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.loading import load_apex_model, load_model

from fusion_models import build_fusion_model
from strangers import run_elsewhere

SongFile = Callable[..., Path]
FEATURES = {"genre": "pop", "tempo": 128.0, "play_count": 1e5}


@pytest.fixture
def fusion_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "fusion-model"
    build_fusion_model().save_pretrained(folder)
    return folder


def values(report: dict) -> np.ndarray:
    return np.array(list(report["scores"].values()))


def test_three_doors_give_one_answer(fusion_folder: Path, song_file: SongFile) -> None:
    path = str(song_file(seconds=0.35))
    model = load_model(fusion_folder).eval()
    inputs = ApexFeatureExtractor.from_config(model.config)(
        load_audio(path), sampling_rate=24_000, return_tensors="pt"
    )
    by_hand = model(**inputs, features=model.encode_features([FEATURES])).scores[0].detach().numpy()
    song = {"audio": path, "features": FEATURES}
    by_task = pipeline("apex-popularity", model=str(fusion_folder))(song)
    np.testing.assert_allclose(values(by_task), by_hand, rtol=1e-5)
    np.testing.assert_array_equal(values(load_pipeline(fusion_folder)(song)), values(by_task))
    assert by_task["song"] == path
    assert by_task["features"] == {
        "given": ["genre", "tempo", "play_count"],
        "missing": [],
        "leaking": ["play_count"],
    }
    assert by_task["warnings"] == []
    assert by_task["percentiles"] == {}, "popularity as a table states it is no percentile"


def test_an_audio_only_score_works_and_is_marked(fusion_folder: Path, song_file: SongFile) -> None:
    scorer, path = load_pipeline(fusion_folder), str(song_file(seconds=0.35))
    report = scorer(path)
    assert report["warnings"] == ["scored from the audio alone: no track features were given"]
    assert report["features"]["missing"] == ["genre", "tempo", "play_count"]
    partly = scorer({"audio": path, "features": {"genre": "pop"}})
    assert partly["warnings"] == []
    assert partly["features"]["given"] == ["genre"]
    assert not np.allclose(values(report), values(partly))
    nothing = scorer({"audio": path, "features": {}})
    np.testing.assert_array_equal(values(nothing), values(report))
    assert json.loads(json.dumps(report)) == report


def test_a_model_that_hears_nothing_says_so(song_file: SongFile) -> None:
    scorer = load_pipeline(build_fusion_model(branches="features"))
    assert scorer(str(song_file()))["warnings"] == [
        "no track features were given, and this model hears no audio: its scores say nothing about the song"
    ]
    report = scorer({"audio": str(song_file()), "features": FEATURES})
    assert report["warnings"] == []


def test_arrays_and_rows_of_a_dataset_carry_features(fusion_folder: Path, song_file: SongFile) -> None:
    scorer, path = load_pipeline(fusion_folder), song_file(seconds=0.3)
    expected = values(scorer({"audio": str(path), "features": {"genre": "pop", "tempo": 128.0}}))
    array = {"array": load_audio(path), "sampling_rate": 24_000, "features": {"genre": "pop", "tempo": 128.0}}
    np.testing.assert_allclose(values(scorer(array)), expected, rtol=1e-5)
    table = {"id": ["a"], "audio": [str(path)], "genre": ["pop"], "tempo": [128.0], "title": ["unused"]}
    rows = Dataset.from_dict(table).cast_column("audio", Audio())
    report = next(iter(scorer(rows)))
    assert report["song"] == "a"
    np.testing.assert_allclose(values(report), expected, rtol=1e-5)
    assert report["features"]["missing"] == ["play_count"]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_company_changes_nothing(fusion_folder: Path, song_file: SongFile, batch_size: int) -> None:
    scorer = load_pipeline(fusion_folder)
    songs = [
        {"audio": str(song_file(f"{row}.wav", 0.07 + 0.15 * row, seed=row)), "features": {"tempo": 80.0 + 30 * row}}
        for row in range(4)
    ]
    alone = [values(scorer(song)) for song in songs]
    together = scorer(songs, batch_size=batch_size, return_timeline=True, return_embedding=True)
    for one, report in zip(alone, together, strict=True):
        np.testing.assert_allclose(values(report), one, rtol=1e-5)
        assert len(report["segments"]) == report["num_segments"]
        assert len(report["embedding"]) == 8


def test_wrong_features_are_refused_or_cost_one_song(fusion_folder: Path, song_file: SongFile) -> None:
    scorer, path = load_pipeline(fusion_folder), str(song_file())
    song = {"audio": path, "features": {"tmpo": 128.0}}
    with pytest.raises(ValueError, match="unknown track features tmpo; this model knows genre, tempo, play_count"):
        scorer(song)
    reports = scorer([path, song, path], on_error="report", batch_size=2)
    assert ["error" in report for report in reports] == [False, True, False]
    with pytest.raises(TypeError, match="track features are a dict from name to value, got list"):
        scorer({"audio": path, "features": ["pop"]})


def test_apex_takes_no_features(tiny_model: ApexModel, song_file: SongFile) -> None:
    with pytest.raises(ValueError, match="scores the audio alone and takes no track features: leave them out"):
        load_pipeline(tiny_model)({"audio": str(song_file()), "features": FEATURES})


def test_reports_flatten_and_rank(fusion_folder: Path, song_file: SongFile) -> None:
    scorer = load_pipeline(fusion_folder)
    reports = scorer([str(song_file(f"{row}.wav", 0.3, seed=row)) for row in range(3)])
    columns, rows = flatten_reports(reports)
    assert {"popularity", "hit_probability", "missing_features", "leaking_features"} <= set(columns)
    assert rows[0]["missing_features"] == "genre; tempo; play_count"
    ranking = rank_reports(reports, by="popularity")
    scores = [song.report["scores"]["popularity"] for song in ranking]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(ValueError, match="cannot rank by 'aesthetics'; choose one of preference, all, popularity, h"):
        rank_reports(reports, by="aesthetics")


def test_percentiles_where_popularity_is_one(song_file: SongFile) -> None:
    report = load_pipeline(build_fusion_model(popularity_exponent=3.1))(str(song_file()))
    assert set(report["percentiles"]) == {"popularity"}
    assert report["scales"] == {"popularity": "percentile", "hit_probability": "probability"}


def test_export_runs_as_remote_code_without_the_package(song_file: SongFile, tmp_path: Path) -> None:
    model = build_fusion_model()
    folder = export_model(model, tmp_path / "exported")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(path.name for path in list_code("spectrogram-fusion")),
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
    }
    song = song_file("song.wav", 0.35, 44_100, num_channels=2)
    program = """
import json, sys
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, pipeline
folder, song = sys.argv[1:]
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **trust)
model = AutoModel.from_pretrained(folder, **trust)
assert type(model).__module__.startswith("transformers_modules"), type(model)
extractor = AutoFeatureExtractor.from_pretrained(folder, **trust)
scorer = pipeline("apex-popularity", model=folder, **trust)
report = scorer({"audio": song, "features": {"genre": "pop", "tempo": 128.0}}, return_timeline=True)
import torch
features = extractor(torch.zeros(5000), sampling_rate=24000, return_tensors="pt")
assert torch.isfinite(model(**features).scores).all()
print(json.dumps({"scores": report["scores"], "features": report["features"], "heads": config.head_names}))
"""
    result = run_elsewhere(program, tmp_path, str(folder), str(song))
    here = load_pipeline(folder)({"audio": str(song), "features": {"genre": "pop", "tempo": 128.0}})
    assert result["scores"] == pytest.approx(here["scores"], rel=1e-5)
    assert result["features"] == here["features"]
    assert type(load_pipeline(folder).model) is SpectrogramFusionModel


@pytest.mark.parametrize("branches", ["fused", "audio", "features"])
def test_card_says_what_it_listens_to_and_what_leaks(branches: str) -> None:
    card = build_short_card(build_fusion_model(branches=branches).config)
    assert "arxiv:2505.07280" in card
    assert "| `hit_probability` | 0 to 1 |" in card
    assert "50, the threshold of a hit" in card
    assert ("`play_count` leak the target" in card) == (branches != "audio")
    assert {"fused": "its audio and its track", "audio": "its audio alone", "features": "features alone"}[
        branches
    ] in card


def test_models_of_other_packages_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="names the model type 'bert'; expected one of apex, spectrogram-fusion"):
        load_model(tmp_path)


def test_score_command_with_and_without_features(
    fusion_folder: Path, song_file: SongFile, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    songs = [str(song_file(f"{row}.wav", 0.3, seed=row)) for row in range(2)]
    table = tmp_path / "features.csv"
    table.write_text("song,genre,tempo\n0.wav,pop,128\n1,folk,\n")
    words = ["score", *songs, "--model", str(fusion_folder)]
    assert main(words) == 0
    assert "hit_probability from 0 to 1" in capsys.readouterr().out
    output = tmp_path / "scores.csv"
    assert main([*words, "--features", str(table), "--output", str(output)]) == 0
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    expected = load_pipeline(fusion_folder)({"audio": songs[0], "features": {"genre": "pop", "tempo": 128.0}})
    assert rows[0]["song"] == songs[0]
    assert float(rows[0]["popularity"]) == pytest.approx(expected["scores"]["popularity"], rel=1e-5)
    assert [row["given_features"] for row in rows] == ["genre; tempo", "genre"]
    assert main(["score", songs[0], "--model", str(fusion_folder), "--features", str(table)]) == 0
    out = capsys.readouterr().out
    assert "track features: genre, tempo" in out
    assert "missing features: play_count" in out


def test_mistakes_on_the_command_line(
    fusion_folder: Path, song_file: SongFile, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["score", str(song_file()), "--model", str(fusion_folder), "--features"]
    (tmp_path / "typo.csv").write_text("song,tmpo\nsong.wav,128\n")
    assert main([*words, str(tmp_path / "typo.csv")]) == 1
    assert "unknown track features tmpo" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "absent.csv")]) == 2
    assert "no such table of track features" in capsys.readouterr().err
    (tmp_path / "other.csv").write_text("song,tempo\nelsewhere.wav,128\n")
    assert main([*words, str(tmp_path / "other.csv")]) == 2
    err = capsys.readouterr().err
    assert "none of its 1 rows is about one of the 1 songs; the table has, for example, 'elsewhere.wav'" in err


def test_feature_tables(tmp_path: Path) -> None:
    rows = [{"song": "a", "genre": "pop", "tempo": None}, {"song": "b.wav", "tempo": 90}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.csv").write_text("song,genre,tempo\na,pop,\nb.wav,,90\n")
    for suffix in ("json", "jsonl", "csv"):
        table = FeatureTable(tmp_path / f"t.{suffix}")
        assert table.find("music/a.mp3")["genre"] == "pop"
        assert table.find("music/a.mp3")["tempo"] is None
        assert table.find("b.wav")["tempo"] == 90
        assert table.find("c.wav") is None


def test_feature_tables_know_songs_by_what_programs_keep_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes("song\ttempo\n7\t90\nalbum/Ü.WAV\tN/A\nb\t80\n".encode("utf-16"))
    table = FeatureTable(tmp_path / "t.tsv")
    assert table.find("takes/007.aiff") == {"tempo": 90}
    assert table.find("Ü.flac") == {"tempo": None}
    assert table.find("https://example.org/b.mp3?key=1") == {"tempo": 80}
    (tmp_path / "two.csv").write_text("song,tempo\n7,1\n07,2\n")
    two = FeatureTable(tmp_path / "two.csv")
    assert two.find("07.wav") == {"tempo": 2}
    with pytest.raises(ValueError, match=r"the rows 1 and 2 both fit the song '007\.wav'"):
        two.find("007.wav")


def test_few_matches_of_a_feature_table_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text("song,tempo\na,1\nb,2\nc,3\n")
    found = FeatureTable(tmp_path / "t.csv").find_all(["a.wav", "x.wav", "y.wav"])
    assert found == [{"tempo": 1}, None, None]
    assert "only 1 of 3 rows are about one of the 3 songs; the table has, for example, 'a', the songs 'x.wav'" in (
        caplog.text
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "x", r"Unknown table format of .*t\.txt: expected a name ending in \.csv"),
        ("t.csv", "name,tempo\na,1\n", r"t\.csv:2 has no `song`; its columns: name, tempo"),
        ("t.csv", "song,tempo\na,1\na,2\n", r"t\.csv:3: 'a' has two rows; keep one of them"),
        ("t.csv", "song,tempo\na,1,2\n", r"t\.csv:2 has 3 cells but the header has 2"),
        ("t.json", "{", r"t\.json:1 is not JSON"),
        ("t.json", "[1]", r"t\.json, row 1 is a JSON int, expected one object per row"),
    ],
)
def test_broken_feature_tables(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        FeatureTable(tmp_path / name)


def test_a_song_that_breaks_the_model_costs_one_song(fusion_folder: Path, song_file: SongFile) -> None:
    scorer = load_pipeline(fusion_folder)
    with torch.no_grad():
        scorer.model.scores.weight.fill_(torch.nan)
    report = scorer([str(song_file())], on_error="report")[0]
    assert "a head yields NaN or infinity" in report["error"]


def test_verify_reads_it_too(fusion_folder: Path, capsys: pytest.CaptureFixture) -> None:
    (fusion_folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    status = main(["verify", "--model", str(fusion_folder)])
    out = capsys.readouterr().out
    assert status == 0, out
    assert "each in its place, all finite" in out
    assert "hit_probability" in out
    assert "It matches no checkpoint that was compared" in out


def test_embeddings_are_made_by_apex_models(
    fusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "songs").mkdir()
    words = ["embed", str(tmp_path / "songs"), "--model", str(fusion_folder), "--output", str(tmp_path / "embeddings")]
    with pytest.raises(ValueError, match="a spectrogram-fusion model has no embeddings to store; it learns"):
        load_apex_model(fusion_folder)
    assert main(words) == 2
