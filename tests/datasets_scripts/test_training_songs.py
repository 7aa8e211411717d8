"""Training songs: filters are counted, targets come from counts, labels and audio are joined, nonsense is refused."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_trees import AESTHETIC_NAMES, encode_song, make_song, make_suno_row, save_json_lines

from datasets_scripts.build import main
from datasets_scripts.parquet_folder import EmptyDatasetError
from datasets_scripts.song_record import CorpusOptions
from datasets_scripts.song_schema import build_song_features
from datasets_scripts.splits import SPLIT_NAMES
from datasets_scripts.targets import compute_popularity_targets
from datasets_scripts.training_songs import AUDIO_IN_TABLE, NO_AUDIO, SongSource, TrainingSongs, build_column_specs
from hub_card.dataset_card import render_dataset_card
from modeling_apex.storage.contained_paths import AudioPathError
from modeling_apex.storage.table_reader import TableError

HALVES = (50.0, 25.0, 25.0)


def build(tmp_path, *sources, options=None, **config):
    builder = TrainingSongs(sources=list(sources), corpus=options or CorpusOptions(split_ratios=HALVES), **config)
    corpus = builder.build_corpus(tmp_path / "work")
    rows = {}
    for split in SPLIT_NAMES:
        for table in corpus.iterate_tables(split):
            assert table.schema.equals(corpus.features.arrow_schema)
            rows |= {row["id"]: row | {"split": split} for row in table.to_pylist()}
    return corpus, rows


def save_audio(folder, song_id, seed):
    folder.mkdir(exist_ok=True)
    (folder / f"{song_id}.flac").write_bytes(encode_song(make_song(seed)))


def test_rows_hold_what_the_source_says(suno_tree, tmp_path):
    source = SongSource(str(suno_tree / "songs.jsonl"), str(suno_tree / "audio"), "suno")
    corpus, rows = build(tmp_path, source, labels=str(suno_tree / "labels.jsonl"))
    assert len(rows) == 24
    assert all(count == 0 for count in corpus.num_dropped.values())
    numbers = range(24)
    streams = compute_popularity_targets([10 * number + 1 for number in numbers])
    for number in numbers:
        row = rows[f"song-{number:03d}"]
        assert row["platform"] == "suno"
        assert row["creator"] == f"user-{number // 2}"
        assert row["prompt"] == f"a song about {number // 2}"
        assert (row["play_count"], row["like_count"]) == (10 * number + 1, number)
        assert row["score_streams"] == pytest.approx(streams[number], rel=1e-6)
        assert row["score_likes"] == pytest.approx(streams[number], rel=1e-6)
        assert row["is_instrumental"] is (number % 3 == 0)
        assert row["created_at"] == "2025-03-01T12:00:00Z"
        assert row["duration"] == pytest.approx(2.0)
        assert row["audio"]["path"] == f"song-{number:03d}.flac"
        assert row["audio"]["bytes"] == (suno_tree / "audio" / f"song-{number:03d}.flac").read_bytes()
        labels = None if number == 5 else "pseudo-labels"
        assert row["label_source"] == labels
        assert row["coherence"] == (None if number == 5 else 1 + number % 5)
    assert rows["song-000"]["group"] == rows["song-001"]["group"] != rows["song-002"]["group"]
    assert {row["split"] for row in rows.values()} == set(SPLIT_NAMES)


def test_every_filter_is_counted(tmp_path):
    audio = tmp_path / "audio"
    rows = [make_suno_row(number, user_id=f"u{number}", metadata={}) for number in range(11)]
    for number in range(11):
        save_audio(audio, f"song-{number:03d}", number)
    rows[1]["play_count"] = 0
    rows[2]["upvote_count"] = None
    rows[3]["created_at"] = "2025-03-30T12:00:00Z"
    rows.append(dict(rows[4]))
    (audio / "song-005.flac").write_bytes(b"not a song")
    (audio / "song-006.flac").unlink()
    (audio / "song-007.flac").write_bytes((audio / "song-008.flac").read_bytes())
    table = save_json_lines(tmp_path / "songs.jsonl", rows)
    options = CorpusOptions(minimum_age_days=10, split_ratios=(1, 0, 0))
    corpus, kept = build(tmp_path, SongSource(str(table), str(audio), "suno"), options=options)
    assert corpus.num_records == 12
    assert {reason: count for reason, count in corpus.num_dropped.items() if count} == {
        "without play or like count": 1,
        "zero plays": 1,
        "younger than 10 days": 1,
        "duplicate id": 1,
        "without audio file": 1,
        "corrupt audio": 1,
        "duplicate audio": 1,
    }
    assert sorted(kept) == [f"song-{number:03d}" for number in (0, 4, 7, 9, 10)]
    assert [song["id"] for song in corpus.corrupt_songs] == ["song-005"]
    assert "song-005.flac" in corpus.corrupt_songs[0]["reason"]


def test_age_counts_from_a_given_day_and_zero_plays_may_stay(tmp_path):
    rows = [make_suno_row(number, play_count=0) for number in range(4)]
    table = save_json_lines(tmp_path / "songs.jsonl", rows)
    source = SongSource(str(table), NO_AUDIO, "suno")
    as_of = datetime(2025, 3, 5, tzinfo=UTC)
    options = CorpusOptions(
        keeps_zero_plays=True, needs_audio=False, minimum_age_days=3, as_of=as_of, split_ratios=(1, 0, 0)
    )
    assert len(build(tmp_path / "old", source, options=options)[1]) == 4
    young = CorpusOptions(keeps_zero_plays=True, needs_audio=False, minimum_age_days=4, as_of=as_of)
    with pytest.raises(EmptyDatasetError, match=r"No song is left of 4 \(4 younger than 4 days\)"):
        build(tmp_path / "young", source, options=young)


def test_platforms_are_ranked_apart_and_have_columns_of_their_own(tmp_path):
    first = save_json_lines(tmp_path / "a.jsonl", [make_suno_row(number) for number in range(1, 5)])
    second = tmp_path / "b.csv"
    second.write_text(
        "key,listens,hearts\n" + "".join(f"u{number},{number * 1000},{number}\n" for number in range(1, 5))
    )
    columns = {"udio:id": "key", "udio:play_count": "listens", "udio:like_count": "hearts"}
    sources = (SongSource(str(first), NO_AUDIO, "suno"), SongSource(str(second), NO_AUDIO, "udio"))
    _, rows = build(tmp_path, *sources, columns=columns, options=CorpusOptions(needs_audio=False, split_ratios=HALVES))
    targets = compute_popularity_targets(range(1, 5))
    for number in range(1, 5):
        assert rows[f"song-{number:03d}"]["score_streams"] == pytest.approx(targets[number - 1])
        assert rows[f"u{number}"]["score_streams"] == pytest.approx(targets[number - 1])
        assert rows[f"u{number}"]["audio"] is None


def test_audio_may_lie_in_the_table(suno_tree, tmp_path):
    columns = {"id": [], "play_count": [], "upvote_count": [], "platform": [], "audio": []}
    for number in range(6):
        data = (suno_tree / "audio" / f"song-{number:03d}.flac").read_bytes()
        row = (f"s{number}", number + 1, number, "suno", {"bytes": data, "path": f"{number}.flac"})
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    pq.write_table(pa.table(columns), tmp_path / "songs.parquet")
    _, rows = build(tmp_path, SongSource(str(tmp_path / "songs.parquet"), AUDIO_IN_TABLE))
    assert {song_id: row["audio"]["bytes"] for song_id, row in rows.items()} == {
        song_id: audio["bytes"] for song_id, audio in zip(columns["id"], columns["audio"], strict=True)
    }


def test_paths_in_place_of_audio(suno_tree, tmp_path):
    source = SongSource(str(suno_tree / "songs.jsonl"), str(suno_tree / "audio"), "suno")
    _, rows = build(tmp_path, source, options=CorpusOptions(embeds_audio=False, split_ratios=(1, 0, 0)))
    assert rows["song-003"]["audio"] == {"bytes": None, "path": str(suno_tree / "audio" / "song-003.flac")}


def test_no_creator_prompt_or_recording_lies_in_two_splits(tmp_path):
    audio = tmp_path / "audio"
    rows = []
    for number in range(60):
        prompt = {"gpt_description_prompt": f"prompt {number % 25}"}
        rows.append(make_suno_row(number, user_id=f"user-{number % 31}", metadata=prompt))
        waveform = make_song(number % 20)
        # The same recording at another loudness is another file with the same fingerprint.
        audio.mkdir(exist_ok=True)
        (audio / f"song-{number:03d}.flac").write_bytes(encode_song(waveform * (1 - 0.01 * (number // 20))))
    table = save_json_lines(tmp_path / "songs.jsonl", rows)
    options = CorpusOptions(split_ratios=(50, 50, 0))
    corpus, kept = build(tmp_path, SongSource(str(table), str(audio), "suno"), options=options)
    assert corpus.num_dropped["prompt shared with another split"] > 0
    assert corpus.num_dropped["audio shared with another split"] > 0
    assert len({row["split"] for row in kept.values()}) > 1
    for key in (
        lambda number: number % 31,
        lambda number: number % 25,
        lambda number: number % 20,
    ):
        splits = {}
        for song_id, row in kept.items():
            splits.setdefault(key(int(song_id[-3:])), set()).add(row["split"])
        assert all(len(found) == 1 for found in splits.values())


def test_adding_a_song_moves_no_other(suno_tree, tmp_path):
    rows = [json.loads(line) for line in (suno_tree / "songs.jsonl").read_text().splitlines()]
    splits = []
    for name, added in (("before", []), ("after", [make_suno_row(99, play_count=55, user_id="user-3")])):
        table = save_json_lines(tmp_path / name / "songs.jsonl", [*added, *rows])
        source = SongSource(str(table), NO_AUDIO, "suno")
        options = CorpusOptions(needs_audio=False, split_ratios=HALVES)
        splits.append({key: row["split"] for key, row in build(tmp_path / name, source, options=options)[1].items()})
    assert splits[1].pop("song-099") == splits[0]["song-006"]
    assert splits[0] == splits[1]


def test_the_builder_is_a_builder_of_datasets(suno_tree, tmp_path):
    source = SongSource(str(suno_tree / "songs.jsonl"), str(suno_tree / "audio"), "suno")
    config = {"sources": [source], "corpus": CorpusOptions(split_ratios=HALVES)}
    builder = TrainingSongs(cache_dir=str(tmp_path / "cache"), **config)
    builder.download_and_prepare()
    prepared = builder.as_dataset()
    streamed = TrainingSongs(cache_dir=str(tmp_path / "other"), **config).as_streaming_dataset()
    assert prepared["train"].features == build_song_features()
    for split in SPLIT_NAMES:
        assert list(streamed[split]) == list(prepared[split])


def test_a_changed_source_is_another_cache(tmp_path):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1)])
    config = {"sources": [SongSource(str(table), NO_AUDIO, "suno")], "corpus": CorpusOptions(needs_audio=False)}
    before = TrainingSongs(cache_dir=str(tmp_path), **config).cache_dir
    save_json_lines(table, [make_suno_row(1), make_suno_row(2)])
    assert TrainingSongs(cache_dir=str(tmp_path), **config).cache_dir != before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([make_suno_row(1), make_suno_row(2, play_count="many")], r"songs\.jsonl:2: play_count is 'many'"),
        ([make_suno_row(1, id="")], r"songs\.jsonl:1 has no id"),
        ([{"id": "a", "plays": 1}], r"no column `play_count` .*`upvote_count` .* Its columns: id, plays\. Name"),
    ],
)
def test_nonsense_in_the_table_is_refused(tmp_path, rows, message):
    table = save_json_lines(tmp_path / "songs.jsonl", rows)
    with pytest.raises(TableError, match=message):
        build(tmp_path, SongSource(str(table), NO_AUDIO, "suno"), options=CorpusOptions(needs_audio=False))


def test_a_row_without_platform_is_refused(tmp_path):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1, platform="suno"), make_suno_row(2)])
    with pytest.raises(TableError, match=r"songs\.jsonl:2 names no platform"):
        build(tmp_path, SongSource(str(table), NO_AUDIO), options=CorpusOptions(needs_audio=False))


def test_audio_that_leaves_its_folder_is_refused(tmp_path):
    (tmp_path / "audio").mkdir()
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1, file_name="../../etc/passwd")])
    with pytest.raises(
        AudioPathError, match=r"songs\.jsonl:1: the audio path '\.\./\.\./etc/passwd' leaves its folder"
    ):
        build(tmp_path, SongSource(str(table), str(tmp_path / "audio"), "suno"))


def test_repeated_ids_are_refused_when_asked(tmp_path):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1), make_suno_row(2), make_suno_row(1)])
    options = CorpusOptions(needs_audio=False, refuses_duplicate_ids=True)
    with pytest.raises(ValueError, match="The id song-001 occurs twice"):
        build(tmp_path, SongSource(str(table), NO_AUDIO, "suno"), options=options)


def test_an_empty_result_says_what_was_dropped(tmp_path):
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1, play_count=0)])
    with pytest.raises(EmptyDatasetError, match=r"No song is left of 1 \(1 zero plays\)"):
        build(tmp_path, SongSource(str(table), NO_AUDIO, "suno"), options=CorpusOptions(needs_audio=False))
    empty = save_json_lines(tmp_path / "empty.jsonl", [])
    with pytest.raises(EmptyDatasetError, match=r"No song is left of 0 \(the source is empty\)"):
        build(tmp_path, SongSource(str(empty), NO_AUDIO, "suno"), options=CorpusOptions(needs_audio=False))


def test_audio_that_changes_during_the_build_is_refused(tmp_path):
    save_audio(tmp_path / "audio", "song-001", 1)
    table = save_json_lines(tmp_path / "songs.jsonl", [make_suno_row(1)])
    options = CorpusOptions(split_ratios=(1, 0, 0))
    builder = TrainingSongs(sources=[SongSource(str(table), str(tmp_path / "audio"), "suno")], corpus=options)
    corpus = builder.build_corpus(tmp_path / "work")
    (tmp_path / "audio" / "song-001.flac").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"song-001\.flac changed while the dataset was being built"):
        list(corpus.iterate_tables("train"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CorpusOptions(group_by=("genre",)), "Cannot group by genre: expected some of creator, prompt, audio"),
        (lambda: CorpusOptions(split_method="random"), "`split_method` is 'random', expected one of hash, quota"),
        (lambda: CorpusOptions(minimum_age_days=-1), "`minimum_age_days` must not be negative, got -1"),
        (lambda: build_column_specs({"likes": "hearts"}, None), "Unknown field 'likes': expected one of id, platform"),
        (lambda: TrainingSongs().build_corpus(None), "`sources` is empty"),
        (lambda: build_song_features({"id": None}), "The extra columns id are columns of every song already"),
    ],
)
def test_refusals_of_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_quotas_serve_a_small_corpus(suno_tree, tmp_path):
    source = SongSource(str(suno_tree / "songs.jsonl"), NO_AUDIO, "suno")
    options = CorpusOptions(needs_audio=False, split_method="quota", split_ratios=HALVES)
    corpus, _ = build(tmp_path, source, options=options)
    assert corpus.num_songs == {"train": 12, "validation": 6, "test": 6}


def test_labels_cover_all_heads(suno_tree, tmp_path):
    source = SongSource(str(suno_tree / "songs.jsonl"), NO_AUDIO, "suno")
    options = CorpusOptions(needs_audio=False, split_ratios=(1, 0, 0))
    config = {"labels": str(suno_tree / "labels.jsonl"), "label_source": "synthetic"}
    _, rows = build(tmp_path, source, options=options, **config)
    labelled = [row for row in rows.values() if row["label_source"] == "synthetic"]
    assert len(labelled) == 23
    assert np.isfinite([[row[name] for name in AESTHETIC_NAMES] for row in labelled]).all()


def test_a_dataset_says_whose_pseudo_labels_it_has(suno_tree, tmp_path):
    """From what `apex-music label` writes to the manifest, the rows and the card."""
    teacher = {"teacher": "o/[x](http://evil)", "teacher_revision": None, "teacher_sha256": "ab" * 32}
    teacher |= {"labelled_on": "2026-11-26", "apex_music_version": "0.2.0"}
    rows = [
        {"id": f"song-{number:03d}.flac", **dict.fromkeys(AESTHETIC_NAMES, 3.5), "error": None, **teacher}
        for number in range(23)
    ]
    rows.append({"id": "song-023.flac", **dict.fromkeys(AESTHETIC_NAMES), "error": "no sound", **teacher})
    table = tmp_path / "labels.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    words = ["training", "--source", str(suno_tree / "songs.jsonl"), "none", "suno", "--labels", str(table)]
    assert main([*words, "--output", str(tmp_path / "built"), "--license", "mit", "--split-method", "quota"]) == 0
    found = pa.concat_tables(map(pq.read_table, sorted((tmp_path / "built").glob("data/*.parquet")))).to_pylist()
    source = "pseudo-labels of o/[x](http://evil) (SHA-256 abababababab, 2026-11-26)"
    assert {row["id"] for row in found if row["label_source"] is None} == {"song-023"}
    assert {row["label_source"] for row in found if row["coherence"] == 3.5} == {source}
    (match,) = json.loads((tmp_path / "built" / "manifest.json").read_text())["matches"]
    assert match["teacher"] == {**teacher, "num_failed_songs": 1}
    assert (match["num_matched_rows"], match["num_songs"]) == (23, 24)
    for card in ((tmp_path / "built" / "README.md").read_text(), render_dataset_card(tmp_path / "built")):
        assert (
            f"The labels of labels.parquet are **pseudo-labels of o/\\[x\\](http://evil)** (SHA-256 `{'ab' * 32}`, "
            "2026-11-26, apex-music 0.2.0): the output of a model, not of people. Songs that it could not score, and "
            "that are unlabelled: 1."
        ) in card
