"""Audio files: found by id or path, never outside their folder; looking inside tells sound from broken."""

import numpy as np
import pytest
from source_trees import encode_song, make_song

from datasets_scripts.audio_files import AudioFolder, examine_audio_file, spool_audio
from datasets_scripts.working_files import JOURNAL_NAME, AudioJournal
from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.corpus.song_ids import compute_exact_key
from modeling_apex.storage.contained_paths import AudioPathError, check_relative_path


def test_songs_are_found_by_id_and_by_path(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.mp3", "b.flac", "sub/c.ogg"):
        (tmp_path / name).touch()
    folder = AudioFolder(tmp_path)
    assert folder.find("a") == tmp_path / "a.mp3"
    assert folder.find("b") == tmp_path / "b.flac"
    assert folder.find("a", "sub/c.ogg") == tmp_path / "sub/c.ogg"
    assert folder.find("a", "sub\\c.ogg") == tmp_path / "sub/c.ogg"
    assert folder.find("c") is None
    assert folder.find("a", "missing.mp3") is None


@pytest.mark.parametrize("path", ["../a.mp3", "/etc/passwd", "x/../../a", "..\\a", "C:\\a.mp3", "a\0.mp3"])
def test_paths_that_leave_the_folder_are_refused(path):
    with pytest.raises(AudioPathError, match=r"songs\.jsonl:3: the audio path .* leaves its folder"):
        check_relative_path(path, location="songs.jsonl:3")


def test_ids_are_no_way_out_of_the_folder_either(tmp_path):
    with pytest.raises(AudioPathError, match="leaves its folder"):
        AudioFolder(tmp_path).find("../secret")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No audio folder at .*nowhere"):
        AudioFolder(tmp_path / "nowhere")


def test_looking_inside_a_sound_file(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(encode_song(make_song(1, seconds=3)))
    facts = examine_audio_file(path)
    assert facts.error is None
    assert facts.duration == pytest.approx(3.0)
    assert facts.num_bytes == path.stat().st_size
    assert facts.sha256.hex() == compute_file_hash(path)
    assert facts.fingerprint is not None


def test_looking_inside_a_broken_file_tells_why(tmp_path):
    path = tmp_path / "a.mp3"
    path.write_text("<html>not found</html>")
    facts = examine_audio_file(path)
    assert "a.mp3" in facts.error
    assert str(tmp_path) not in facts.error
    assert facts.duration == 0


def test_audio_from_a_table_becomes_a_file(tmp_path):
    def spool(data, name, root=tmp_path):
        return spool_audio(
            {"bytes": data, "path": name}, tmp_path / "spool", "key", root=root, location="t.parquet, row 3"
        )

    path = spool(b"RIFF", "x/y.wav")
    assert path == tmp_path / "spool" / "key.wav"
    assert path.read_bytes() == b"RIFF"
    assert spool(b"RIFX", "x/y.wav").read_bytes() == b"RIFX"
    assert spool(None, str(path)) == spool(None, "spool/key.wav") == path
    assert spool(None, None) is None
    assert spool(None, "spool/none.wav") is None
    private = tmp_path / "voice-memo.flac"
    private.touch()
    (tmp_path / "spool" / "link.flac").symlink_to(private)
    for name in (str(private), "../voice-memo.flac", "link.flac"):
        with pytest.raises(AudioPathError, match=r"t\.parquet, row 3: the audio .* outside .* --allow-outside-paths"):
            spool(None, name, tmp_path / "spool")
    assert spool(None, str(private), None) == private


def test_a_journal_survives_being_cut_off(tmp_path):
    audio = tmp_path / "a.flac"
    audio.write_bytes(encode_song(make_song(1)))
    (tmp_path / "b.flac").write_bytes(b"broken")
    journal = AudioJournal(tmp_path)
    journal.append(4, compute_exact_key("a"), examine_audio_file(audio))
    journal.append(7, compute_exact_key("b"), examine_audio_file(tmp_path / "b.flac"))
    with open(tmp_path / JOURNAL_NAME, "ab") as stream:
        stream.write(b"half a record")
    with open(tmp_path / "audio_errors.jsonl", "a") as stream:
        stream.write('\n{"row": 9, "err')
    records = AudioJournal(tmp_path).load()
    assert records["row"].tolist() == [4, 7]
    assert records["is_sound"].tolist() == [1, 0]
    assert records["duration"][0] == pytest.approx(2.0)
    assert np.array_equal(records["sha256"][0], np.frombuffer(bytes.fromhex(compute_file_hash(audio)), np.uint8))
    assert list(AudioJournal(tmp_path).load_errors()) == [7]
