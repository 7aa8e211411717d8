"""Source trees that several tests read and none changes."""

from pathlib import Path

import pytest
from source_trees import (
    AESTHETIC_NAMES,
    encode_song,
    make_battle,
    make_song,
    make_songeval_row,
    make_suno_row,
    save_arena_tree,
    save_fma_tree,
    save_json_lines,
)


@pytest.fixture(scope="session")
def suno_tree(tmp_path_factory) -> Path:
    """A table of 24 songs with their audio and pseudo-labels."""
    root = tmp_path_factory.mktemp("suno")
    (root / "audio").mkdir()
    rows = [make_suno_row(number) for number in range(24)]
    save_json_lines(root / "songs.jsonl", rows)
    for number, row in enumerate(rows):
        (root / "audio" / f"{row['id']}.flac").write_bytes(encode_song(make_song(number)))
    labels = [
        {"id": row["id"], **{name: 1 + (number + shift) % 5 for shift, name in enumerate(AESTHETIC_NAMES)}}
        for number, row in enumerate(rows)
        if number != 5
    ]
    save_json_lines(root / "labels.jsonl", labels)
    return root


@pytest.fixture(scope="session")
def songeval_tree(tmp_path_factory) -> Path:
    """Twelve rated songs."""
    root = tmp_path_factory.mktemp("songeval")
    (root / "mp3").mkdir()
    save_json_lines(root / "metadata.jsonl", [make_songeval_row(number) for number in range(12)])
    for number in range(12):
        (root / "mp3" / f"{number}.flac").write_bytes(encode_song(make_song(100 + number)))
    return root


@pytest.fixture(scope="session")
def arena_tree(tmp_path_factory) -> Path:
    """Eight battles in two months; battle 3 has a withheld side."""
    months = ("07-2026FEB", "08-2026MAR")
    battles = {month: [make_battle(number, month) for number in range(start, 8, 2)]
               for start, month in enumerate(months)}  # fmt: skip
    battles[months[1]][1] |= {"system_b": "sao", "audio_b": ""}
    return save_arena_tree(tmp_path_factory.mktemp("arena"), battles)


@pytest.fixture(scope="session")
def fma_tree(tmp_path_factory) -> Path:
    """Twelve songs of four artists, the last one without audio."""
    return save_fma_tree(tmp_path_factory.mktemp("fma"))
