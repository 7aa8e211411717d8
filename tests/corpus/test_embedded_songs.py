"""Scores from stored embeddings: those of the audio, bit for bit, and only from what this very encoder made."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from modeling_apex import ApexModel, load_scorer
from modeling_apex.cli import main
from modeling_apex.corpus.embed import embed_songs
from modeling_apex.corpus.embedded_songs import EmbeddedSongs
from modeling_apex.corpus.embedding_manifest import find_embeddings
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.shards import SHARD_METADATA

from song_folders import make_wav, write_dataset


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Songs of one to three segments, one of which no decoder reads."""
    folder = tmp_path / "songs"
    (folder / "more").mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.wav").write_bytes(make_wav(number, 0.05 + 0.1 * (number % 3)))
    (folder / "more" / "5.wav").write_bytes(b"not audio at all")
    return folder


@pytest.fixture
def embeddings(songs: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    embed_songs(songs, tmp_path / "embeddings", tiny_folder, songs_per_shard=4)
    return tmp_path / "embeddings"


@pytest.fixture
def other_heads(tiny_model: ApexModel, tmp_path: Path) -> Path:
    """A model with the encoder of `tiny_folder` and heads of its own, which counts padding in its own way, too."""
    with torch.no_grad():
        for name, weight in tiny_model.named_parameters():
            if name.startswith(("shared", "branch")):
                weight.add_(0.1)
    tiny_model.config.tail = "weighted"
    tiny_model.save_pretrained(tmp_path / "other-heads")
    return tmp_path / "other-heads"


def read_reports(path: Path, folder: Path | None = None) -> list[dict]:
    """Reports by the name in the folder, without where a song that failed was tried; stored songs have ids as well."""
    reports = json.loads(path.read_text())
    for report in reports:
        report["song"] = report["song"].removeprefix(f"{folder}/")
        assert report.pop("id", None) == (None if folder else report["song"])
    return reports


def test_scores_are_those_of_the_audio(
    songs: Path, embeddings: Path, other_heads: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rest = ["--model", str(other_heads), "--segments", "--embeddings", "--output"]
    assert main(["score", str(songs), *rest, str(tmp_path / "heard.json")]) == 1
    assert main(["score", str(embeddings), *rest, str(tmp_path / "stored.json")]) == 1
    said = capsys.readouterr().err
    assert "stored.json: 5 songs scored, 1 failed" in said
    stored = read_reports(tmp_path / "stored.json")
    assert stored == read_reports(tmp_path / "heard.json", songs)
    assert [report["song"] for report in stored] == [*(f"{number}.wav" for number in range(5)), "more/5.wav"]
    assert "is not in a format that this program reads" in stored[-1]["error"]
    assert len(stored[2]["segments"]) == 3

    tail = ["--model", str(other_heads), "--tail", "drop", "--output"]
    assert main(["score", str(songs), *tail, str(tmp_path / "heard-drop.json")]) == 1
    assert main(["score", str(embeddings), *tail, str(tmp_path / "stored-drop.json")]) == 1
    assert read_reports(tmp_path / "stored-drop.json") == read_reports(tmp_path / "heard-drop.json", songs)


def test_a_table_keeps_the_ids_of_a_dataset(tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 5, "test": 2}, broken=("train-song-1",))
    embed_songs(dataset, tmp_path / "embeddings", tiny_folder, songs_per_shard=2)
    words = ["score", str(tmp_path / "embeddings"), "--model", str(tiny_folder)]
    assert main([*words, "--output", str(tmp_path / "scores.parquet")]) == 1
    rows = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [row["song"] for row in rows] == [
        *(f"test-song-{number}" for number in range(2)),  # in the order of the dataset
        *(f"train-song-{number}" for number in range(5)),
    ]
    assert [row["id"] for row in rows] == [row["song"] for row in rows]
    assert [row["error"] is None for row in rows] == [True, True, True, False, True, True, True]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "train-song-4" in said.out
    assert "not scored: train-song-1" in said.err


def test_an_interrupted_run_is_taken_up(
    embeddings: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    words = ["score", str(embeddings), "--model", str(tiny_folder), "--output", str(tmp_path / "scores.jsonl")]
    add, added = ScoreJournal.add, []

    def stop_after_two(journal: ScoreJournal, song: str, *rest: object) -> None:
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(song)
        add(journal, song, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreJournal, "add", stop_after_two)
        assert main(words) == 130
    added.append("from here on")
    with monkeypatch.context() as patch:
        patch.setattr(
            ScoreJournal, "add", lambda journal, song, *rest: (added.append(song), add(journal, song, *rest))
        )
        assert main(words) == 1
    assert "resuming: 2 of 6 songs already in" in capsys.readouterr().err
    assert added == ["0.wav", "1.wav", "from here on", "2.wav", "3.wav", "4.wav", "more/5.wav"]
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 6


def test_embeddings_of_another_encoder_are_refused_by_name(
    embeddings: Path, tiny_model: ApexModel, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with torch.no_grad():
        tiny_model.aggregator.bias.add_(1.0)
    tiny_model.save_pretrained(tmp_path / "other-encoder")
    assert main(["score", str(embeddings), "--model", str(tmp_path / "other-encoder")]) == 2
    said = capsys.readouterr().err
    assert f"{embeddings}: holds embeddings of another model or precision (weights_sha256 " in said
    assert "Use the model and options that made them, or embed into a new folder" in said


def test_a_model_of_another_kind_is_refused(embeddings: Path) -> None:
    from fusion_models import build_fusion_model

    with pytest.raises(ValueError, match=r"a spectrogram-fusion model does not score stored embeddings\. Pass the"):
        EmbeddedSongs(embeddings, build_fusion_model())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--resampler", "soxr"], "--resampler changes nothing: audio is not read again"),
        (["--dtype", "bfloat16", "--recheck"], "--dtype, --recheck changes nothing"),
        (["--features", "t.csv"], "--features changes nothing"),
        (["--num-processes", "2"], "--num-processes changes nothing"),
        (["--max-seconds", "10"], "--max-... changes nothing"),
        (["song.wav"], "was given together with other inputs. Pass this folder alone, or songs alone"),
    ],
)
def test_words_that_would_mean_nothing_are_refused(
    words: list[str], named: str, embeddings: Path, tiny_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["score", str(embeddings), *words, "--model", str(tiny_folder)]) == 2
    assert named in capsys.readouterr().err


def test_what_is_unfinished_or_damaged_is_refused(embeddings: Path, tiny_model: ApexModel) -> None:
    path = embeddings / "train-00001.parquet"
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[SHARD_METADATA])
    facts["failures"] = []  # so that the song that failed is nowhere
    pq.write_table(table.replace_schema_metadata({SHARD_METADATA: json.dumps(facts)}), path)
    with pytest.raises(ValueError, match=r"train-00001\.parquet: damaged \(the songs that it lists are not those"):
        EmbeddedSongs(embeddings, tiny_model)
    path.unlink()
    with pytest.raises(ValueError, match=r"its manifest lists 2 shards of 'train', and there are 1\. Make the"):
        EmbeddedSongs(embeddings, tiny_model)
    manifest = json.loads((embeddings / "manifest.json").read_text())
    (embeddings / "manifest.json").write_text(json.dumps(manifest | {"is_complete": False}))
    with pytest.raises(ValueError, match=r"this embedding is unfinished\. Run the same `apex-music embed` again"):
        EmbeddedSongs(embeddings, tiny_model)


