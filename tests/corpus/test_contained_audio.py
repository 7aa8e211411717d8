"""Audio that a dataset names by its path lies in the dataset's folder, or where its reader says that it may."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_apex.corpus.song_source import AUDIO_FOLDERS_VARIABLE, open_song_source
from modeling_apex.storage.contained_paths import AudioPathError

from song_folders import make_wav

SCHEMA = pa.schema([("id", pa.string()), ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])


def save_dataset(folder: Path, audio: object, schema: pa.Schema | None = SCHEMA) -> Path:
    folder.mkdir()
    table = pa.Table.from_pylist([{"id": "a", "audio": audio}], schema=schema)
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    (folder / "own.wav").write_bytes(make_wav(0, 0.1))
    return folder


def read_audio(folder: Path | str) -> object:
    return next(open_song_source(folder).iterate("train", 0, 1)).audio


def test_audio_beside_the_table_is_read(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "one", {"bytes": None, "path": "own.wav"})
    assert read_audio(folder) == {"bytes": None, "path": str(folder / "own.wav")}
    assert read_audio(save_dataset(tmp_path / "two", "own.wav", None)) == str(tmp_path / "two" / "own.wav")
    embedded = {"bytes": b"RIFF", "path": "/etc/passwd"}
    assert read_audio(save_dataset(tmp_path / "three", embedded)) == embedded
    assert (
        read_audio(save_dataset(tmp_path / "four", "https://example.org/a.mp3", None)) == "https://example.org/a.mp3"
    )


@pytest.mark.parametrize("is_text", [False, True])
def test_a_dataset_cannot_name_other_files_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_text: bool
) -> None:
    private = tmp_path / "private" / "voice-memo.flac"
    private.parent.mkdir()
    private.touch()
    for number, path in enumerate((str(private), "../private/voice-memo.flac", "link.flac")):
        audio = path if is_text else {"bytes": None, "path": path}
        folder = save_dataset(tmp_path / f"dataset{number}", audio, None if is_text else SCHEMA)
        (folder / "link.flac").symlink_to(private)
        monkeypatch.delenv(AUDIO_FOLDERS_VARIABLE, raising=False)
        with pytest.raises(AudioPathError, match=r"dataset\d, song 'a': the audio .* is outside .*_AUDIO_FOLDERS="):
            read_audio(folder)
        monkeypatch.setenv(AUDIO_FOLDERS_VARIABLE, str(private.parent))
        assert read_audio(folder) is not None


def test_a_dataset_of_the_hub_cannot_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": "a", "audio": {"bytes": None, "path": str(tmp_path / "voice-memo.flac")}}]
    features = datasets.Features({"id": datasets.Value("string"), "audio": datasets.Audio(decode=False)})
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    made = datasets.DatasetDict({"train": datasets.Dataset(table)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    with pytest.raises(AudioPathError, match=r"owner/songs, song 'a': the audio .*voice-memo\.flac' is outside"):
        read_audio("owner/songs")
