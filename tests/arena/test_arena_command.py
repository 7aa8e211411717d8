"""`apex-music arena` on a dataset with audio: what it scored is valid for exactly the weights and the audio."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file, save_file

from modeling_apex.cli import main
from modeling_apex.corpus.song_source import AUDIO_FOLDERS_VARIABLE

from song_folders import make_wav

WORDS = [
    "--num-folds",
    "2",
    "--num-draws",
    "100",
    "--classifiers",
    "logistic_regression",
    "--protocols",
    "random_folds",
]
NUM_BATTLES = 12


def write_battles(folder: Path, seeds: dict[int, int] | None = None) -> Path:
    """Write a dataset of battles; `seeds` replaces the audio of side A of some."""
    audio = [
        [{"bytes": make_wav((seeds or {}).get(number, 100 + number) + side, 0.25), "path": None} for side in (0, 50)]
        for number in range(NUM_BATTLES)
    ]
    columns = {
        "battle_uuid": [f"battle-{number}" for number in range(NUM_BATTLES)],
        "preference": ["A" if number % 3 else "B" for number in range(NUM_BATTLES)],
        "system_a": [f"system-{number % 2}" for number in range(NUM_BATTLES)],
        "system_b": [f"system-{1 - number % 2}" for number in range(NUM_BATTLES)],
        "audio_a": [sides[0] for sides in audio],
        "audio_b": [sides[1] for sides in audio],
    }
    folder.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "test-00000-of-00001.parquet")
    return folder


@pytest.fixture
def words(tiny_folder: Path, tmp_path: Path) -> list[str]:
    battles = write_battles(tmp_path / "battles")
    return [
        "arena",
        str(battles),
        "--model",
        str(tiny_folder),
        "--output",
        str(tmp_path / "out"),
        "--no-plots",
        *WORDS,
    ]


def read_scores(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out" / "battle_scores.jsonl").read_text().splitlines()]


def test_audio_replaced_under_the_same_names_is_scored_again(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(words) == 0
    first = read_scores(tmp_path)
    shard = next((tmp_path / "battles").glob("*.parquet"))
    status = shard.stat()
    write_battles(tmp_path / "battles", {4: 77})
    assert shard.stat().st_size == status.st_size
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert main(words) == 0
    changed = [row["battle_uuid"] for row, before in zip(read_scores(tmp_path), first, strict=True) if row != before]
    assert changed == ["battle-4"]


def test_weights_replaced_in_the_same_folder_are_refused_by_name(
    words: list[str], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(words) == 0
    path = tiny_folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.startswith("branch") and name.endswith("bias"))
    save_file({**weights, name: weights[name] + 1}, path, metadata={"format": "pt"})
    before = (tmp_path / "out" / "battle_scores.jsonl").read_bytes()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"holds scores of battles by {tiny_folder}@main made from something else (weights " in said
    assert "Delete it and run the same `apex-music arena` command again" in said
    assert (tmp_path / "out" / "battle_scores.jsonl").read_bytes() == before


def test_checking_again_needs_audio(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["arena", "battles.csv", "--output", str(tmp_path), "--recheck"]) == 2
    assert "--recheck reads audio again, and without --model there is none" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["arena", "--help"])
    assert "read every audio file again" in " ".join(capsys.readouterr().out.split())


def test_a_battle_cannot_name_other_files_of_this_machine(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    private = tmp_path / "private" / "voice-memo.wav"
    private.parent.mkdir()
    private.write_bytes(make_wav(1, 0.25))
    shard = next((tmp_path / "battles").glob("*.parquet"))
    table = pyarrow.parquet.read_table(shard).to_pydict()
    (tmp_path / "battles" / "own.wav").write_bytes(private.read_bytes())
    table["audio_a"][1] = {"bytes": None, "path": "own.wav"}
    monkeypatch.delenv(AUDIO_FOLDERS_VARIABLE, raising=False)
    for path in (str(private), "../private/voice-memo.wav"):
        table["audio_b"][3] = {"bytes": None, "path": path}
        pyarrow.parquet.write_table(pyarrow.table(table), shard)
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "battle 'battle-3': the audio" in said
        assert "is outside" in said
        assert f"{AUDIO_FOLDERS_VARIABLE}=FOLDER allows it" in said
    monkeypatch.setenv(AUDIO_FOLDERS_VARIABLE, str(private.parent))
    assert main(words) == 0
    errors = {row["battle_uuid"]: (row["error_a"], row["error_b"]) for row in read_scores(tmp_path)}
    assert set(errors.values()) == {(None, None)}
