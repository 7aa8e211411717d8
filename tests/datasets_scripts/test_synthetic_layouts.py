"""The world as files: complete layouts, no secrets inside them, the same bytes after a kill, and refusals."""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets_scripts.synthetic import ARENA_SYSTEMS, FACTOR_NAMES
from datasets_scripts.synthetic.audio_files import save_audio, set_ogg_serial_number, write_atomically
from datasets_scripts.synthetic.battles import plan_battle, save_music_arena_layout
from datasets_scripts.synthetic.command import add_arguments, run
from datasets_scripts.synthetic.samples import save_samples
from datasets_scripts.synthetic.song_layouts import plan_songs, save_songeval_layout, save_training_layout
from datasets_scripts.synthetic.systems import WITHHELD_SYSTEMS
from datasets_scripts.synthetic.world import WorldOptions

ROOT = Path(__file__).parents[2]
BATTLE_FIELDS = {
    *("battle_uuid", "date", "prompt", "is_instrumental", "is_prebaked", "user_pseudonym", "audio_a", "system_a"),
    *("audio_b", "system_b", "preference", "total_listening_time_a", "total_listening_time_b", "feedback"),
    *("timestamp", "lyrics", "hardware_a", "hardware_b", "system_time_a", "system_time_b", "gateway_time_a"),
    *("gateway_time_b", "duration_a", "duration_b", "sample_rate_a", "sample_rate_b", "listen_data_a"),
    "listen_data_b",
}
SONG_FIELDS = [
    *("id", "title", "created_at", "play_count", "upvote_count", "major_model_version", "model_name", "is_public"),
    *("audio_url", "user_id", "handle", "metadata", "platform"),
]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def compute_hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    save_training_layout(folder, WorldOptions(num_songs=40, seconds=2.0, seed=5, is_messy=True), 1)
    return folder


def test_training_layout_is_complete(training):
    rows, labels = read_lines(training / "metadata.jsonl"), read_lines(training / "pseudo_labels.jsonl")
    assert list(rows[0]) == SONG_FIELDS
    assert list(rows[0]["metadata"]) == ["tags", "prompt", "gpt_description_prompt", "duration", "type", "has_vocal"]
    assert list(labels[0]) == ["id", *FACTOR_NAMES]
    assert {row["platform"] for row in rows} == {"synthwave-a", "synthwave-b"}
    for row in rows:
        assert (training / "audio" / f"{row['id']}.flac").exists()
    first, second, third = rows[:3]
    assert first["metadata"]["gpt_description_prompt"] == second["metadata"]["gpt_description_prompt"]
    assert first["metadata"]["gpt_description_prompt"] != third["metadata"]["gpt_description_prompt"]
    assert all(1 <= label[name] <= 5 for label in labels for name in FACTOR_NAMES)


def test_latent_factors_stay_out_of_the_published_table(training):
    text = (training / "metadata.jsonl").read_text()
    assert not any(word in text for word in (*FACTOR_NAMES, "appeal", "fault"))
    truth = read_lines(training / "truth.jsonl")
    labels = {row["id"]: row for row in read_lines(training / "pseudo_labels.jsonl")}
    for row in truth:
        for name in FACTOR_NAMES:
            assert labels[row["id"]][name] == pytest.approx(1 + 4 * row[name], abs=1e-3)
    assert set(json.loads((training / "truth_ceilings.json").read_text())) == {"score_streams", "score_likes"}


def test_a_messy_table_gives_every_filter_work(tmp_path):
    options = WorldOptions(num_songs=120, seconds=2.0, seed=1, is_messy=True)
    plan = plan_songs(options, "training", ["synthwave-a"], "natural")
    assert {song.fault for song in plan} == {None, "duplicate-id", "duplicate-audio", "corrupt", "recent"}
    small = WorldOptions(num_songs=40, seconds=2.0, seed=5, is_messy=True)
    save_training_layout(tmp_path, small, 1)
    truth = {row["id"]: row["fault"] for row in read_lines(tmp_path / "truth.jsonl")}
    rows = read_lines(tmp_path / "metadata.jsonl")
    ids = [row["id"] for row in rows]
    faults = list(truth.values())
    assert len(ids) - len(set(ids)) == faults.count("duplicate-id")
    copies = [row for row in rows if row["id"] not in truth]
    assert len(copies) == faults.count("duplicate-audio")
    hashes = [hashlib.sha256((tmp_path / "audio" / f"{name}.flac").read_bytes()).hexdigest() for name in set(ids)]
    assert len(hashes) - len(set(hashes)) == len(copies)
    for row in rows:
        if truth.get(row["id"]) == "recent":
            assert row["created_at"] > "2026-01-23"
        elif row["id"] in truth:
            assert row["created_at"] < "2025-12-01"
        if truth.get(row["id"]) == "corrupt":
            with pytest.raises(soundfile.LibsndfileError):
                soundfile.info(tmp_path / "audio" / f"{row['id']}.flac")
    assert set(faults) > {None}


