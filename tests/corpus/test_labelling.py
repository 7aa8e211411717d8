"""Pseudo-labels: what a teacher says of a corpus, by the ids that the corpus has, and whose word it is."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from modeling_apex import ApexModel, __version__, load_scorer
from modeling_apex.cli import main
from modeling_apex.corpus import labelling
from modeling_apex.corpus.embed import embed_songs
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.scored_tables import SongTableScorer
from modeling_apex.corpus.song_input import SourceSongs
from modeling_apex.corpus.song_source import AudioFileSource, ParquetSongSource, open_songs
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.inference.scoring_apex import SongScorer
from modeling_apex.storage.output_folder import save_json
from modeling_apex.storage.table_reader import iterate_rows

from published_songeval import write_muq_folder, write_songeval_head
from song_folders import HEAD_NAMES, make_wav, write_dataset

SIZES = {"train": 4, "test": 2}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", SIZES, broken=("train-song-2",))


@pytest.fixture
def label(dataset: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Label the dataset, perhaps only the first three songs, and return the ids of those that were scored."""

    def run(*words: str, songs: Path = dataset, model: Path = tiny_folder, is_interrupted: bool = False) -> list[str]:
        add, added = ScoreJournal.add, []

        def note(journal: ScoreJournal, song: str, *rest: object) -> None:
            if is_interrupted and len(added) == 3:
                raise KeyboardInterrupt
            added.append(song)
            add(journal, song, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(ScoreJournal, "add", note)
            output = ["--output", str(tmp_path / "labels.parquet")]
            run.status = main(["label", str(songs), "--teacher", str(model), *output, *words])  # type: ignore[attr-defined]
        return added

    return run


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv"])
def test_a_dataset_gets_labels_by_its_ids(
    suffix: str, dataset: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / f"labels{suffix}"
    assert main(["label", str(dataset), "--teacher", str(tiny_folder), "--output", str(output)]) == 1
    said = capsys.readouterr().err
    assert "not scored: train-song-2: " in said
    assert f"{output}: 5 songs labelled, 1 failed" in said
    rows = {row.values["id"]: row.values for row in iterate_rows(output)}
    assert set(rows) == {f"{split}-song-{number}" for split, size in SIZES.items() for number in range(size)}
    scorer, audio = load_scorer(tiny_folder), pq.read_table(dataset / "data", columns=["id", "audio"]).to_pylist()
    for song in audio:
        row = rows[song["id"]]
        assert row["teacher"] == "tiny-model"  # and not where it lies on this machine
        assert row["teacher_sha256"] == compute_scores_hash(scorer.model)
        assert row["apex_music_version"] == __version__
        assert (date.today() - date.fromisoformat(row["labelled_on"])).days in (-1, 0, 1)
        if song["id"] == "train-song-2":
            assert not row["coherence"]
            assert "is not in a format that this program reads" in row["error"]
        else:
            (report,) = scorer.score([song])
            assert {name: float(row[name]) for name in HEAD_NAMES} == report["scores"]
            assert not row["error"]


def test_a_folder_has_the_ids_of_its_embeddings_and_other_names_their_paths(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("songs/more").mkdir(parents=True)
    for name in ("songs/a.wav", "songs/more/b.wav"):
        Path(name).write_bytes(make_wav(len(name), 0.15))
    embed_songs("songs", "embeddings", tiny_folder)
    rest = ["--teacher", str(tiny_folder), "--output"]
    labels = []
    for number, names in enumerate((["songs"], ["embeddings"], ["songs/a.wav", "songs/more"], ["songs/*.wav"])):
        assert main(["label", *names, *rest, f"{number}.jsonl"]) == 0
        labels.append([json.loads(line) for line in Path(f"{number}.jsonl").read_text().splitlines()])
    assert [row["id"] for row in labels[0]] == ["a.wav", "more/b.wav"]
    assert labels[1] == labels[0]
    assert [row["id"] for row in labels[2]] == ["songs/a.wav", "songs/more/b.wav"]
    assert [{**row, "id": None} for row in labels[2]] == [{**row, "id": None} for row in labels[0]]
    assert [row["id"] for row in labels[3]] == ["songs/a.wav"]


def test_an_interrupted_run_is_taken_up(label: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = label(is_interrupted=True)
    assert (label.status, len(first)) == (130, 3)
    assert not (tmp_path / "labels.parquet").exists()
    rest = label()
    assert "resuming: 3 of 6 songs already in" in capsys.readouterr().err
    assert sorted([*first, *rest]) == sorted(
        f"{split}-song-{row}" for split, size in SIZES.items() for row in range(size)
    )
    assert pq.read_table(tmp_path / "labels.parquet").num_rows == 6
    assert not (tmp_path / "labels.parquet.partial").exists()
    assert label() == []
    assert "labels.parquet: exists" in capsys.readouterr().err
    assert len(label("--overwrite")) == 6


def test_songs_whose_audio_changed_are_labelled_again(label: Callable, dataset: Path) -> None:
    first = label(is_interrupted=True)
    path = next(dataset.glob("data/test-*.parquet"))
    table = pq.read_table(path)
    changed = [{"bytes": make_wav(99, 0.2), "path": None}, table["audio"][1].as_py()]
    pq.write_table(table.set_column(1, table.schema.field("audio"), [changed]), path)
    assert first[:2] == ["test-song-0", "test-song-1"]
    assert set(label()) == {"test-song-0", "train-song-1", "train-song-2", "train-song-3"}


def test_a_file_that_changed_while_it_was_labelled_is_labelled_again(
    label: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    for number in range(5):
        (songs / f"{number}.wav").write_bytes(make_wav(number, 0.1))
    report = SongScorer.report

    def change(scorer: SongScorer, outputs: Any, **options: Any) -> Any:
        if Path(outputs[0]["facts"]["song"]).name == "1.wav":
            (songs / "1.wav").write_bytes(make_wav(77, 0.1))
        return report(scorer, outputs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SongScorer, "report", change)
        assert label(songs=songs, is_interrupted=True) == ["0.wav", "1.wav", "2.wav"]
    assert label(songs=songs) == ["1.wav", "3.wav", "4.wav"]


def test_another_teacher_does_not_go_on(
    label: Callable, tiny_model: ApexModel, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    label(is_interrupted=True)
    with torch.no_grad():
        tiny_model.aggregator.bias.add_(1.0)
    tiny_model.save_pretrained(tmp_path / "other")
    assert label(model=tmp_path / "other") == []
    assert "an unfinished run with other settings (weights_sha256 " in capsys.readouterr().err


def test_a_journal_of_scores_is_none_of_labels(
    dataset: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, label: Callable
) -> None:
    label(is_interrupted=True)
    words = ["score", str(tmp_path / "a.wav"), "--model", str(tiny_folder), "--output"]
    assert main([*words, str(tmp_path / "labels.parquet")]) == 2
    assert "an unfinished run with other settings (" in capsys.readouterr().err


def test_songeval_teaches(tmp_path: Path) -> None:
    """A model that hears songs whole: random weights in the published layout, converted."""
    write_muq_folder(tmp_path / "muq")
    write_songeval_head(tmp_path / "head" / "model.safetensors")
    teacher = tmp_path / "teacher"
    words = ["--muq", str(tmp_path / "muq"), "--songeval", str(tmp_path / "head"), "--output", str(teacher)]
    assert main(["convert", *words]) == 0
    (tmp_path / "songs").mkdir()
    for number in range(2):
        (tmp_path / "songs" / f"{number}.wav").write_bytes(make_wav(number, 0.5))
    output = tmp_path / "labels.jsonl"
    assert main(["label", str(tmp_path / "songs"), "--teacher", str(teacher), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    reports = load_scorer(teacher).score([str(tmp_path / "songs" / row["id"]) for row in rows])
    for row, report in zip(rows, reports, strict=True):
        assert {name: row[name] for name in labelling.LABELS} == report["scores"]
        assert row["teacher"] == "teacher"


def test_a_teacher_without_labels_is_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from fusion_models import build_fusion_model

    build_fusion_model().save_pretrained(tmp_path / "fusion")
    words = ["label", str(dataset), "--output", str(tmp_path / "l.csv"), "--teacher"]
    assert main([*words, str(tmp_path / "fusion")]) == 2
    said = capsys.readouterr().err
    assert (
        "cannot be a teacher, because it has no score coherence, musicality, memorability, clarity, naturalness; its"
        in said
    )
    assert not list(tmp_path.glob("l.csv*"))


def test_a_teacher_with_labels_of_another_range_is_refused(tiny_model: ApexModel) -> None:
    tiny_model.config.heads[3]["maximum"] = 10.0
    with pytest.raises(ValueError, match=r"its score musicality runs from 1 to 10; a label runs from 1 to 5\. Choose"):
        labelling.refuse_teacher_without_labels(SongScorer(tiny_model))


def test_ids_that_occur_twice_are_refused(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Two addresses that differ in nothing but a secret are called the same."""
    addresses = [f"https://example.com/a.mp3?token={secret}" for secret in ("one", "two")]
    assert main(["label", *addresses, "--teacher", str(tiny_folder), "--output", str(tmp_path / "l.csv")]) == 2
    said = capsys.readouterr().err
    assert "the song id 'https://example.com/a.mp3?token=***' occurs twice; ids must be unique" in said
    assert "one" not in said.replace("None", "")


def test_what_a_command_line_names_is_opened(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_songs([str(dataset)]), ParquetSongSource)
    assert list(open_songs(["takes/gone.WAV"]).splits.values()) == [1]  # and no look at the Hub
    both = open_songs(["a.mp3", "owner/name"])
    assert isinstance(both, AudioFileSource)
    assert (both.name, both.read_columns("train")["id"].to_pylist()) == ("2 names", ["a.mp3", "owner/name"])


def test_a_label_keeps_within_its_range(tiny_model: ApexModel) -> None:
    """A float32 score may miss the bound of its range by its rounding; a table of labels is then refused."""
    scores = dict.fromkeys(HEAD_NAMES, 3.0) | {"clarity": 5.0000005, "coherence": 0.9999999}
    teacher = labelling.describe_teacher(SongScorer(tiny_model))
    row = labelling.build_label_row({"id": "a", "song": "a", "scores": scores}, tiny_model.config, teacher)
    assert (row["clarity"], row["coherence"], row["musicality"]) == (5.0, 1.0, 3.0)


def test_songs_are_read_one_after_the_other(tiny_folder: Path, tmp_path: Path) -> None:
    """A corpus is larger than memory: no more songs are open than the scorer reads ahead."""
    scorer, alive = load_scorer(tiny_folder, batch_size=1), []

    class Corpus(AudioFileSource):
        def iterate(self, split: str, start: int, stop: int) -> Iterator[Any]:
            for song in super().iterate(split, start, stop):
                alive.append(song.id)
                yield song

    paths = []
    for number in range(40):
        (tmp_path / f"{number}.wav").write_bytes(make_wav(number, 0.1))
        paths.append(str(tmp_path / f"{number}.wav"))
    with ScoreJournal(tmp_path / "l.jsonl", {}) as journal:
        reports = SourceSongs(Corpus(paths, name="corpus")).score(scorer, journal)
        next(reports)
        assert len(alive) < 20
        reports.close()


def test_csv_has_a_row_a_song(label: Callable, tiny_folder: Path, dataset: Path, tmp_path: Path) -> None:
    main(["label", str(dataset), "--teacher", str(tiny_folder), "--output", str(tmp_path / "l.csv")])
    with open(tmp_path / "l.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(labelling.list_label_columns(load_scorer(tiny_folder).model.config))
    assert len(rows) == 6


@pytest.fixture
def cluster_scores(tiny_folder: Path, tmp_path: Path) -> Path:
    """A folder as a job of Ray leaves it, of two songs and a broken one, and their table beside it."""
    songs = {"a": make_wav(1, 0.4), "b": make_wav(2, 0.4), "broken": b"no audio"}
    for name, content in songs.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
    (tmp_path / "songs.csv").write_text("id,path\n" + "".join(f"{name},{name}.wav\n" for name in songs))
    table = pa.table({"id": list(songs), "path": [str(tmp_path / f"{name}.wav") for name in songs]})
    scorer = SongTableScorer(str(tiny_folder))
    folder = tmp_path / "scores"
    folder.mkdir()
    pq.write_table(scorer(table), folder / "scores-00001-of-00001.parquet")
    save_json(folder / "settings.json", {"weights_sha256": scorer.weights_sha256, "resampler": "sinc", "tail": None})
    return folder


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_scores_of_a_cluster_become_labels_as_they_are(
    suffix: str, cluster_scores: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--teacher", str(tiny_folder), "--output"]
    expected, output = tmp_path / f"expected{suffix}", tmp_path / f"labels{suffix}"
    assert main(["label", str(tmp_path / "songs.csv"), *words, str(expected)]) == 1
    monkeypatch.setattr(SongScorer, "read", None)  # nothing is decoded again
    assert main(["label", str(cluster_scores), *words, str(output)]) == 1
    assert [row.values for row in iterate_rows(output)] == [row.values for row in iterate_rows(expected)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tail", "drop"], "its scores are not of this model and these options .tail None instead of drop"),
        (["--append"], "holds scores, of which labels are made at once: leave --append out"),
        (["--num-processes", "2"], "for which --num-processes changes nothing"),
        (["--songs", "songs.txt"], "holds scores, and was given together with other inputs"),
        (["--output", "labels.xlsx"], "labels.xlsx: unknown format"),
    ],
)
def test_scores_of_a_cluster_that_are_no_labels_are_refused(
    words: list[str],
    message: str,
    cluster_scores: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("songs.txt").write_text("a.wav\n")
    output = ["--output", str(tmp_path / "labels.csv")]
    assert main(["label", str(cluster_scores), *output, "--teacher", str(tiny_folder), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "labels.csv").exists()


def test_scores_of_another_model_are_not_labels_of_this_one(
    cluster_scores: Path, tiny_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["label", str(cluster_scores), "--teacher", str(tiny_folder), "--output", str(tmp_path / "labels.csv")]
    save_json(cluster_scores / "settings.json", {"weights_sha256": "0" * 64, "tail": None})
    assert main(words) == 2
    assert "its scores are not of this model and these options (weights_sha256 000000000000" in capsys.readouterr().err
    (cluster_scores / "settings.json").write_text("[]")
    assert main(words) == 2
    assert "Delete it, then score its table again" in capsys.readouterr().err
    assert not (tmp_path / "labels.csv").exists()
