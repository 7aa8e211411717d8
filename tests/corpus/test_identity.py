"""Identity by content: a file that changes is seen, one that does not is not read again."""

import builtins
import os
from pathlib import Path

import pytest

from modeling_apex.corpus import identity
from modeling_apex.corpus.identity import (
    ContentIdentity,
    FileStamp,
    hash_json,
    identify_audio,
    identify_file,
    list_differences,
    refuse_differences,
)

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of these tests are made just now; take them for old ones."""
    monkeypatch.setattr(identity, "SETTLING_NS", -(2**62))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    path.write_bytes(b"hello")
    return path


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = identify_file(file)
    assert known.sha256 == HELLO
    assert known.stamp is not None
    monkeypatch.setattr(identity.hashlib, "file_digest", lambda *_: pytest.fail("was read again"))
    assert identify_file(file, known) is known


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_again_on_demand(file: Path) -> None:
    known = ContentIdentity("0" * 64, FileStamp.from_status(file.stat()))
    assert identify_file(file, known).sha256 == "0" * 64
    assert identify_file(file, known, rereads=True).sha256 == HELLO


@pytest.mark.usefixtures("settled")
def test_a_change_with_size_and_time_set_back_is_seen(file: Path) -> None:
    known, status = identify_file(file), file.stat()
    file.write_bytes(b"jello")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert identify_file(file, known).sha256 != HELLO


def test_a_file_that_has_just_changed_is_read_the_next_time_too(file: Path) -> None:
    known = identify_file(file)
    assert known.stamp is None
    file.write_bytes(b"jello")  # perhaps within the same tick of the clock
    assert identify_file(file, known).sha256 != HELLO


@pytest.mark.parametrize("now", [0, 2**62])
def test_a_clock_that_is_wrong_costs_a_second_reading_at_most(
    file: Path, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity.time, "time_ns", lambda: now)
    known = identify_file(file)
    assert (known.stamp is None) == (now == 0)
    os.utime(file)
    file.write_bytes(b"jello, longer")
    assert identify_file(file, known).sha256 != HELLO


def test_a_file_that_changes_while_it_is_read_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.open

    def open_and_append(path: Path, mode: str) -> object:
        stream = original(path, mode)
        monkeypatch.setattr(identity.hashlib, "file_digest", _append_while_reading(path))
        return stream

    monkeypatch.setattr(identity, "open", open_and_append, raising=False)
    with pytest.raises(OSError, match=r"song\.wav: changes while it is read"):
        identify_file(file)


def _append_while_reading(path: Path) -> object:
    import hashlib

    def read(stream: object, name: str) -> object:
        with path.open("ab") as other:
            other.write(b"!")
        return hashlib.new(name, stream.read())

    return read


def test_audio_is_known_by_its_bytes_wherever_they_lie(file: Path) -> None:
    for audio in (file, str(file), b"hello", {"bytes": b"hello", "path": None}, {"bytes": None, "path": str(file)}):
        found = identify_audio(audio)
        assert found is not None
        assert found.sha256 == HELLO
    for audio in ("https://example.org/song.mp3", str(file) + "x", {"array": [0.0]}, file.parent):
        assert identify_audio(audio) is None


@pytest.mark.usefixtures("settled")
def test_identities_survive_json(file: Path) -> None:
    for known in (identify_file(file), ContentIdentity(HELLO)):
        assert ContentIdentity.from_json(known.to_json()) == known
    for fields in ({}, {"sha256": 3}, {"sha256": HELLO, "stamp": [1, 2]}, {"sha256": HELLO, "stamp": ["1"] * 4}):
        with pytest.raises(ValueError, match="not the identity of a file"):
            ContentIdentity.from_json(fields)


def test_json_is_hashed_whatever_the_order_of_its_keys() -> None:
    assert hash_json({"a": 1, "b": [2.0, None]}) == hash_json({"b": [2.0, None], "a": 1})
    assert hash_json({"a": 2.0}) != hash_json({"a": 4.0})


def test_differences_are_named() -> None:
    found, expected = {"weights": "a" * 64, "dtype": "float32"}, {"weights": "b" * 64, "dtype": "float32"}
    assert list_differences(found, expected) == ["weights aaaaaaaaaaaa… instead of bbbbbbbbbbbb…"]
    with pytest.raises(ValueError, match=r"x\.jsonl: holds scores made from something else \(weights a+… .*Delete it"):
        refuse_differences("x.jsonl", "scores", found, expected, "Delete it.")
    refuse_differences("x.jsonl", "scores", {**found, "more": 1}, found, "Delete it.")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tracks.csv")
    with pytest.raises(OSError, match=r"tracks\.csv: is a pipe, and what comes out is read once\. Save it as a file"):
        identify_file(tmp_path / "tracks.csv")


def test_a_device_is_refused_instead_of_read_for_ever() -> None:
    with pytest.raises(OSError, match=r"^/dev/zero: is not a regular file\. Save what it gives as a file first\."):
        identify_file("/dev/zero")
