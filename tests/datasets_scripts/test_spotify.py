"""Spotify-like tracks: columns are read and typed, artists stay together, leaking features are named and dropped."""

import csv
from pathlib import Path

import datasets
import pytest
from source_trees import encode_song, make_song

from datasets_scripts.build import main
from datasets_scripts.splits import SPLIT_NAMES
from datasets_scripts.spotify import DEFAULT_COLUMNS, SpotifyTracks, iterate_tracks, read_release_date
from modeling_apex.inference.track_features_apex import LEAKING_NAMES, TRACK_FEATURES
from modeling_apex.storage.table_reader import TableError


def make_row(number: int, **changes) -> dict:
    row = {
        "track_id": f"t{number:02d}",
        "artists": f"Artist {number // 3};Guest {number}",
        "track_name": f"Track, {number}",
        "release_date": ("2019", "2019-05", "2020-11-17")[number % 3],
        "popularity": 7 * number % 101,
        "duration_ms": 2000,
        "explicit": number % 2 == 0,
        "danceability": 0.5 + number / 100,
        "key": "4.0" if number % 2 else "11",
        "tempo": "" if number == 5 else 90 + number,
        "track_genre": ("pop", "folk")[number % 2],
        "artist_popularity": 40 + number,
        "play_count": 1000 * number,
    }
    return row | changes


def save_tracks(folder: Path, num_tracks: int = 12, *, has_audio: bool = True, rows=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [make_row(number) for number in range(num_tracks)] if rows is None else rows
    with open(folder / "tracks.csv", "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if has_audio:
        (folder / "audio").mkdir(exist_ok=True)
        for number in range(len(rows) - 1):  # the last one is missing
            (folder / "audio" / f"t{number:02d}.flac").write_bytes(encode_song(make_song(number)))
    return folder / "tracks.csv"


def build(folder: Path, output: Path, *words: str) -> None:
    options = ["--tracks", str(save_tracks(folder)), "--audio", str(folder / "audio"), "--splits", "50:25:25"]
    assert main(["spotify", *options, "--split-method", "quota", "--output", str(output), *words]) == 0


def test_dataset_is_read_offline_and_artists_stay_apart(tmp_path: Path) -> None:
    build(tmp_path / "source", tmp_path / "tracks")
    loaded = datasets.load_dataset(str(tmp_path / "tracks"), cache_dir=str(tmp_path / "cache"))
    rows = {row["id"]: row | {"split": split} for split in loaded for row in loaded[split]}
    assert set(loaded) == set(SPLIT_NAMES)
    assert len(rows) == 11
    assert rows["t04"]["audio"]["bytes"][:4] == b"fLaC"
    expected = {
        "creator": "Artist 1",
        "title": "Track, 4",
        "popularity": 28.0,
        "genre": "pop",
        "key": "11",
        "explicit": 1.0,
        "release_year": 2019.0,
        "release_month": 5.0,
        "play_count": 4000,
        "artist_popularity": 44.0,
        "album_type": None,
        "platform": "spotify",
        "created_at": "2019-05-01T00:00:00Z",
    }
    assert {name: rows["t04"][name] for name in expected} == expected
    assert (rows["t05"]["tempo"], rows["t05"]["key"], rows["t03"]["release_month"]) == (None, "4", None)
    for artist in range(4):
        splits = {row["split"] for row in rows.values() if row["creator"] == f"Artist {artist}"}
        assert len(splits) == 1
    card = (tmp_path / "tracks" / "README.md").read_text()
    for name in LEAKING_NAMES:
        assert f"`{name}`" in card
    assert "- `artist_popularity`: track feature: popularity of the artist" in card
    assert card.count("leaks the target: it is computed from the track's success") == len(LEAKING_NAMES)


def test_one_option_drops_all_that_leaks(tmp_path: Path) -> None:
    build(tmp_path / "source", tmp_path / "tracks", "--leaking-features", "drop")
    loaded = datasets.load_dataset(str(tmp_path / "tracks"), split="train", cache_dir=str(tmp_path / "cache"))
    for name in LEAKING_NAMES:
        assert set(loaded[name]) == {None}, name
    assert None not in loaded["popularity"]
    assert None not in loaded["danceability"]


def test_every_feature_has_a_column_to_come_from() -> None:
    derived = {"release_year", "release_month"}
    assert {feature["name"] for feature in TRACK_FEATURES} - derived <= set(DEFAULT_COLUMNS)
    assert {feature["name"] for feature in TRACK_FEATURES} <= {*SpotifyTracks.EXTRA_COLUMNS, *_shared()}


def _shared() -> set[str]:
    return {"duration", "play_count", "like_count"}


def test_columns_can_be_named_and_audio_left_out(tmp_path: Path) -> None:
    rows = [make_row(number) for number in range(6)]
    rows = [{("fame" if name == "popularity" else name): value for name, value in row.items()} for row in rows]
    table = save_tracks(tmp_path, rows=rows, has_audio=False)
    words = ["spotify", "--tracks", str(table), "--column", "popularity=fame"]
    words += ["--splits", "1:0:0", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    first = next(iter(iterate_tracks(table, columns={"popularity": "fame"})))
    assert (first.extras["popularity"], first.duration, first.audio_path) == (0.0, 2.0, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"popularity": 101}, "popularity is '101', expected a number from 0 to 100"),
        ({"popularity": "high"}, "popularity is 'high', expected a number"),
        ({"track_id": ""}, "has no id"),
        ({"tempo": "fast"}, "tempo is 'fast', expected a number"),
        ({"play_count": -1}, "play_count is '-1', expected a whole number that is not negative"),
        ({"release_date": "last May"}, "release_date is 'last May', expected 2019, 2019-05 or 2019-05-17"),
        ({"explicit": "perhaps"}, "explicit is 'perhaps', expected one of true, yes, 1, false, no, 0 or nothing"),
    ],
)
def test_cells_that_make_no_sense_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    table = save_tracks(tmp_path, rows=[make_row(0), make_row(1, **changes)], has_audio=False)
    with pytest.raises(TableError, match=message):
        list(iterate_tracks(table))


