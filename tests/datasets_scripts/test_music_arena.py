"""Music Arena: every field arrives, withheld audio is a row without audio, and no vote is guessed."""

import json

import pytest
from source_trees import make_battle, save_arena_tree

from datasets_scripts.music_arena import MusicArena, load_battle_ids, read_battle
from datasets_scripts.parquet_folder import EmptyDatasetError
from modeling_apex.storage.contained_paths import AudioPathError
from modeling_apex.storage.table_reader import TableError

MONTH = "07-2026FEB"


def read_rows(tmp_path, **config):
    prepared = MusicArena(**config).prepare(tmp_path)
    rows = [
        row
        for split in prepared.splits.values()
        for table in split.iterate_tables(0, len(split.row_bytes))
        for row in table.to_pylist()
    ]
    return prepared, {row["battle_uuid"]: row for row in rows}


def test_rows_of_the_published_layout(arena_tree, tmp_path):
    prepared, rows = read_rows(tmp_path, source=str(arena_tree))
    assert len(rows) == 8
    row = rows["battle-4"]
    assert row["month"] == MONTH
    assert (row["system_a"], row["system_b"], row["preference"]) == ("system-1", "system-2", "A")
    assert row["prompt"] == "a song about 4"
    assert row["total_listening_time_a"] == 12.5
    assert row["audio_a"]["bytes"] == (arena_tree / "audio_files" / MONTH / "battle-4_a.mp3").read_bytes()
    assert json.loads(row["listen_data_b"]) == [["PLAY", 0.0], ["PAUSE", 2.0]]
    assert [rows[f"battle-{number}"]["is_instrumental"] for number in range(3)] == [True, False, None]
    withheld = rows["battle-3"]
    assert withheld["system_b"] == "sao"
    assert withheld["audio_b"] is None
    assert withheld["audio_a"] is not None
    assert prepared.facts["preferences"] == {"A": 2, "B": 2, "TIE": 2, "BOTH_BAD": 2}
    assert list(prepared.configs) == ["default", "07-2026FEB", "08-2026MAR"]


@pytest.mark.parametrize("months", [("07-2026FEB",), ("2026-02",)])
def test_months_are_chosen_by_folder_or_date(arena_tree, tmp_path, months):
    prepared, rows = read_rows(tmp_path, source=str(arena_tree), months=months)
    assert sorted(rows) == [f"battle-{number}" for number in (0, 2, 4, 6)]
    assert prepared.facts["num_dropped"]["other month"] == 4


def test_battles_of_a_benchmark_are_left_out(arena_tree, tmp_path):
    listed = tmp_path / "ids.txt"
    listed.write_text("battle-1\n\nbattle-2  # seen by others\nbattle-99\n")
    prepared, rows = read_rows(tmp_path, source=str(arena_tree), leave_out=load_battle_ids(listed))
    assert len(rows) == 6
    assert not {"battle-1", "battle-2"} & set(rows)
    assert prepared.facts["num_dropped"]["on the leave-out list"] == 2
    assert prepared.facts["num_leave_out_ids_not_found"] == 1


def test_only_decisive_battles(arena_tree, tmp_path):
    prepared, rows = read_rows(tmp_path, source=str(arena_tree), decisive_only=True)
    assert {row["preference"] for row in rows.values()} == {"A", "B"}
    assert prepared.facts["num_dropped"]["not decisive"] == 4


def test_paths_in_place_of_audio(arena_tree, tmp_path):
    _, rows = read_rows(tmp_path, source=str(arena_tree), embeds_audio=False)
    path = arena_tree / "audio_files" / MONTH / "battle-0_b.mp3"
    assert rows["battle-0"]["audio_b"] == {"bytes": None, "path": str(path.resolve())}


def test_the_builder_is_a_builder_of_datasets(arena_tree, tmp_path):
    builder = MusicArena(cache_dir=str(tmp_path), source=str(arena_tree))
    builder.download_and_prepare()
    prepared = builder.as_dataset("test")
    streamed = MusicArena(cache_dir=str(tmp_path), source=str(arena_tree)).as_streaming_dataset("test")
    assert prepared.num_rows == 8
    assert list(streamed) == list(prepared)


def test_repeated_battles_are_refused_or_dropped(tmp_path):
    battles = [make_battle(0, MONTH), make_battle(1, MONTH)]
    root = save_arena_tree(tmp_path / "arena", {MONTH: battles})
    copy = root / "battle_data" / MONTH / "copy.json"
    copy.write_text(json.dumps(battles[1]))
    with pytest.raises(ValueError, match=r"battle_uuid battle-1 occurs twice: .*battle-1\.json and .*copy\.json"):
        read_rows(tmp_path, source=str(root))
    prepared, rows = read_rows(tmp_path, source=str(root), duplicates="drop")
    assert len(rows) == 2
    assert prepared.facts["num_dropped"]["duplicate battle_uuid"] == 1


