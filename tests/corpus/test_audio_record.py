"""Records of audio: songs are known by their bytes wherever they lie, and by nothing that is not theirs."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from modeling_apex.corpus import identity
from modeling_apex.corpus.audio_record import AudioRecord, SongAudio, identify_song

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    path.write_bytes(b"hello")
    return path


def test_audio_is_known_by_its_bytes_wherever_they_lie(file: Path) -> None:
    for audio in (file, str(file), {"bytes": None, "path": str(file)}):
        assert (found := identify_song(audio)).content == HELLO
        assert found.path == str(file)
    array = np.frombuffer(b"hello", np.uint8)
    for audio in (b"hello", {"bytes": b"hello", "path": "song.wav"}, {"array": array, "sampling_rate": 24_000}):
        assert identify_song(audio) == SongAudio(HELLO)


def test_what_cannot_be_read_has_no_content(file: Path) -> None:
    for audio in (str(file) + "x", file.parent, {"bytes": None, "path": None}, None):
        assert identify_song(audio).content == "unreadable"


def test_a_url_is_known_by_its_address() -> None:
    url = "https://me:password@example.org/song.mp3?token=secret"
    found = identify_song(url)
    assert found == SongAudio(f"address {hashlib.sha256(url.encode()).hexdigest()}"), "the URL could open something"
    assert identify_song(f"{url}2").content != found.content
    assert identify_song("https://example.org/\udcff.mp3").is_address, "bytes that are no text"
    assert found.is_address
    assert not SongAudio(HELLO).is_address


def test_what_is_known_of_one_file_says_nothing_of_another(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SETTLING_NS", -(2**62))
    stamp = identify_song(file).stamp
    assert identify_song(file, SongAudio("0" * 64, str(file), stamp)).content == "0" * 64
    assert identify_song(file, SongAudio("0" * 64, str(file.with_name("other.wav")), stamp)).content == HELLO
    assert identify_song(file, SongAudio("0" * 64, str(file), stamp), rereads=True).content == HELLO


def test_records_survive_the_disk(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SETTLING_NS", -(2**62))
    song = identify_song(file)
    record = AudioRecord([(str(file), 0, 2, song.stamp), (str(file), 2, 3, None)], {"a": song, "b": SongAudio(HELLO)})
    record.save(tmp_path / "record.json")
    assert AudioRecord.load(tmp_path / "record.json") == record
    assert not record.has_rows_of(record), "a file without a stamp may have changed"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", json.dumps({"files": [[1]], "songs": {}}), '{"files": 3, "songs": 4}']
)
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    assert AudioRecord.load(tmp_path / "record.json") is None
    assert AudioRecord.load(tmp_path / "absent.json") is None
