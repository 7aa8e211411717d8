"""Nothing is written through a link, whatever it leads to."""

import os
import stat
from pathlib import Path

import pytest

from modeling_apex.storage.links import LinkRefusedError, open_to_append
from modeling_apex.storage.output_folder import load_json, replace_file, replace_text, save_json, write_new_folder


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    path = tmp_path / "diary"
    path.write_text("dear diary")
    return path


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_file_is_replaced_and_not_written_through(tmp_path: Path, diary: Path, link, is_shared: bool) -> None:
    number = f".{os.getpid()}" if is_shared else ""
    for name in ("state.json", f"state.json{number}.writing"):
        link(tmp_path / name, diary)
    save_json(tmp_path / "state.json", {"a": 1}, is_shared=is_shared)
    assert diary.read_text() == "dear diary"
    assert load_json(tmp_path / "state.json", "") == {"a": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["diary", "state.json"]


def test_a_journal_must_be_a_file_of_its_own(tmp_path: Path, diary: Path) -> None:
    journal = tmp_path / "journal"
    for text in ("one\n", "two\n"):
        with open_to_append(journal, encoding="utf-8") as file:
            file.write(text)
    assert journal.read_text() == "one\ntwo\n"
    for link in (Path.symlink_to, Path.hardlink_to):
        link(tmp_path / link.__name__, diary)
        with pytest.raises(
            LinkRefusedError, match=f"{link.__name__}: is a link, and nothing is written through links"
        ):
            open_to_append(tmp_path / link.__name__)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LinkRefusedError, match=r"pipe: is not a regular file, .* are written\. Choose another"):
        replace_text(tmp_path / "pipe", "a device would be replaced by a file")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(LinkRefusedError, match="pipe: is not a regular file, and only regular files are written"):
        open_to_append(tmp_path / "pipe")
    assert diary.read_text() == "dear diary"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    replace_text(tmp_path / "a", "old")
    with pytest.raises(TypeError, match="bytes-like"), replace_file(tmp_path / "a") as file:
        file.writelines([b"new", "text"])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_names_that_are_no_text_survive_json(tmp_path: Path) -> None:
    save_json(tmp_path / "a.json", {"song": "\udcff.wav"})
    assert load_json(tmp_path / "a.json", "") == {"song": "\udcff.wav"}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_json_is_named_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: damaged: it is not JSON \(.*\)\. Delete it\."):
        load_json(tmp_path / "a.json", "Delete it.")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        with write_new_folder(tmp_path / "model") as part:
            (part / "sub").mkdir()
            for name in ("model.safetensors", "sub/config.json"):
                (part / name).touch(mode=0o600)
        replace_text(tmp_path / "scores.json", "")
        with open_to_append(tmp_path / "journal"):
            pass
    finally:
        os.umask(before)
    names = ("model/model.safetensors", "model/sub/config.json", "scores.json", "journal")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names] == [mode] * 4