def test_more_songs_do_not_change_the_first_ones(training):
    plan = plan_songs(
        WorldOptions(num_songs=6, seconds=2.0, seed=5), "training", ["synthwave-a", "synthwave-b"], "natural"
    )
    rows = read_lines(training / "metadata.jsonl")
    assert [song.spec.song_id for song in plan] == [row["id"] for row in rows[:6]]


def test_factor_test_set_has_songs_of_its_own_that_somebody_plays(tmp_path, training):
    options = WorldOptions(num_songs=12, seconds=2.0, seed=5, systems=("mock-ember",), audio_format="ogg")
    save_training_layout(tmp_path, options, 1, "factors")
    rows = read_lines(tmp_path / "metadata.jsonl")
    assert {row["platform"] for row in rows} == {"mock-ember"}
    assert all(row["play_count"] > 0 for row in rows)
    assert not {row["id"] for row in rows} & {row["id"] for row in read_lines(training / "metadata.jsonl")}
    assert soundfile.info(tmp_path / "audio" / f"{rows[0]['id']}.ogg").samplerate == 24000


def test_songeval_layout_has_sixteen_raters_a_song(tmp_path):
    save_songeval_layout(tmp_path, WorldOptions(num_songs=4, seconds=2.0), 1)
    rows = read_lines(tmp_path / "metadata.jsonl")
    assert list(rows[0]) == ["file_name", "gender", "annotation"]
    for row in rows:
        assert (tmp_path / row["file_name"]).exists()
        assert len(row["annotation"]) == 16
        for rating in row["annotation"]:
            assert list(rating) == [name.capitalize() for name in FACTOR_NAMES]
            assert all(1 <= value <= 5 for value in rating.values())


def test_music_arena_layout_is_complete(tmp_path):
    save_music_arena_layout(tmp_path, WorldOptions(num_songs=12, seconds=2.0, sampling_rate=24000), 1)
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("battle_data/*/*.json"))]
    assert len(records) == 6
    assert set(records[0]) == BATTLE_FIELDS
    for record in records:
        for side in "ab":
            path = record[f"audio_{side}"]
            assert (path == "") == (record[f"system_{side}"] in WITHHELD_SYSTEMS)
            if path:
                assert soundfile.info(tmp_path / path).format == "MP3"
            assert json.loads(record[f"listen_data_{side}"])[0][0] == "PLAY"
        assert record["system_a"] != record["system_b"]
    assert {path.name for path in tmp_path.glob("metadata/*.md")} == {
        "01-2025JUL.md",
        "02-2025AUG.md",
        "03-2025SEP.md",
    }
    assert {row["battle_uuid"] for row in read_lines(tmp_path / "truth.jsonl")} == {r["battle_uuid"] for r in records}
    assert not any("appeal" in path.read_text() for path in tmp_path.glob("battle_data/*/*.json"))


def test_battles_meet_all_systems_and_votes_follow_appeal():
    battles = [plan_battle(WorldOptions(num_songs=2), number) for number in range(400)]
    seen = {battle.record[f"system_{side}"] for battle in battles for side in "ab"}
    assert seen == {system.name for system in ARENA_SYSTEMS}
    assert {battle.record["preference"] for battle in battles} == {"A", "B", "TIE", "BOTH_BAD"}
    assert {type(battle.record["is_instrumental"]).__name__ for battle in battles} == {"bool", "str", "NoneType"}
    for battle in battles:
        if {battle.record[f"system_{side}"] for side in "ab"} & set(WITHHELD_SYSTEMS):
            assert battle.specs["a"].prompt.is_instrumental
    quality = {system.name: system.quality for system in ARENA_SYSTEMS}
    decisive = [battle.record for battle in battles if battle.record["preference"] in "AB"]
    won = [(quality[row["system_a"]] > quality[row["system_b"]]) == (row["preference"] == "A") for row in decisive]
    assert 0.55 < np.mean(won) < 0.9


COMMAND = """
import argparse, os, signal, sys
from datasets_scripts.synthetic.command import add_arguments, run

moves_left, replace = int(sys.argv.pop(1)), os.replace

def replace_or_die(source, target):
    global moves_left
    moves_left -= 1
    if moves_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
parser = argparse.ArgumentParser()
add_arguments(parser)
sys.exit(run(parser.parse_args()))
"""


