"""Songs in object stores: what is read, what a store may do wrong, and what a URI from a stranger does not reach."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec.implementations.memory
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from loopback_store import (
    LoopbackStore,
    be_busy,
    fail_first,
    hang_up,
    run_loopback_store,
    say_nothing,
    send_half,
)

from modeling_apex.cli import main
from modeling_apex.corpus import song_uris
from modeling_apex.corpus.identity import is_uri
from modeling_apex.corpus.song_uris import RemoteSong, open_song
from modeling_apex.inference.audio_apex import AudioError, AudioLimits, load_audio

from loopback_hub import LoopbackHub
from waveforms import make_waveform

LOCAL = AudioLimits(allow_private_addresses=True)


def encode_song(seconds: float = 1.0, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, make_waveform(seconds, 8000, seed=seed).T, 8000, format="FLAC")
    return buffer.getvalue()


SONG = encode_song()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackStore]:
    """An object store that the environment of this process names."""
    song_uris._open_s3.cache_clear()
    with run_loopback_store() as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{found.host}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield found
    song_uris._open_s3.cache_clear()


def load(uri: str, limits: AudioLimits | None = None) -> np.ndarray:
    return load_audio(open_song(uri, limits=limits), target_rate=8000, limits=limits)


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("s3://songs/a.flac", "songs/a.flac"),
        ("s3://songs/my%20album/C%23%20minor.flac", "songs/my album/C# minor.flac"),
        ("s3://songs/my album/ä 1.flac", "songs/my album/ä 1.flac"),
        ("S3A://songs/a.flac", "songs/a.flac"),
        ("s3://songs/a.flac?region=eu-west-1", "songs/a.flac"),
    ],
)
def test_a_song_in_a_store_is_the_song(store: LoopbackStore, uri: str, key: str) -> None:
    store.objects[key] = SONG
    np.testing.assert_array_equal(load(uri), load_audio(SONG, target_rate=8000))


def test_a_large_song_comes_in_pieces_and_nothing_comes_before_it_is_read(
    store: LoopbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(song_uris, "BLOCK_NUM_BYTES", 3000)
    store.objects["songs/a.flac"] = SONG
    song = open_song("s3://songs/a.flac")
    assert isinstance(song, RemoteSong)
    assert not store.requests
    assert song.read() == SONG
    assert store.count("GET", "songs/a.flac") == -(-len(SONG) // 3000)


def test_what_is_no_uri_of_a_store_passes_through() -> None:
    for song in ("a.wav", "https://host/a.mp3", "HTTP://host/a.mp3", b"bytes", None, {"path": "a.wav"}):
        assert open_song(song) is song
    assert [is_uri(song) for song in ("a.wav", "https://host/a.mp3", "s3://b/k", b"x")] == [False, True, True, False]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (send_half, r"cannot be fetched \(OSError: .*"),
        (hang_up, r"cannot be fetched \(OSError: .*"),
        (be_busy, r"cannot be fetched \(OSError: .*503"),
    ],
)
def test_a_store_that_fails_costs_the_song_after_a_few_attempts(store: LoopbackStore, fault, reason: str) -> None:
    store.objects["songs/a.flac"] = SONG
    store.faults["songs/a.flac"] = fault
    with pytest.raises(AudioError, match=rf"^s3://songs/a\.flac: ({reason})"):
        load("s3://songs/a.flac")
    assert 1 <= store.count("GET", "songs/a.flac") <= 2 * song_uris.NUM_ATTEMPTS


@pytest.mark.parametrize("fault", [send_half, hang_up, be_busy])
def test_a_store_that_recovers_costs_nothing(store: LoopbackStore, fault) -> None:
    store.objects["songs/a.flac"] = SONG
    store.faults["songs/a.flac"] = fail_first(1, fault)
    np.testing.assert_array_equal(load("s3://songs/a.flac"), load_audio(SONG, target_rate=8000))


def test_time_is_limited_whatever_the_store_does(store: LoopbackStore) -> None:
    store.objects["songs/a.flac"] = SONG
    store.faults["songs/a.flac"] = say_nothing
    with pytest.raises(AudioError, match=r"a\.flac: fetching it takes longer than 0\.3 s\. .*max_download_seconds"):
        load("s3://songs/a.flac", AudioLimits(max_download_seconds=0.3))


def test_size_is_limited_before_the_song_is_fetched(store: LoopbackStore) -> None:
    store.objects["songs/a.flac"] = SONG
    with pytest.raises(AudioError, match=r"^s3://songs/a\.flac: \d+ bytes or more, but the limit is 100\."):
        load("s3://songs/a.flac", AudioLimits(max_bytes=100))
    assert store.count("GET", "songs/a.flac") == 0


def test_a_song_that_changes_while_it_is_read_is_no_mixture(
    store: LoopbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(song_uris, "BLOCK_NUM_BYTES", 3000)
    store.objects["songs/a.flac"] = SONG
    song = open_song("s3://songs/a.flac")
    song.read(1)
    store.objects["songs/a.flac"] = SONG + b"more"
    with pytest.raises(AudioError, match=r"^s3://songs/a\.flac: changed while it was fetched"):
        song.read()


def test_a_store_that_ends_a_song_early_gives_no_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(io.BytesIO):
        size = 2 * len(SONG)

    monkeypatch.setattr(song_uris, "find_opener", lambda uri, limits: lambda: Half(SONG))
    with pytest.raises(
        AudioError, match=rf"^s3://songs/a\.flac: the store ends the song after {len(SONG)} of its \d+ b"
    ):
        load("s3://songs/a.flac")


def test_a_song_that_is_not_there(store: LoopbackStore) -> None:
    with pytest.raises(AudioError, match=r"^s3://songs/absent\.flac: there is no such song in the store\. Check"):
        load("s3://songs/absent.flac")


def test_credentials_of_a_uri_reach_no_name_and_no_message(store: LoopbackStore) -> None:
    store.objects["songs/a.flac"] = SONG
    store.faults["songs/a.flac"] = be_busy
    for uri in ("s3://AKIA:5ecre7%2Fx@songs/a.flac", "s3://AKIA:5ecre7/x@songs/a.flac", "s3://AKIA:5ecre7@songs/none"):
        song = open_song(uri)
        assert "5ecre7" not in song.name
        with pytest.raises(AudioError) as caught:
            song.read()
        assert "5ecre7" not in str(caught.value)
        assert caught.value.__cause__ is None or "5ecre7" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:///etc/passwd", "file:// points to this machine or wraps another location, and is not read"),
        ("local:///etc/passwd", "points to this machine"),
        ("memory://a", "points to this machine"),
        ("zip://*::file:///etc/x.zip", "points to this machine"),
        ("simplecache::s3://songs/a", "is no URI"),
        ("s3://songs/a#b.flac", "a # begins a fragment, which is not sent to a store"),
        ("s3://songs", "is incomplete: expected s3://bucket/path/to/song"),
        ("s3:///a.flac", "is incomplete"),
        (
            "s3://songs/a?endpoint_override=169.254.169.254",
            r"sets its own host \(endpoint_override\), which may",
        ),
        ("gs://songs/a?scheme=http&endpoint_override=x", r"sets its own host \(endpoint_override, scheme\)"),
        ("s3://bucket:80/a.flac", "has a : in the name of its bucket"),
        (
            "sftp://localhost/a.flac",
            r"sftp:// (sets its own host|needs a package .*paramiko)",
        ),
        ("ftp://10.0.0.1/a.flac", "ftp:// sets its own host, which may lie in this network"),
        ("github://me:pw@host/a.flac", "github:// sets its own host"),
        ("nothing://a/b", "nothing:// is a protocol that nothing here reads"),
        ("az://container/a.flac", r"az:// needs a package that is not installed: .*adlfs"),
    ],
)
def test_what_a_uri_of_a_stranger_does_not_reach(uri: str, reason: str) -> None:
    if not is_uri(uri):
        assert reason == "is no URI"
        return
    with pytest.raises(AudioError, match=reason):
        open_song(uri).read()


def test_a_host_of_its_own_is_read_where_that_is_allowed(
    store: LoopbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    store.objects["songs/a.flac"] = SONG
    uri = f"s3://songs/a.flac?scheme=http&endpoint_override={store.host}"
    np.testing.assert_array_equal(load(uri, LOCAL), load_audio(SONG, target_rate=8000))


def test_the_commands_read_uris_and_name_them_without_what_opens_them(
    store: LoopbackStore, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store.objects["songs/a.flac"] = SONG
    (tmp_path / "a.flac").write_bytes(SONG)
    (tmp_path / "list.txt").write_text(f"s3://AKIA:5ecre7@songs/a.flac\n\n  {tmp_path / 'a.flac'}\n")
    songs = ["--songs", str(tmp_path / "list.txt"), "s3://songs/gone.flac", "file:///etc/passwd"]
    words = {"score": ["--model", str(tiny_folder)], "label": ["--teacher", str(tiny_folder)]}
    for command, more in words.items():
        output = tmp_path / f"{command}.jsonl"
        assert main([command, *songs, *more, "--output", str(output)]) == 1
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        names = [row["song" if command == "score" else "id"] for row in rows]
        assert names == ["s3://songs/gone.flac", "file:///etc/passwd", "s3://songs/a.flac", str(tmp_path / "a.flac")]
        assert ["there is no such song" in rows[0]["error"], "points to this machine" in rows[1]["error"]] == [
            True,
            True,
        ]
        scores = [row.get("scores", row.get("clarity")) for row in rows[2:]]
        assert scores[0] == scores[1] is not None
        assert "5ecre7" not in output.read_text() + "".join(capsys.readouterr())


def test_a_dataset_may_name_its_audio_by_uris(store: LoopbackStore, tiny_folder: Path, tmp_path: Path) -> None:
    store.objects["songs/a.flac"] = SONG
    (tmp_path / "set").mkdir()
    audio = [{"bytes": None, "path": "s3://songs/a.flac"}, {"bytes": SONG, "path": None}]
    pq.write_table(pa.table({"id": ["a", "b"], "audio": audio}), tmp_path / "set" / "train-00000-of-00001.parquet")
    output = tmp_path / "labels.jsonl"
    assert main(["label", str(tmp_path / "set"), "--teacher", str(tiny_folder), "--output", str(output)]) == 0
    first, second = (json.loads(line) for line in output.read_text().splitlines())
    assert first["clarity"] == second["clarity"]
    assert main(["embed", str(tmp_path / "set"), "--model", str(tiny_folder), "--output", str(tmp_path / "e")]) == 0


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such list of songs"), ("\n \n", "this list names no song")]
)
def test_a_list_without_songs_is_refused(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    assert main(["score", "--songs", str(tmp_path / "list.txt"), "--model", str(tiny_folder)]) == 2
    assert reason in capsys.readouterr().err
    assert main(["score", "--model", str(tiny_folder)]) == 2
    assert "no songs were given. Pass files" in capsys.readouterr().err


def test_other_protocols_are_read_by_what_fsspec_has(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shelf(fsspec.implementations.memory.MemoryFileSystem):
        protocol = "shelf"
        store: dict = {}  # noqa: RUF012 (as fsspec has it)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix("shelf://").lstrip("/")

    fsspec.register_implementation("shelf", Shelf, clobber=True)
    Shelf().pipe_file("/songs/a.flac", SONG)
    with pytest.raises(AudioError, match="shelf:// sets its own host"):
        load("shelf://songs/a.flac")
    np.testing.assert_array_equal(load("shelf://songs/a.flac", LOCAL), load_audio(SONG, target_rate=8000))


def test_a_song_on_the_hub(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.add_repository("me/songs", {"audio/a.flac": SONG}, repo_type="dataset")
    np.testing.assert_array_equal(load("hf://datasets/me/songs/audio/a.flac"), load_audio(SONG, target_rate=8000))
    with pytest.raises(AudioError, match=r"^hf://datasets/me/songs/absent\.flac: "):
        load("hf://datasets/me/songs/absent.flac")
