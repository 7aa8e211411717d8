"""Shares of a corpus: who takes which songs, by the command line or by what a scheduler has set."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modeling_apex import ApexModel
from modeling_apex.cli import main
from modeling_apex.corpus.embedding_manifest import build_identity
from modeling_apex.corpus.song_shares import SongShare, find_own_card

from song_folders import write_embeddings

LOCAL = ("LOCAL_RANK", "SLURM_LOCALID", "SLURM_ARRAY_TASK_STEP")
SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RANK",
        "WORLD_SIZE",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        *SLURM,
        *LOCAL,
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "1/2/3", " "])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--shard must be I/N, such as 1/20 .* got "):
        SongShare.parse(text)


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (2, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        (dict(zip(SLURM, ("7", "5", "5"), strict=True)), (3, 5)),
        (dict(zip(SLURM, ("9", "3", "5"), strict=True)) | {"SLURM_ARRAY_TASK_STEP": "2"}, (3, 3)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (2, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}, (1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "9"}, (2, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", **dict(zip(SLURM, ("1", "3", "0"), strict=True))}, (4, 6)),
    ],
)
def test_what_schedulers_say(environment: dict[str, str], share: tuple[int, int] | None) -> None:
    found = SongShare.find(environment)
    assert (found and (found.number, found.count)) == share


def test_a_scheduler_that_says_nonsense_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^RANK is 4 and WORLD_SIZE is 4, which is not a share of a whole\. Say which"
    ):
        SongShare.find({"RANK": "4", "WORLD_SIZE": "4"})


def test_shares_hold_every_song_once(
    tiny_folder: Path,
    song_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Under torchrun, processes were in the way of each other's lock."""
    for number in range(5):
        album = song_file(f"album/{number}.wav", seed=number).parent
    words = ["score", str(album), "--model", str(tiny_folder), "--output"]
    assert main([*words, str(tmp_path / "whole.jsonl")]) == 0
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main([*words, str(tmp_path / "ranks.jsonl")]) == 0
    assert "share 2 of 2 (RANK and WORLD_SIZE): 2 of 5 songs, to " in capsys.readouterr().err
    for number in (1, 2, 3):
        assert main([*words, str(tmp_path / "parts.jsonl"), "--shard", f"{number}/3"]) == 0
    whole = sorted((tmp_path / "whole.jsonl").read_text().splitlines())
    for name, count in (("ranks", 2), ("parts", 3)):
        parts = sorted(tmp_path.glob(f"{name}-0000?-of-0000{count}.jsonl"))
        assert sorted(line for part in parts for line in part.read_text().splitlines()) == whole
    assert main([*words, str(tmp_path / "all.jsonl"), "--shard", "1/1"]) == 0
    assert sorted((tmp_path / "all.jsonl").read_text().splitlines()) == whole


def test_a_share_has_its_place_in_a_file(
    tiny_model: ApexModel, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["score", "a.wav", "--model", str(tiny_folder), "--shard", "1/2"]) == 2
    assert "--shard writes to a file: add an --output" in capsys.readouterr().err
    identity = build_identity(tiny_model, dtype="float32", resampler="sinc")
    write_embeddings(tmp_path / "embeddings", {"train": 8, "validation": 4, "test": 4}, identity)
    words = ["score", str(tmp_path / "embeddings"), "--model", str(tiny_folder), "--output", str(tmp_path / "a.csv")]
    assert main([*words, "--shard", "1/2"]) == 2
    assert "--shard is for songs that are decoded, and " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "num_cards", "card"),
    [
        ({}, 8, None),
        ({"LOCAL_RANK": "3"}, 8, "cuda:3"),
        ({"SLURM_LOCALID": "9"}, 4, "cuda:1"),
        ({"LOCAL_RANK": "3"}, 1, None),
        ({"LOCAL_RANK": "3"}, 0, None),
        ({"LOCAL_RANK": "x"}, 8, None),
    ],
)
def test_each_process_of_a_machine_takes_its_own_card(
    environment: dict[str, str], num_cards: int, card: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: num_cards)
    assert find_own_card(environment) == card


def test_a_step_that_is_no_number_says_nothing() -> None:
    environment = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_STEP": "x"}
    share = SongShare.find(environment)
    assert share is not None
    assert (share.number, share.count) == (3, 3)


def test_the_commands_load_models_onto_their_own_card(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert main(["score", "a.wav", "--model", str(tiny_folder)]) == 2
    assert "the device 'cuda:1' is not available" in capsys.readouterr().err
