"""The commands on a machine that fails them: kills, a full disk, a place not to be written, a clock that jumps."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

from modeling_apex.cli import COMMANDS, main
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.storage.output_lock import OutputLock

from full_disks import fill_disk

SongFile = Callable[..., Path]
REPOSITORY = Path(__file__).parent.parent
WORDS = {
    "score": ["score", "a.wav"],
    "rank": ["rank", "a.wav"],
    "embed": ["embed", "songs", "--output", "out"],
    "label": ["label", "songs", "--teacher", "model", "--output", "out.csv"],
    "train": ["train", "embeddings", "--output", "out"],
    "evaluate": ["evaluate", "embeddings", "--model", "model"],
    "conditions": ["conditions", "embeddings", "--output", "out"],
    "arena": ["arena", "battles.csv", "--output", "out"],
    "anchors": ["anchors", "battles.csv", "--output", "out"],
    "merge": ["merge", "a-00001-of-00002.csv", "--output", "out.csv"],
    "select": ["select", "a.wav", "--output", "out"],
    "robustness": ["robustness", "model", "a.wav", "--output", "out"],
    "build": ["build", "songeval", "--source", "songs", "--output", "out"],
    "calibrate": ["calibrate", "model", "songs", "--output", "out"],
    "bench": ["bench", "cmi", "--rows", "all_test.jsonl", "--audio", "songs", "--output", "out"],
    "personalise": ["personalise", "ratings.csv", "--embeddings", "embeddings", "--output", "out"],
    "card": ["card", "--model", "model"],
    "convert": ["convert", "--encoder", "mert", "--heads", "apex", "--output", "out"],
    "demo": ["demo"],
    "env": ["env"],
    "export": ["export", "--model", "model", "--output", "out"],
    "publish": ["publish", "--model", "model", "--repo", "me/model"],
    "validate": ["validate", "a.wav", "--precision", "bf16"],
    "verify": ["verify", "--model", "model"],
}


@pytest.fixture
def album(song_file: SongFile) -> Path:
    songs = [song_file(f"album/{row}.wav", 0.12 + 0.1 * (row % 3), seed=row) for row in range(6)]
    return songs[0].parent


@pytest.mark.parametrize("command", ["score", "embed", "train", "build", "convert", "export", "publish"])
def test_killed_at_random_moments_nothing_is_lost(command: str, tmp_path: Path) -> None:
    """A few kills; `tests/benchmarks/kill_runs.py` deals fifty to each command, by the same code."""
    script = REPOSITORY / "tests" / "benchmarks" / "kill_runs.py"
    words = ["--kills", "3", "--interrupts", "1", "--commands", command, "--output", str(tmp_path / "kills.json")]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    result = json.loads((tmp_path / "kills.json").read_text())["commands"][command]
    assert result["kills"] == 3
    assert result["interrupts"] == result["terminations"] == 1
    faults = ("rows_lost", "rows_twice", "other_hash", "leftovers", "half_folders")
    assert [result[fault] for fault in faults] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupted_command_says_how_to_go_on(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"modeling_apex.commands.{command}.run", interrupt)
    assert main(WORDS[command]) == 130
    said = capsys.readouterr().err
    assert "interrupted; " in said
    assert "the same command" in said
    assert ("--resume" in said) == (command == "train")


@pytest.mark.parametrize("module", ["hub_card.publish", "hub_card.build_card", "spaces_demo.deploy"])
def test_other_commands_end_with_130_too(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import importlib

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    inner = {"hub_card.publish": "publish", "hub_card.build_card": "write_card", "spaces_demo.deploy": "deploy"}[
        module
    ]
    words = ["--space", "me/space"] if "deploy" in module else ["--model", "model", "--repo", "me/model"]
    command = importlib.import_module(module)
    monkeypatch.setattr(command, inner, interrupt)
    assert command.main(words) == 130
    assert "interrupted; " in capsys.readouterr().err


def test_score_on_a_full_disk_is_taken_up_when_there_is_space(
    tiny_folder: Path, album: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["score", str(album), "--model", str(tiny_folder), "--segments", "--embeddings", "--output"]
    assert main([*words, str(tmp_path / "whole.jsonl")]) == 0
    ballast = fill_disk(small_disk, 4096 * 3)
    output = small_disk / "scores.jsonl"
    assert main([*words, str(output)]) == 2
    said = capsys.readouterr().err
    assert f"{output}: the disk is full. Free some space, then run the same command again" in said
    assert not output.exists()
    ballast.unlink()
    assert main([*words, str(output)]) == 0
    assert "resuming: " in capsys.readouterr().err
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_embed_on_a_full_disk_is_taken_up_when_there_is_space(
    tiny_folder: Path, album: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["embed", str(album), "--model", str(tiny_folder), "--songs-per-shard", "1", "--output"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    ballast = fill_disk(small_disk, 4096 * 7)
    output = small_disk / "embeddings"
    assert main([*words, str(output)]) == 2
    assert "the disk is full. Free some space" in capsys.readouterr().err
    assert 0 < len(list(output.glob("*.parquet"))) < 6
    assert not list(output.glob("*.writing"))
    ballast.unlink()
    assert main([*words, str(output)]) == 0
    for path in (tmp_path / "whole").iterdir():
        if not path.name.endswith(".audio.json"):  # records of what the audio files' own times were
            assert path.read_bytes() == (output / path.name).read_bytes()


def test_a_model_on_a_full_disk_is_no_half_model(
    tiny_folder: Path, small_disk: Path, capsys: pytest.CaptureFixture
) -> None:
    ballast = fill_disk(small_disk, 4096 * 10)
    words = ["export", "--model", str(tiny_folder), "--output", str(small_disk / "hub")]
    assert main(words) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not (small_disk / "hub").exists()
    ballast.unlink()
    assert main(words) == 0


def test_columns_on_a_full_disk_are_refused_and_not_a_bus_error(small_disk: Path) -> None:
    from modeling_apex.corpus.embedding_store import _write_header

    with open(small_disk / "segments.npy", "wb") as file:
        _write_header(file, (10_000, 768))
        with pytest.raises(OSError, match="No space left"):
            file.write(np.zeros((10_000, 768), np.float32).data)


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a folder that nobody may write")
@pytest.mark.parametrize("command", ["score", "embed", "arena", "export", "evaluate"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    command: str, tiny_folder: Path, album: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeling_apex.arena import experiment
    from modeling_apex.corpus import embed
    from modeling_apex.training import evaluate

    for module, work in ((embed, "AudioRecord"), (experiment, "run_arena"), (evaluate, "evaluate_model")):
        monkeypatch.setattr(module, work, None)
    monkeypatch.setattr(ScoreJournal, "add", None)
    places = {"a.wav": str(album), "songs": str(album), "model": str(tiny_folder)}
    words = [places.get(word, word) for word in WORDS[command] if word not in ("--output", "out")]
    words += ["--model", str(tiny_folder)] if "--model" not in words and command != "arena" else []
    assert main([*words, "--output", "/sys/kernel/apex/out.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "/sys/kernel/apex" in said
    assert "cannot be written" in said
    assert "Traceback" not in said


def test_two_runs_on_one_output_are_told_apart(
    tiny_folder: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = str(tmp_path / "out")
    rest = ["--model", str(tiny_folder), "--output", output]
    table = tmp_path / "battles.csv"
    table.write_text("battle_uuid\n")
    with OutputLock(output), OutputLock(f"{output}.csv", is_file=True):
        for words in (
            ["score", str(album), "--model", str(tiny_folder), "--output", f"{output}.csv"],
            ["evaluate", "embeddings", "--model", str(tiny_folder), "--output", f"{output}.csv"],
            ["embed", str(album), *rest],
            ["conditions", "embeddings", "--output", output],
            ["arena", str(table), "--output", output],
            ["export", *rest],
        ):
            assert main(words) == 2, words
            assert f"process {os.getpid()} on" in capsys.readouterr().err, words
    assert main(["score", str(album), "--model", str(tiny_folder), "--output", f"{output}.csv"]) == 0


def test_a_kill_between_output_and_journal_is_tidied_up(
    tiny_folder: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output, journal = tmp_path / "scores.jsonl", tmp_path / "scores.jsonl.partial"
    words = ["score", str(album), "--model", str(tiny_folder), "--output", str(output)]

    def leave_the_journal() -> None:
        unlink = Path.unlink

        def stop(path: Path, **options: bool) -> None:
            if path == journal:
                raise KeyboardInterrupt
            unlink(path, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", stop)
            assert main([*words, "--overwrite"]) == 130

    leave_the_journal()
    first = output.read_bytes()
    assert journal.exists()
    assert main(words) == 0
    assert "resuming: 6 of 6 songs" in capsys.readouterr().err
    assert not journal.exists()
    assert output.read_bytes() == first
    assert main(words) == 2
    assert "exists. Choose another output" in capsys.readouterr().err
    # Asked to replace it, a run does not take the finished journal for its own.
    leave_the_journal()
    capsys.readouterr()
    assert main([*words, "--overwrite"]) == 0
    assert "resuming" not in capsys.readouterr().err
    assert output.read_bytes() == first


def test_a_clock_that_jumps_changes_nothing(
    tiny_folder: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["embed", str(album), "--model", str(tiny_folder), "--songs-per-shard", "1", "--output"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    moments = random.Random(0)
    output = tmp_path / "parts"
    monkeypatch.setattr(time, "time", lambda: moments.uniform(0, 4e9))
    from modeling_apex.corpus import embed

    save, saved = embed.save_shard, []

    def save_three(path: Path, *rest: object) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(path)
        save(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(embed, "save_shard", save_three)
        assert main([*words, str(output)]) == 130
    for path in output.iterdir():  # also into the future
        os.utime(path, (moment := moments.uniform(0, 4e9), moment))
    assert main([*words, str(output)]) == 0
    assert len(saved) == 3
    # All but the records of what the audio files' own times were.
    whole, parts = (
        {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".audio.json")}
        for folder in (tmp_path / "whole", output)
    )
    assert parts == whole


def test_durations_are_measured_by_a_clock_that_does_not_jump() -> None:
    folders = ("modeling_apex", "datasets_scripts", "hub_card", "spaces_demo")
    for path in (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        assert "time.time(" not in code, path
        # A time of change is compared for being the same, which no clock can spoil, and in one place only.
        assert "st_ctime" not in code or path.name == "identity.py", path


def test_ctrl_c_on_a_build_with_workers_is_one_message(tmp_path: Path) -> None:
    words = ["synthetic", "--layout", "training", "--num-songs", "400", "--num-processes", "2", "--seconds", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "datasets_scripts.build", *words, "--output", str(tmp_path / "world")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,  # the signal goes to the whole group, as from a terminal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not list(tmp_path.glob("world/audio/*.flac")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "interrupted; run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "world" / ".lock").exists()