def test_embeddings_of_version_0_1_are_scored(embeddings: Path, tiny_folder: Path) -> None:
    """They do not tell what the audio was, nor where in the order a song failed."""
    for path in embeddings.glob("*.parquet"):
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[SHARD_METADATA])
        del facts["audio"]
        pq.write_table(table.replace_schema_metadata({SHARD_METADATA: json.dumps(facts)}), path)
    scorer = load_scorer(tiny_folder)
    embedded = EmbeddedSongs(embeddings, scorer.model)
    reports = list(embedded.score(scorer))
    assert embedded.ids == [*(f"{number}.wav" for number in range(5)), "more/5.wav"]
    assert [report["song"] for report in reports] == embedded.ids
    assert [("error" in report) for report in reports] == [False] * 5 + [True]


def test_a_folder_of_embeddings_is_told_from_others(embeddings: Path, songs: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 2})
    for content in ("{}", "[]", '{"identity": 1}'):
        (songs / "manifest.json").write_text(content)
        assert find_embeddings([str(songs)]) is None
    (songs / "manifest.json").write_bytes(b"\xff{")
    assert find_embeddings([str(songs), str(dataset), "a.wav", "https://x/y.mp3"]) is None
    (embeddings / "manifest.json").write_text("{")  # damaged, which `load_manifest` says
    assert find_embeddings([str(embeddings)]) == embeddings


def test_a_shard_without_songs_is_passed_over(tmp_path: Path, tiny_folder: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 2}, broken=("train-song-0", "train-song-1"))
    embed_songs(dataset, tmp_path / "embeddings", tiny_folder, songs_per_shard=1)
    scorer = load_scorer(tiny_folder)
    reports = list(EmbeddedSongs(tmp_path / "embeddings", scorer.model).score(scorer))
    assert [report["song"] for report in reports] == ["train-song-0", "train-song-1"]
    assert all("error" in report for report in reports)
