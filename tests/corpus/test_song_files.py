"""What the words of a command line name."""

import logging
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modeling_apex import ApexModel
from modeling_apex.corpus.embed import embed_songs
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.corpus.song_files import find_songs, is_dataset
from modeling_apex.corpus.song_source import open_song_source

from song_folders import make_wav


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_what_is_hidden_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    album = make(tmp_path / "album", "a.wav", "._a.wav", ".DS_Store", ".trash/b.wav")
    assert find_songs([str(album)]) == [str(album / "a.wav")]
    assert find_songs([str(album / "._a.wav")]) == [str(album / "._a.wav")], "named outright"


def test_folders_behind_links_are_searched_once_and_loops_not_at_all(tmp_path: Path) -> None:
    make(tmp_path / "private", "secret.wav")
    album = make(tmp_path / "private" / "album", "z/a.wav", "b.wav")
    elsewhere = make(tmp_path / "elsewhere", "c.wav")
    (album / "again").symlink_to("z")
    (album / "guest").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(elsewhere)
    (album / "z" / "loop").symlink_to(album)
    (album / "out").symlink_to(tmp_path / "private")
    (album / "nowhere").symlink_to(tmp_path / "absent")
    assert find_songs([str(album)]) == [str(album / name) for name in ("b.wav", "guest/c.wav", "z/a.wav")]


def test_an_empty_word_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path, "a.wav"))
    for name in ("", " "):
        with pytest.raises(ValueError, match="a song is given by an empty string"):
            find_songs([name])
        with pytest.raises(ValueError, match="the songs are given by an empty string"):
            open_song_source(name)


def test_a_tilde_is_a_letter_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path, "~tilde.wav"))
    monkeypatch.setenv("HOME", "/home/me")
    assert find_songs(["~tilde.wav", "~/a.wav"]) == ["~tilde.wav", "/home/me/a.wav"]


def test_names_that_are_no_text_are_embedded(tmp_path: Path, tiny_model: ApexModel, caplog) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    for name, content in ((b"a\xff.wav", make_wav(0, 0.15)), (b"b\xfe\x1b[2J.wav", b"?")):
        (songs / os.fsdecode(name)).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        summary = embed_songs(songs, tmp_path / "out", tiny_model)
    assert [failure["id"] for failure in summary.failures] == ["b\\udcfe\x1b[2J.wav"]
    assert "\x1b" not in caplog.text
    assert set(pq.read_table(tmp_path / "out" / "train-00000.parquet")["id"].to_pylist()) == {"a\\udcff.wav"}
    assert b"b\\\\udcfe" in (tmp_path / "out" / "failures.jsonl").read_bytes()
    assert open_embedding_store(tmp_path / "out").get_split("train").list_values("id") == ["a\\udcff.wav"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/songs", True),
        ("owner/songs.v2", True),
        ("takes/missing", False),  # a slip in a folder that is here: no host is asked for it
        ("takes/song", False),
        ("owner/song.mp3", False),
        ("owner/songs.csv", False),
        ("owner/*", False),
        ("./owner/songs", False),
        ("owner/songs/", False),
        ("~owner/songs", False),
        ("songs", False),
        ("a/b/c", False),
    ],
)
def test_what_looks_like_a_dataset_of_the_hub(
    name: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "takes").mkdir()
    (tmp_path / "takes" / "song").write_bytes(make_wav(1, 0.1))
    assert is_dataset(name) is expected
