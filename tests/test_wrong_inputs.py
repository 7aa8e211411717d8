"""Every command, given a wrong kind of thing in each of its places: a sentence that names it, never a traceback."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_apex.cli import COMMANDS, main
from modeling_apex.corpus.embedding_manifest import build_identity

from small_model import build_small_model
from song_folders import make_wav, write_embeddings

WRONG = "WRONG"
# What a command is told, with the wrong thing in one place; the other words are right.
PLACES: dict[str, list[list[str]]] = {
    "score": [[WRONG], ["song.wav", "--model", WRONG]],
    "rank": [[WRONG], ["song.wav", "--model", WRONG]],
    "embed": [[WRONG, "--model", "model", "--output", "out"], ["songs", "--model", WRONG, "--output", "out"]],
    "label": [
        [WRONG, "--teacher", "model", "--output", "labels.jsonl", "--overwrite"],
        ["song.wav", "--teacher", WRONG, "--output", "labels.jsonl", "--overwrite"],
    ],
    "train": [
        [WRONG, "--output", "out"],
        ["embeddings", "--model", WRONG, "--output", "out"],
        ["embeddings", "--songs", WRONG, "--output", "out"],
        ["embeddings", "--arguments", WRONG, "--output", "out"],
        [WRONG, "--model-type", "spectrogram-fusion", "--output", "out"],
        [WRONG, "--train-encoder", "--model", "model", "--output", "out"],
    ],
    "evaluate": [
        [WRONG, "--model", "model"],
        ["embeddings", "--model", WRONG],
        ["embeddings", "--model", "model", "--songs", WRONG],
    ],
    "conditions": [
        [WRONG, "--output", "out"],
        ["embeddings", "--model", WRONG, "--output", "out"],
        ["embeddings", "--songs", WRONG, "--output", "out"],
    ],
    "arena": [
        [WRONG, "--output", "out"],
        [WRONG, "--model", "model", "--output", "out"],
        ["songs", "--model", WRONG, "--output", "out"],
        ["battles.csv", "--truth", WRONG, "--output", "out"],
    ],
    "anchors": [[WRONG, "--output", "out"]],
    "bench": [
        ["cmi", "--rows", WRONG, "--audio", "songs", "--output", "out"],
        ["cmi", "--rows", "all_test.jsonl", "--audio", WRONG, "--output", "out"],
        ["cmi", "--rows", "all_test.jsonl", "--audio", ".", "--model", WRONG, "--output", "out"],
    ],
    "merge": [[WRONG, "--output", "out.jsonl"]],
    "select": [[WRONG, "--output", "out"], ["song.wav", "--model", WRONG, "--output", "out"]],
    "calibrate": [[WRONG, "embeddings", "--output", "out"], ["model", WRONG, "--output", "out"]],
    "personalise": [
        [WRONG, "--embeddings", "embeddings", "--output", "out"],
        ["ratings.csv", "--embeddings", WRONG, "--output", "out"],
        ["ratings.csv", "--songs", WRONG, "--output", "out"],
        ["ratings.csv", "--embeddings", "embeddings", "--model", WRONG, "--output", "out"],
    ],
    "robustness": [[WRONG, "song.wav", "--output", "out"], ["model", WRONG, "--output", "out"]],
    "convert": [
        ["--encoder", WRONG, "--heads", "model", "--output", "out"],
        ["--muq", WRONG, "--songeval", "model", "--output", "out"],
    ],
    "export": [
        ["--model", WRONG, "--output", "out"],
        ["--model", WRONG, "--format", "onnx", "--output", "out"],
    ],
    "verify": [["--model", WRONG], ["--model", "model", "--against", WRONG]],
    "validate": [[WRONG, "--precision", "bf16"], ["song.wav", "--model", WRONG, "--precision", "bf16"]],
    "build": [
        ["training", "--source", WRONG, "none", "suno", "--output", "out"],
        ["training", "--source", "t.csv", WRONG, "suno", "--output", "out"],
        ["training", "--source", "t.csv", "none", "suno", "--labels", WRONG, "--output", "out"],
        ["songeval", "--source", WRONG, "--output", "out"],
        ["music-arena", "--source", WRONG, "--output", "out"],
        ["fma", "--tracks", WRONG, "--output", "out"],
        ["spotify", "--tracks", WRONG, "--output", "out"],
    ],
    "publish": [
        ["--model", WRONG, "--repo", "a/b", "--dry-run"],
        ["--dataset", WRONG, "--repo", "a/b", "--dry-run"],
    ],
    "card": [
        ["--model", WRONG],
        ["--dataset", WRONG],
        ["--model", "model", "--results", WRONG],
    ],
}
# These take no file or folder.
NO_PLACES = {"demo", "env"}
LONG_NAME = "long-" + 300 * "a"


def fill(folder: Path, content: bytes) -> None:
    """Give a folder one file of each name that a command looks for."""
    folder.mkdir()
    for name in (
        "config.json",
        "manifest.json",
        "results.json",
        "metadata.jsonl",
        "preprocessor_config.json",
        "model.safetensors",
        "heads.safetensors",
        "engine.json",
        "train-00000-of-00001.parquet",
        "README.md",
    ):
        (folder / name).write_bytes(content)


def make_wrong_things(folder: Path) -> dict[str, str]:
    """Make the wrong things; return the name of each by its kind."""
    (folder / "notes.txt").write_text("neither a song nor a table")
    (folder / "empty").mkdir()
    (folder / "nested.csv" / "below").mkdir(parents=True)
    (folder / "broken.json").write_text('{"a": [1,')
    noise = np.random.default_rng(0).bytes(4096)
    (folder / "noise.csv").write_bytes(noise)
    (folder / "noise.parquet").write_bytes(noise)
    fill(folder / "broken", b'{"a": [1,')
    fill(folder / "noise", noise)
    fill(folder / "blank", b"")
    fill(folder / "list", b"[]")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.csv")
    return {
        "a file": "notes.txt",
        "an empty folder": "empty",
        "a folder called a table": "nested.csv",
        "broken JSON": "broken.json",
        "noise called a table": "noise.csv",
        "noise called Parquet": "noise.parquet",
        "a folder of broken JSON": "broken",
        "a folder of noise": "noise",
        "a folder of blank files": "blank",
        "a folder of lists": "list",
        "what is not there": "nowhere",
        "a table that is not there": "nowhere.csv",
        "a name that no file can have": LONG_NAME,
        "somebody's home": "~nobody-here/x",
        "a link to itself": "loop",
        "a pipe": "pipe",
        "a pipe called a table": "pipe.csv",
    }


KINDS = (
    "a file",
    "an empty folder",
    "a folder called a table",
    "broken JSON",
    "noise called a table",
    "noise called Parquet",
    "a folder of broken JSON",
    "a folder of noise",
    "a folder of blank files",
    "a folder of lists",
    "what is not there",
    "a table that is not there",
    "a name that no file can have",
    "somebody's home",
    "a link to itself",
    "a pipe",
    "a pipe called a table",
)


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A folder with right and wrong things, in which the commands run; the wrong ones by their kind."""
    folder = tmp_path_factory.mktemp("things")
    model = build_small_model()
    model.save_pretrained(folder / "model")
    identity = build_identity(model, dtype="float32", resampler="sinc")
    write_embeddings(folder / "embeddings", {"train": 8, "validation": 4, "test": 4}, identity)
    (folder / "songs").mkdir()
    for path in (folder / "song.wav", folder / "songs" / "one.wav"):
        path.write_bytes(make_wav(0, 0.2))
    (folder / "t.csv").write_text("id,play_count,upvote_count\na,1,1\nb,2,1\n")
    (folder / "battles.csv").write_text("battle_uuid,preference,system_a,system_b\na,A,x,y\n")
    row = {"source": "PAM-Music", "split": "test", "audio-path": "song.wav", "musicality": 3.0}
    (folder / "all_test.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "ratings.csv").write_text("song,rating\n" + "".join(f"{row},{row % 5}\n" for row in range(20)))
    before = os.getcwd()
    os.chdir(folder)
    yield make_wrong_things(folder)
    os.chdir(before)


def list_cases() -> Iterator[Any]:
    for command, places in PLACES.items():
        for words in places:
            place = " ".join([command, *words])
            for kind in KINDS:
                yield pytest.param(command, words, kind, id=f"{place}: {kind}")


@pytest.mark.parametrize(("command", "words", "kind"), list(list_cases()))
def test_a_wrong_thing_is_named(
    command: str, words: list[str], kind: str, things: dict[str, str], capfd: pytest.CaptureFixture
) -> None:
    wrong = things[kind]
    shutil.rmtree("out", ignore_errors=True)
    given = [wrong if word == WRONG else word for word in words]
    status = main([command, *given])
    said = "".join(capfd.readouterr())
    assert status in (1, 2), said[-500:]
    assert "Traceback" not in said
    assert wrong in said, said[-500:]


def test_every_command_has_words_here() -> None:
    assert {*PLACES, *NO_PLACES} == set(COMMANDS)
