"""Tables as people and programs really write them: what is unknown, whose song it is, what joins, what is refused."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_trees import AESTHETIC_NAMES, encode_song, make_song, make_songeval_row, make_suno_row, save_json_lines

from datasets_scripts import song_corpus
from datasets_scripts.audio_files import AudioFolder, examine_audio_file
from datasets_scripts.build import main
from datasets_scripts.creators import split_creators
from datasets_scripts.song_record import CorpusOptions
from datasets_scripts.songeval import iterate_rated_songs
from datasets_scripts.splits import NO_KEY, SPLIT_NAMES, build_splits, check_split_sizes, compute_key, find_common
from datasets_scripts.spotify import iterate_tracks
from datasets_scripts.training_songs import AUDIO_IN_TABLE, NO_AUDIO, SongSource, TrainingSongs
from modeling_apex.storage.contained_paths import AudioPathError
from modeling_apex.storage.table_reader import TableError

ALL_TRAIN = (1.0, 0.0, 0.0)


def build(tmp_path, table, *, audio=NO_AUDIO, options=None, **config):
    options = options or CorpusOptions(needs_audio=audio != NO_AUDIO, split_ratios=ALL_TRAIN)
    builder = TrainingSongs(sources=[SongSource(str(table), str(audio), "suno")], corpus=options, **config)
    prepared = builder.prepare(tmp_path / "work")
    rows = {}
    for split, part in prepared.splits.items():
        for columns in part.iterate_tables(0, len(part.row_bytes)):
            rows |= {row["id"]: row | {"split": split} for row in columns.to_pylist()}
    return prepared, rows


def run(tmp_path, table, *words, audio=NO_AUDIO):
    words = ["training", "--source", str(table), str(audio), "suno", *words]
    return main([*words, "--output", str(tmp_path / "out")])


def make_label(song_id, column="id"):
    return {column: song_id, **dict.fromkeys(AESTHETIC_NAMES, 3.0)}


# What is unknown


def test_words_for_nothing_join_no_songs(tmp_path):
    rows = [make_suno_row(n, user_id="None", handle=f"h{n}", metadata={"prompt": float("nan")}) for n in range(60)]
    rows[7]["play_count"] = float("nan")
    options = CorpusOptions(needs_audio=False)
    prepared, kept = build(tmp_path, save_json_lines(tmp_path / "songs.jsonl", rows), options=options)
    assert prepared.facts["num_dropped"]["without play or like count"] == 1
    assert len(kept) == 59
    assert {row["prompt"] for row in kept.values()} == {None}
    assert kept["song-003"]["creator"] == "h3"
    assert {row["split"] for row in kept.values()} == set(SPLIT_NAMES)


def test_a_prompt_that_many_creators_share_links_nothing(tmp_path):
    prompts = ["[Instrumental]" if n % 2 else f"about {n}" for n in range(120)]
    rows = [make_suno_row(n, user_id=f"u{n}", metadata={"prompt": prompt}) for n, prompt in enumerate(prompts)]
    for row in rows[:20]:  # songs whose creator is not known are grouped by their prompt
        row |= {"user_id": None, "handle": None}
    table = save_json_lines(tmp_path / "songs.jsonl", rows)
    prepared, kept = build(tmp_path, table, options=CorpusOptions(needs_audio=False, split_ratios=(50, 25, 25)))
    assert len(kept) == 120
    assert {row["split"] for row in kept.values() if row["prompt"] == "[Instrumental]"} == set(SPLIT_NAMES)
    assert prepared.facts["common_prompts"] == {"num_prompts": 1, "num_songs": 60}
    card = prepared.card({**prepared.facts, "options": prepared.options, "configs": {}, "splits": {}})
    assert "kinship and links nothing: 1 such prompts, of 60 songs." in card


def test_common_prompts_are_counted_by_creators():
    prompts = np.array([5] * 4 + [6] * 3 + [7] * 40 + [NO_KEY] * 3, dtype=np.uint64)
    creators = np.array([*range(1, 5), *range(1, 4), *[9] * 40, 1, 2, 3], dtype=np.uint64)
    assert find_common(prompts, creators).tolist() == [True] * 4 + [False] * 46


# Who made it


@pytest.mark.parametrize(
    "value",
    [
        ["A", "B"],
        "['A', 'B']",
        '["A", "B"]',
        "['A' 'B']",
        "[A, B]",
        "A, B",
        "A;B",
        "A & B",
        "A and B",
        "A x B",
        "A feat. B",
        "A ft B",
        "A (featuring B)",
        [{"id": "A"}, {"name": "B"}],
        ["A feat. B", "None"],
    ],
)
def test_artists_are_taken_apart(value):
    assert split_creators(value) == ["A", "B"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10,000 Maniacs", ["10,000 Maniacs"]),
        ("['Guns N\\' Roses']", ["Guns N' Roses"]),
        ('["Guns N\' Roses", "B"]', ["Guns N' Roses", "B"]),
        ("Featherweight", ["Featherweight"]),
        ("Various Artists", []),
        ("nan", []),
        (None, []),
        (17, ["17"]),
    ],
)
def test_names_stay_whole(value, expected):
    assert split_creators(value) == expected


def test_no_artist_lies_in_two_splits_wherever_named(tmp_path):
    names = [f"artist {n}" for n in range(40)]
    rows = [
        {"id": f"t{n}", "popularity": n % 100, "artists": value}
        for n in range(200)
        for first, guest in [(names[n % 40], names[n * 7 % 40])]
        for value in [[first] if n % 4 else f"['{first}', '{guest}']"]
    ]
    table = save_json_lines(tmp_path / "tracks.jsonl", rows)
    words = ["spotify", "--tracks", str(table), "--splits", "50:25:25", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["num_dropped"]["creator shared with another split"] > 0
    by_id, splits = {row["id"]: row for row in rows}, {}
    for split in SPLIT_NAMES:
        for path in (tmp_path / "out" / "data").glob(f"{split}-*"):
            for song_id in pq.read_table(path, columns=["id"])["id"].to_pylist():
                for name in split_creators(by_id[song_id]["artists"]):
                    splits.setdefault(name, set()).add(split)
    assert set().union(*splits.values()) == set(SPLIT_NAMES)
    assert all(len(found) == 1 for found in splits.values())
    assert "No artist is in two splits" in (tmp_path / "out" / "README.md").read_text()


def test_a_song_is_left_out_once_however_many_artists_it_shares():
    codes = np.array([0, 0, 2], dtype=np.int8)
    link = (np.array([0, 1, 2, 2]), np.array([11, 12, 11, 12], dtype=np.uint64))
    assignment = build_splits(codes, {"creator": link})
    assert (assignment.split_codes.tolist(), assignment.num_left_out) == ([0, 0, -1], {"creator": 1})


# What joins


def test_labels_find_songs_whose_ids_lost_something(tmp_path, capsys):
    ids = ["000001", "1000", "abc.mp3", "x7"]
    rows = [make_suno_row(n, id=song_id) for n, song_id in enumerate(ids)]
    labels = [make_label(1), make_label(1000.0), make_label("abc"), make_label("folder/x7.WAV")]
    labels = save_json_lines(tmp_path / "labels.jsonl", labels)
    table = save_json_lines(tmp_path / "songs.jsonl", rows)
    assert run(tmp_path, table, "--labels", str(labels), "--splits", "1:0:0") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    counts = {"num_rows": 4, "num_matched_rows": 4, "num_songs": 4, "num_matched_songs": 4}
    assert manifest["matches"] == [{"source": "labels.jsonl", **counts}]
    assert "| labels.jsonl | 4 | 4 | 4 | 4 |" in (tmp_path / "out" / "README.md").read_text()
    assert "labels.jsonl: 4 of 4 songs" in capsys.readouterr().out


def test_labels_of_other_songs_are_refused(tmp_path, capsys):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(n) for n in range(3)])
    labels = save_json_lines(tmp_path / "labels.jsonl", [make_label("other")])
    assert run(tmp_path, table, "--labels", str(labels)) == 2
    assert (
        "none of its 1 rows is about one of the 3 songs; the table has, for example, 'other'"
        in capsys.readouterr().err
    )


def test_few_labels_are_warned_of_in_the_card(tmp_path, caplog):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(n) for n in range(8)])
    labels = [make_label("song-001"), *(make_label(f"strange `{n}`") for n in range(5))]
    labels = save_json_lines(tmp_path / "labels.jsonl", labels)
    assert run(tmp_path, table, "--labels", str(labels), "--splits", "1:0:0") == 0
    assert "labels.jsonl: only 1 of 6 rows" in caplog.text
    assert "- `labels.jsonl: only 1 of 6 rows are about" in (tmp_path / "out" / "README.md").read_text()


def test_labels_as_a_table_of_pseudo_labels_and_as_songeval_names_them(tmp_path):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(n) for n in range(3)])
    rows = [make_label(f"song-{n:03d}", "song_id") for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    capitals = [{name.capitalize(): value for name, value in row.items()} for row in rows]
    save_json_lines(tmp_path / "capitals.jsonl", capitals)
    save_json_lines(tmp_path / "renamed.jsonl", [{"track": row["song_id"], **row, "Coh": 5} for row in rows])
    for name, columns in (
        ("labels.parquet", {}),
        ("capitals.jsonl", {}),
        ("renamed.jsonl", {"labels:id": "track", "coherence": "Coh"}),
    ):
        config = {"labels": str(tmp_path / name), "columns": columns}
        _, built = build(tmp_path / name[:3], table, **config)
        assert [row["coherence"] for row in built.values()] == [5.0 if columns else 3.0] * 3


def test_columns_of_labels_need_labels(tmp_path, capsys):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1)])
    assert run(tmp_path, table, "--column", "coherence=Coh") == 2
    assert "--column names columns of labels (coherence), but there is no --labels" in capsys.readouterr().err
    assert run(tmp_path, table, "--column", "suno:coherence=Coh") == 2
    assert "Unknown field 'coherence': expected one of id, platform" in capsys.readouterr().err


def test_dimensions_of_songeval_can_be_named(tmp_path):
    row = make_songeval_row(1)
    row["annotation"] = [{("Coh" if name == "Coherence" else name): 4 for name in row["annotation"][0]}]
    save_json_lines(tmp_path / "metadata.jsonl", [row])
    record = next(iterate_rated_songs(tmp_path, {"coherence": "Coh"}))
    assert record.labels == dict.fromkeys(AESTHETIC_NAMES, 4.0)


def test_songeval_calls_songs_without_a_voice_none(tmp_path):
    save_json_lines(tmp_path / "metadata.jsonl", [make_songeval_row(1, gender="none")])
    record = next(iterate_rated_songs(tmp_path, {}))
    assert (record.is_instrumental, record.extras["gender"]) == (True, "none")


def test_audio_is_found_whatever_became_of_its_name(tmp_path):
    for name in ("000001.mp3", "b.AIFF", "c.Mp3", "1000.WAV", "07.mp3", "7.mp3", "notes.txt"):
        (tmp_path / name).touch()
    folder = AudioFolder(tmp_path)
    for song_id, name in (("1", "000001.mp3"), ("b", "b.AIFF"), ("c", "c.Mp3"), ("1000.0", "1000.WAV")):
        assert folder.find(song_id) == tmp_path / name
    assert folder.find("1000.WAV") == folder.find("1000.flac") == tmp_path / "1000.WAV"
    assert folder.find("7") == tmp_path / "7.mp3"
    assert folder.find("notes") is None
    assert folder.count_matches() == {"source": tmp_path.name, "num_songs": 8, "num_matched_songs": 7}
    with pytest.raises(TableError, match=r"t:3: the id '007' fits both 07\.mp3 and 7\.mp3"):
        folder.find("007", location="t:3")


def test_a_folder_without_the_audio_of_any_song_is_refused(tmp_path, capsys):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "else.mp3").touch()
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(n) for n in range(3)])
    assert run(tmp_path, table, audio=tmp_path / "audio") == 2
    assert "none of the 3 songs has audio there; the table has, for example, 'song-000'" in capsys.readouterr().err


# What is cut off


@pytest.mark.parametrize("container", ["MP3", "WAV"])
def test_cut_audio_is_counted_and_left_out(tmp_path, container):
    suffix = container.lower()
    audio = tmp_path / "audio"
    audio.mkdir()
    rows = [make_suno_row(n, user_id=f"u{n}", metadata={}) for n in range(3)]
    for number, row in enumerate(rows):
        data = encode_song(make_song(number, seconds=6), container=container)
        (audio / f"{row['id']}.{suffix}").write_bytes(data[: len(data) // 3] if number == 1 else data)
    facts = examine_audio_file(audio / f"song-001.{suffix}")
    assert facts.is_cut
    assert f"song-001.{suffix}: " in facts.error
    prepared, kept = build(tmp_path, save_json_lines(tmp_path / "songs.jsonl", rows), audio=audio)
    assert sorted(kept) == ["song-000", "song-002"]
    assert prepared.facts["num_dropped"]["cut or damaged audio"] == 1
    assert prepared.facts["num_dropped"]["corrupt audio"] == 0
    assert [song["id"] for song in prepared.facts["corrupt_songs"]] == ["song-001"]


# What leads out of its folder


def save_audio_table(tmp_path, path):
    rows = [{"id": "a", "play_count": 1, "upvote_count": 1, "audio": {"bytes": None, "path": path}}]
    schema = pa.schema(
        [
            *(("id", pa.string()), ("play_count", pa.int64()), ("upvote_count", pa.int64())),
            ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ]
    )
    (tmp_path / "table").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "table" / "songs.parquet")
    return tmp_path / "table" / "songs.parquet"


def test_a_row_cannot_carry_a_file_of_this_machine_into_a_dataset(tmp_path):
    private = tmp_path / "voice-memo.flac"
    private.write_bytes(encode_song(make_song(1)))
    table = save_audio_table(tmp_path, str(private))
    with pytest.raises(AudioPathError, match=r"songs\.parquet, row 1: .*voice-memo\.flac' is outside"):
        build(tmp_path, table, audio=AUDIO_IN_TABLE)
    options = CorpusOptions(split_ratios=ALL_TRAIN, allows_outside_paths=True)
    _, rows = build(tmp_path, table, audio=AUDIO_IN_TABLE, options=options)
    assert rows["a"]["audio"]["bytes"] == private.read_bytes()
    (tmp_path / "table" / "own.flac").write_bytes(private.read_bytes())
    _, rows = build(tmp_path / "b", save_audio_table(tmp_path, "own.flac"), audio=AUDIO_IN_TABLE)
    assert rows["a"]["audio"]["path"] == "own.flac"


def test_links_out_of_the_audio_folder_are_refused(tmp_path, capsys):
    private = tmp_path / "voice-memo.flac"
    private.write_bytes(encode_song(make_song(1)))
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / "song-001.flac").symlink_to(private)
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1)])
    assert run(tmp_path, table, "--splits", "1:0:0", audio=audio) == 2
    assert "songs.jsonl:1: the audio" in capsys.readouterr().err
    assert run(tmp_path, table, "--splits", "1:0:0", "--allow-outside-paths", audio=audio) == 0


def test_snapshots_of_the_hub_are_folders_of_links(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "4711").touch()
    (tmp_path / "snapshots" / "main").mkdir(parents=True)
    (tmp_path / "snapshots" / "main" / "a.mp3").symlink_to("../../blobs/4711")
    assert AudioFolder(tmp_path / "snapshots" / "main").find("a") is not None


# Numbers and their units


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"play_count": "99999999999999999999"}, r"songs\.jsonl:1: play_count is '9+', expected a count of at most"),
        ({"play_count": 10**400}, r"songs\.jsonl:1: play_count is 1000+, expected a number"),
        ({"play_count": -3}, r"songs\.jsonl:1: play_count is -3, expected a whole number that is not negative"),
        ({"play_count": "1,234"}, r"play_count is '1,234', expected a number with a point for decimals and nothing"),
        ({"metadata": {"duration": 174315}}, r"songs\.jsonl:1: duration is 174315, .*Is it in milliseconds\?"),
        ({"metadata": {"duration": -2}}, r"duration is -2 seconds, expected a number that is not negative"),
        ({"metadata": {"duration_ms": 174.3}}, r"duration_ms is 174\.3 milliseconds.* Is it in seconds\?"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, r"created_at is '0001.*expected a year from 1000 to 2200"),
    ],
)
def test_numbers_are_held_to_their_units(tmp_path, changes, message):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1) | changes])
    with pytest.raises(TableError, match=message):
        build(tmp_path, table)


def test_counts_stay_exact_and_milliseconds_become_seconds(tmp_path):
    row = make_suno_row(1, play_count=str(2**60 + 1), metadata={"duration_ms": 174315}, title="\ud83d")
    _, rows = build(tmp_path, save_json_lines(tmp_path / "songs.jsonl", [row]))
    assert rows["song-001"]["play_count"] == 2**60 + 1
    assert rows["song-001"]["duration"] == pytest.approx(174.315)
    assert rows["song-001"]["title"] == "\ufffd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"danceability": 71}, r"danceability is 71, expected a number from 0 to 1\. Is it in percent\?"),
        ({"tempo": -1}, r"tempo is -1, expected a number from 0 to 1000"),
        ({"duration_ms": 215}, r"duration is 215 milliseconds, less than a second\. Is it in seconds\?"),
        ({"duration_ms": 1e9}, r"duration is 1e\+06, which would be"),
    ],
)
def test_features_are_held_to_their_units(tmp_path, changes, message):
    row = {"id": "a", "artists": "A", "popularity": 5} | changes
    with pytest.raises(TableError, match=message):
        list(iterate_tracks(save_json_lines(tmp_path / "tracks.jsonl", [row])))


def test_a_column_of_ids_is_no_platform(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets_scripts.song_scan.MAX_PLATFORMS", 2)
    rows = [make_suno_row(n, platform=f"p{n}") for n in range(3)]
    table = save_json_lines(tmp_path / "songs.jsonl", rows)
    builder = TrainingSongs(sources=[SongSource(str(table), NO_AUDIO)], corpus=CorpusOptions(needs_audio=False))
    with pytest.raises(TableError, match=r"songs\.jsonl:3: the platform 'p2' is the 3th"):
        builder.build_corpus(tmp_path / "work")


@pytest.mark.parametrize("days", [float("nan"), float("inf"), 1e30])
def test_ages_beyond_time_are_refused(days):
    with pytest.raises(ValueError, match=r"`minimum_age_days` must not be negative, got .* expected 0 to 36525"):
        CorpusOptions(minimum_age_days=days)


# Splits that are empty or tiny


def test_an_empty_split_is_an_error_before_any_audio_is_decoded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(song_corpus, "examine_songs", lambda *_: pytest.fail("audio was decoded"))
    (tmp_path / "audio").mkdir()
    rows = [make_suno_row(n, user_id="the only one") for n in range(4)]
    for row in rows:
        (tmp_path / "audio" / f"{row['id']}.mp3").write_bytes(row["id"].encode())
    table = save_json_lines(tmp_path / "songs.jsonl", rows)
    assert run(tmp_path, table, audio=tmp_path / "audio") == 2
    err = capsys.readouterr().err
    assert "split would be empty: 4 songs in 1 groups (creator, prompt, audio) became" in err
    assert "--split-method quota" in err


def test_tiny_splits_are_named_in_manifest_and_card(tmp_path, caplog):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(n) for n in range(40)])
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path, table, "--split-method", "quota") == 0
    sentence = "the test split has only 2 songs, where its share is 2"
    assert sentence in caplog.text
    assert sentence in (tmp_path / "out" / "README.md").read_text()
    warnings = json.loads((tmp_path / "out" / "manifest.json").read_text())["warnings"]
    assert [warning.partition(" has")[0] for warning in warnings] == ["the validation split", "the test split"]


def test_large_splits_are_not_named():
    codes = np.repeat(np.array([0, 1, 2], dtype=np.int8), (850, 100, 50))
    assert check_split_sizes(codes, (85, 10, 5), num_groups=1000, group_by=()) == []
    assert compute_key("suno", "None") != NO_KEY  # words are told from names where cells are read
