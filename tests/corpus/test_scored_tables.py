"""Tables of songs to tables of scores: one schema, the bits of the scorer, and errors as rows."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Dataset

from modeling_apex.cli import main
from modeling_apex.corpus.scored_tables import SongTableScorer
from modeling_apex.inference.audio_limits_apex import AudioLimits

from waveforms import make_waveform


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three songs, one broken and one that is not there."""
    folder = tmp_path_factory.mktemp("songs")
    for number, seconds in enumerate((0.35, 0.1, 0.8)):
        soundfile.write(folder / f"{number}.wav", make_waveform(seconds, seed=number), 24_000)
    (folder / "broken.mp3").write_bytes(b"no music" * 50)
    return [str(folder / name) for name in ("0.wav", "broken.mp3", "1.wav", "missing.wav", "2.wav")]


@pytest.fixture(scope="module")
def scorer(model: Path) -> SongTableScorer:
    return SongTableScorer(model, device="cpu")


def build_table(songs: list[str]) -> pa.Table:
    return pa.table({"id": [f"song-{number}" for number in range(len(songs))], "uri": songs})


def test_rows_are_those_of_the_command(model: Path, songs: list[str], scorer: SongTableScorer, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    assert main(["score", *songs, "--model", str(model), "--output", str(output), "--device", "cpu"]) == 1
    expected = pq.read_table(output)
    found = scorer(build_table(songs))
    assert found.schema == scorer.schema
    assert found["id"].to_pylist() == [f"song-{number}" for number in range(5)]
    assert found.drop_columns(["id"]).to_pylist() == expected.to_pylist()
    assert found.schema.remove(0) == expected.schema.remove_metadata()


def test_a_table_of_failures_has_the_same_schema(songs: list[str], scorer: SongTableScorer) -> None:
    found = scorer(build_table(songs[1:2]))
    assert found.schema == scorer.schema
    assert found["duration_seconds"].null_count == 1
    assert "broken.mp3" in found["error"][0].as_py()


def test_audio_that_a_dataset_holds_is_scored_as_its_file(songs: list[str], scorer: SongTableScorer) -> None:
    files = scorer(build_table(songs[::2])).drop_columns(["song"])
    held = [{"bytes": Path(song).read_bytes(), "path": None} for song in songs[::2]]
    table = pa.table({"id": files["id"], "audio": held})
    found = scorer(table)
    assert found["song"].to_pylist() == found["id"].to_pylist()
    assert found.drop_columns(["song"]) == files


def test_datasets_map_takes_it_as_it_is(songs: list[str], scorer: SongTableScorer) -> None:
    table = build_table(songs)
    dataset = Dataset(table).with_format("arrow")
    mapped = dataset.map(scorer, batched=True, batch_size=2, remove_columns=["uri"], load_from_cache_file=False)
    assert mapped.with_format(None).to_list() == scorer(table).to_pylist()


def test_what_travels_is_a_name_and_a_hash(songs: list[str], scorer: SongTableScorer) -> None:
    sent = pickle.dumps(scorer)
    assert len(sent) < 2_000
    again = pickle.loads(sent)  # noqa: S301
    assert again(build_table(songs[:1])) == scorer(build_table(songs[:1]))


def test_other_weights_under_the_same_name_are_refused(model: Path, tmp_path: Path, scorer: SongTableScorer) -> None:
    arguments = {**scorer.arguments, "model": None}  # the embedded model
    with pytest.raises(
        ValueError, match=r"is a different model here \(SHA-256 \w{12} instead of \w{12}\).*same folder"
    ):
        SongTableScorer(**arguments)


def test_numbers_are_ids_and_come_back_as_text(songs: list[str], scorer: SongTableScorer) -> None:
    assert scorer(pa.table({"id": [7], "path": songs[:1]}))["id"].to_pylist() == ["7"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": ["a"], "sound": ["x.wav"]}, "no column uri or url or path .*its columns are id, sound.*Rename"),
        ({"name": ["a"], "uri": ["x.wav"]}, "has no column id; its columns are name, uri"),
        ({"id": [None], "uri": ["x.wav"]}, "row 1: its id is None; expected text or a whole number"),
        ({"id": [1.5], "uri": ["x.wav"]}, "row 1: its id is 1.5; expected"),
    ],
)
def test_a_table_without_ids_or_songs_is_refused(table: dict, message: str, scorer: SongTableScorer) -> None:
    with pytest.raises(ValueError, match=message):
        scorer(pa.table(table))


def test_a_row_without_a_place_costs_that_row(songs: list[str], scorer: SongTableScorer) -> None:
    found = scorer(pa.table({"id": ["a", "b", "c"], "uri": [None, songs[0], " "]})).to_pylist()
    assert [row["error"] for row in found] == [
        "a: its uri is None; expected the path or the URI of a song.",
        None,
        "c: its uri is ' '; expected the path or the URI of a song.",
    ]
    assert [row["song"] for row in found] == ["a", songs[0], "c"]


def test_limits_and_secrets_hold_for_rows(songs: list[str], model: Path) -> None:
    scorer = SongTableScorer(model, device="cpu", limits=AudioLimits(max_seconds=0.2))
    found = scorer(pa.table({"id": ["a", "b"], "uri": [songs[0], "nosuch://user:pass@bucket/song.wav?token=abc"]}))
    assert "0.2" in found["error"][0].as_py()
    assert "user:pass" not in str(found.to_pylist())
    assert "abc" not in str(found.to_pylist())


def test_songs_are_opened_one_after_the_other(
    songs: list[str], scorer: SongTableScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    scored: list[int] = []
    open_song: Callable = __import__("modeling_apex.corpus.scored_tables", fromlist=["open_song"]).open_song

    def note(audio: str, **options: object) -> object:
        opened.append(len(scored))
        return open_song(audio, **options)

    def finish(row: object, *rest: object) -> dict:
        scored.append(1)
        return lay_out(row, *rest)

    lay_out = scorer._lay_out
    monkeypatch.setattr("modeling_apex.corpus.scored_tables.open_song", note)
    monkeypatch.setattr(scorer, "_lay_out", finish)
    scorer(build_table(songs[:1] * 40))
    assert opened[-1] > 0  # the last was opened after rows of the first were made