def test_other_refusals(tmp_path: Path) -> None:
    table = save_tracks(tmp_path, has_audio=False)
    with pytest.raises(ValueError, match="`leaking_features` must be one of keep, drop, got 'hide'"):
        list(iterate_tracks(table, leaking_features="hide"))
    with pytest.raises(ValueError, match="Unknown field 'fame': expected one of id, artist, title, popularity"):
        list(iterate_tracks(table, columns={"fame": "x"}))
    rows = [{"track_id": "a", "artists": "b"}]
    with pytest.raises(TableError, match=r"no column `popularity\|track_popularity` \(for popularity\)"):
        list(iterate_tracks(save_tracks(tmp_path / "b", rows=rows, has_audio=False)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1999", (1999, None)), ("1999-02", (1999, 2)), ("1999-02-28", (1999, 2)), ("", None), (2003, (2003, None))],
)
def test_release_dates(value: object, expected: object) -> None:
    assert read_release_date(value, "here") == expected


@pytest.mark.parametrize("value", ["99", "1999-13", "0000", "1999-2"])
def test_release_dates_that_are_none(value: str) -> None:
    with pytest.raises(TableError, match="expected 2019, 2019-05 or 2019-05-17"):
        read_release_date(value, "here")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(["a", "b"], "a"), ([{"id": "x1", "name": "X"}], "x1"), ("Solo", "Solo"), ([], None)],
)
def test_the_first_of_several_artists_counts(tmp_path: Path, value: object, expected: str | None) -> None:
    import json

    path = tmp_path / "tracks.jsonl"
    path.write_text(json.dumps({"id": "a", "artists": value, "popularity": 5}) + "\n")
    assert next(iter(iterate_tracks(path))).creator == expected