def run_command(output, num_moves):
    """Run the command in a process that is killed (-9) while it moves its `num_moves`-th file into place."""
    options = ["--layout", "training", "--num-songs", "12", "--seconds", "2", "--messy", "--num-processes", "1"]
    command = [sys.executable, "-c", COMMAND, str(num_moves), "--output", str(output), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


def test_a_killed_run_started_again_ends_with_the_same_bytes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_command(whole, 0) == 0
    # Killed before the first song, among the songs, among what comes after them, and among the tables.
    for num_moves in (2, 6, 9, 3):
        assert run_command(broken, num_moves) == -signal.SIGKILL
        assert list(broken.rglob("*.part"))
    assert compute_hashes(broken) != compute_hashes(whole)
    assert run_command(broken, 0) == 0
    assert compute_hashes(broken) == compute_hashes(whole)


def test_processes_and_order_do_not_change_a_byte(tmp_path):
    options = WorldOptions(num_songs=6, seconds=2.0)
    for num_processes in (1, 2):
        save_training_layout(tmp_path / str(num_processes), options, num_processes)
    assert compute_hashes(tmp_path / "1") == compute_hashes(tmp_path / "2")


def test_samples_of_the_repository_are_what_the_command_makes(tmp_path):
    save_samples(tmp_path, 1)
    made, kept = compute_hashes(tmp_path), ROOT / "spaces_demo" / "samples"
    assert sorted(made) == sorted(path.name for path in kept.iterdir())
    assert (tmp_path / "samples.json").read_bytes() == (kept / "samples.json").read_bytes()
    assert sum(path.stat().st_size for path in kept.iterdir()) < 1.5e6
    for path in sorted(kept.glob("*.ogg")):
        stored, rate = soundfile.read(path)
        fresh, _ = soundfile.read(tmp_path / path.name)
        assert rate == 24000
        assert len(stored) == len(fresh)
        # Another machine's encoder may round differently; the music must be the same.
        assert np.corrcoef(stored, fresh)[0, 1] > 0.999


def test_the_command_writes_every_layout(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = ["--output", str(tmp_path), "--num-songs", "2", "--seconds", "2", "--num-processes", "1"]
    assert run(parser.parse_args([*arguments, "--sampling-rate", "24000"])) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "factors",
        "music-arena",
        "samples",
        "songeval",
        "tracks",
        "training",
    ]


def test_the_command_knows_groups_of_systems(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = ["--output", str(tmp_path), "--layout", "factors", "--num-songs", "22", "--seconds", "2"]
    assert run(parser.parse_args([*arguments, "--systems", "unseen", "--num-processes", "1"])) == 0
    platforms = {row["platform"] for row in read_lines(tmp_path / "metadata.jsonl")}
    assert platforms == {system.name for system in ARENA_SYSTEMS}


def test_ogg_files_have_the_same_bytes_each_time(tmp_path):
    tone = np.sin(np.arange(48000) * 0.1).astype(np.float32) * 0.5
    for name in ("a.ogg", "b.ogg"):
        save_audio(tmp_path / name, tone, 24000)
    assert (tmp_path / "a.ogg").read_bytes() == (tmp_path / "b.ogg").read_bytes()
    decoded, rate = soundfile.read(tmp_path / "a.ogg")
    assert rate == 24000
    assert np.corrcoef(decoded, tone)[0, 1] > 0.99


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.jsonl"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_bytes_that_are_no_ogg_are_refused():
    with pytest.raises(ValueError, match="no Ogg page at byte 0"):
        set_ogg_serial_number(b"RIFF0000", 1)


def test_unknown_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no known audio format.* flac, ogg, mp3"):
        save_audio(tmp_path / "song.aac", np.zeros(10, np.float32), 24000)


def test_a_folder_with_another_world_is_refused(tmp_path):
    save_training_layout(tmp_path, WorldOptions(num_songs=2, seconds=2.0), 1)
    with pytest.raises(ValueError, match="holds a world made with other options"):
        save_training_layout(tmp_path, WorldOptions(num_songs=2, seconds=2.0, seed=1), 1)


def test_a_battle_of_one_system_is_refused(tmp_path):
    with pytest.raises(ValueError, match="A battle needs two systems, but only 'mock-ember' is named"):
        save_music_arena_layout(tmp_path, WorldOptions(systems=("mock-ember",)), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_songs": 1}, "needs at least 2 songs"),
        ({"audio_format": "aac"}, "`audio_format` is 'aac'; choose one of: flac, ogg, mp3"),
        ({"factor_draw": "random"}, "`factor_draw` is 'random'; choose one of: natural, independent"),
        ({"systems": ("suno",)}, "There is no system called 'suno'"),
    ],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        WorldOptions(**change)