@pytest.mark.parametrize("vote", ["C", "a", "", None, "both", 1])
def test_unknown_votes_are_refused_and_never_ties(tmp_path, vote):
    path = tmp_path / "battle.json"
    path.write_text(json.dumps(make_battle(0, MONTH, preference=vote)))
    with pytest.raises(TableError, match=r"battle\.json: the preference is .*, expected one of A, B, TIE, BOTH_BAD"):
        read_battle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"battle_uuid": 1,\n "pref', r"battle\.json:2 is not JSON"),
        ("[]", r"battle\.json holds a JSON list, expected an object"),
        ('{"prompt": "x"}', r"battle\.json lacks battle_uuid, preference, .*\. Its fields: prompt"),
        (json.dumps(make_battle(0, MONTH, system_a="")), r"battle\.json: system_a is empty"),
        (
            json.dumps(make_battle(0, MONTH, duration_a="long")),
            r"battle\.json: duration_a is 'long', expected a number",
        ),
        (json.dumps(make_battle(0, MONTH, is_instrumental="maybe")), "is_instrumental is 'maybe', expected one of"),
    ],
)
def test_broken_battles_are_refused(tmp_path, content, message):
    path = tmp_path / "battle.json"
    path.write_text(content)
    with pytest.raises(TableError, match=message):
        read_battle(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "battle.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableError, match=r"battle\.json:1 is not text in UTF-16"):
        read_battle(tmp_path / "battle.json")


def test_audio_outside_or_missing_is_refused(tmp_path):
    root = save_arena_tree(tmp_path / "out", {MONTH: [make_battle(0, MONTH, audio_a="../../a.mp3")]})
    with pytest.raises(AudioPathError, match=r"battle-0\.json: the audio path '\.\./\.\./a\.mp3' leaves its folder"):
        read_rows(tmp_path, source=str(root))
    root = save_arena_tree(tmp_path / "missing", {MONTH: [make_battle(0, MONTH)]})
    (root / "audio_files" / MONTH / "battle-0_b.mp3").unlink()
    with pytest.raises(FileNotFoundError, match=r"battle-0\.json names the audio .*battle-0_b\.mp3, which is not in"):
        read_rows(tmp_path, source=str(root))


def test_options_that_cannot_be_are_refused(arena_tree, tmp_path):
    with pytest.raises(ValueError, match=r"No battle of 2031-01\. Available months: 07-2026FEB, 08-2026MAR"):
        read_rows(tmp_path, source=str(arena_tree), months=("2026-02", "2031-01"))
    with pytest.raises(ValueError, match="`duplicates` is 'keep', expected one of refuse, drop"):
        read_rows(tmp_path, source=str(arena_tree), duplicates="keep")
    with pytest.raises(FileNotFoundError, match=r"No battles in .*: expected battle_data/<month>/\*\.json"):
        read_rows(tmp_path, source=str(tmp_path))
    with pytest.raises(EmptyDatasetError, match=r"No battle is left of 8 \(8 on the leave-out list\)"):
        read_rows(tmp_path, source=str(arena_tree), leave_out=[f"battle-{number}" for number in range(8)])
    (tmp_path / "ids.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"ids\.txt lists no battle ids"):
        load_battle_ids(tmp_path / "ids.txt")


def test_a_list_of_other_battles_to_leave_out_is_refused(arena_tree, tmp_path):
    with pytest.raises(
        ValueError, match=r"None of the 1 ids to leave out .* example, 'other', the battles 'battle-7'"
    ):
        MusicArena(source=str(arena_tree), leave_out=("other",)).prepare(tmp_path)


def test_battle_ids_are_read_in_any_encoding(tmp_path):
    (tmp_path / "ids.txt").write_bytes("battle-1 # first\r\nbattle-2\r\n".encode("utf-16"))
    assert load_battle_ids(tmp_path / "ids.txt") == ["battle-1", "battle-2"]


def test_durations_of_battles_are_seconds(tmp_path):
    path = tmp_path / "battle.json"
    path.write_text(json.dumps(make_battle(0, MONTH, duration_a=174315)))
    with pytest.raises(TableError, match=r"battle\.json: duration_a is 174315, .* Is it in milliseconds\?"):
        read_battle(path)


def test_warns_of_battles_that_a_benchmark_tests_on(tmp_path, caplog):
    tree = tmp_path / "tree"
    for number, date in enumerate(("2025-06-30", "2025-07-01", "2025-12-31", "2026-01-01", None, None)):
        month = "02-2025AUG" if number == 5 else MONTH
        battle = {**make_battle(number, month), "audio_a": "", "audio_b": "", "date": date}
        folder = tree / "battle_data" / month
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"battle-{number}.json").write_text(json.dumps(battle))
    prepared, _ = read_rows(tmp_path, source=str(tree))
    assert prepared.facts["num_of_benchmark"] == 3
    assert "3 of 6 battles are in the test of MIREX 2026 (Music Arena battles of July to December 2025)" in caplog.text
    assert "Leave them out before training on this dataset: --leave-out FILE" in caplog.text
    caplog.clear()
    prepared, rows = read_rows(tmp_path, source=str(tree), leave_out=("battle-1", "battle-2", "battle-5"))
    assert set(rows) == {"battle-0", "battle-3", "battle-4"}
    assert prepared.facts["num_of_benchmark"] == 0
    assert "MIREX" not in caplog.text
