"""Hashes of files as git, the Hub and coreutils know them."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_apex.checkpoints.hub_files import (
    HubFile,
    compute_blob_id,
    compute_file_hash,
    find_changed_files,
    is_same_file,
    list_files,
    list_hub_files,
    load_checksums,
    save_checksums,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub folder").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "sub folder" / "b.bin").write_bytes(bytes(range(256)))
    return tmp_path


def test_blob_ids_are_those_of_git(tmp_path: Path) -> None:
    # `git hash-object` of an empty file and of "what is up, doc?" (from the book Pro Git).
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert compute_blob_id(path) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    path.write_bytes(b"what is up, doc?")
    assert compute_blob_id(path) == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_checksums_are_read_by_coreutils(folder: Path) -> None:
    program = shutil.which("sha256sum")
    assert program, "coreutils are needed for this test"
    assert save_checksums(folder) == folder / "SHA256SUMS"
    assert subprocess.run([program, "--check", "SHA256SUMS"], cwd=folder, capture_output=True).returncode == 0
    assert load_checksums(folder) == {name: compute_file_hash(folder / name) for name in ("a.txt", "sub folder/b.bin")}
    assert find_changed_files(folder, load_checksums(folder)) == []


def test_every_difference_is_named(folder: Path) -> None:
    save_checksums(folder)
    (folder / "a.txt").write_text("two")
    (folder / "sub folder" / "b.bin").unlink()
    (folder / "c").write_text("new")
    (folder / ".gitattributes").write_text("the Hub's own")
    changed, missing, unlisted = sorted(find_changed_files(folder, load_checksums(folder)))
    assert changed.startswith("a.txt has SHA-256 ")
    assert missing == "c is not listed"
    assert unlisted == "sub folder/b.bin is missing"


@pytest.mark.parametrize("line", ["nonsense", "0" * 64 + "  ../outside", "0" * 64 + "  /etc/passwd", "0" * 63 + "  a"])
def test_lists_that_point_elsewhere_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "SHA256SUMS").write_text(line + "\n")
    with pytest.raises(
        ValueError,
        match=r"line 1: (expected a SHA-256, two spaces and a path inside the|the path .* leaves its) folder",
    ):
        load_checksums(tmp_path)


def test_absent_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="SHA256SUMS: no such file"):
        load_checksums(tmp_path)


def test_links_are_listed_and_never_followed(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent)
    assert list_files(folder) == ["a.txt", "link", "sub folder/b.bin"]


@settings(max_examples=25, deadline=None)
@given(content=st.binary(max_size=300), other=st.binary(max_size=300))
def test_files_are_the_same_exactly_when_their_content_is(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, other: bytes
) -> None:
    root = tmp_path_factory.mktemp("files")
    (root / "here").write_bytes(content)
    (root / "there").write_bytes(other)
    blob, sha256 = compute_blob_id(root / "there"), compute_file_hash(root / "there")
    small = HubFile("x", len(other), blob, None)
    large = HubFile("x", len(other), "0" * 40, sha256)
    assert is_same_file(root / "here", small) == is_same_file(root / "here", large) == (content == other)


def test_the_hubs_list_leaves_out_folders() -> None:
    entries = [
        SimpleNamespace(path="b", size=3, blob_id="1" * 40, lfs=None),
        SimpleNamespace(path="folder", tree_id="2" * 40),
        SimpleNamespace(path="a", size=9, blob_id="3" * 40, lfs=SimpleNamespace(sha256="4" * 64)),
    ]
    api = SimpleNamespace(list_repo_tree=lambda repo_id, **options: entries)
    files = list_hub_files(api, "me/x")
    assert files == [HubFile("a", 9, "3" * 40, "4" * 64), HubFile("b", 3, "1" * 40, None)]
