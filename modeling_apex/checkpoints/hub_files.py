"""
Compare files here with files on the Hub: hashes of both kinds that the Hub keeps, and `SHA256SUMS` beside a model.

The Hub knows a large file by its SHA-256 and a small one by its git blob id; both can be computed from the file alone,
so a comparison needs no second download. `SHA256SUMS` has the format of coreutils: `sha256sum -c SHA256SUMS` reads it.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_apex.storage.file_names import check_relative_path
from modeling_apex.storage.output_folder import replace_text

CHECKSUMS_NAME = "SHA256SUMS"
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class HubFile:
    """A file of a Hub repository, as the Hub lists it."""

    path: str
    num_bytes: int
    blob_id: str  # Git's id of it; of a large file, the id of its pointer
    sha256: str | None  # of the content; the Hub states it for large files


def get_hub_errors() -> tuple[type[BaseException], ...]:
    """Return what a call to the Hub can raise: local errors, and those of its HTTP library, which are no `OSError`."""
    # That library changes with huggingface_hub's versions; `HfHubHTTPError` descends from its base error in each.
    from huggingface_hub.errors import HfHubHTTPError

    errors: tuple[type[BaseException], ...] = HfHubHTTPError.__bases__
    return errors


def compute_file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_blob_id(path: str | os.PathLike[str]) -> str:
    """Return git's id of a file's content, in hexadecimal: SHA-1 over a short header and the bytes."""
    content = Path(path).read_bytes()  # the Hub keeps small files only by this id
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def list_hub_files(api: Any, repo_id: str, *, repo_type: str = "model", revision: str | None = None) -> list[HubFile]:
    """List the files of a Hub repository with the hashes that the Hub keeps, in the order of their paths."""
    entries = api.list_repo_tree(repo_id, repo_type=repo_type, revision=revision, recursive=True)
    files = (
        HubFile(entry.path, entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
        for entry in entries
        if hasattr(entry, "blob_id")  # a folder has none
    )
    return sorted(files, key=lambda file: file.path)


def is_same_file(path: str | os.PathLike[str], hub_file: HubFile) -> bool:
    """Tell whether a file here has the content that the Hub lists."""
    if os.path.getsize(path) != hub_file.num_bytes:
        return False
    if hub_file.sha256 is not None:
        return compute_file_hash(path) == hub_file.sha256
    return compute_blob_id(path) == hub_file.blob_id


def list_files(folder: str | os.PathLike[str]) -> list[str]:
    """List the files below a folder, as sorted paths with forward slashes; symbolic links count as files."""
    root = Path(folder)
    found = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(root).as_posix() for path in found)


def save_checksums(folder: str | os.PathLike[str]) -> Path:
    """Write `SHA256SUMS` of all other files below a complete folder; return its path."""
    path = Path(folder) / CHECKSUMS_NAME
    names = [name for name in list_files(folder) if name != CHECKSUMS_NAME]
    lines = [f"{compute_file_hash(path.parent / name)}  {name}\n" for name in names]
    replace_text(path, "".join(lines))
    return path


def load_checksums(folder: str | os.PathLike[str]) -> dict[str, str]:
    """
    Read the `SHA256SUMS` of a folder: path to SHA-256.

    Raises:
        `FileNotFoundError`: If the folder has none.
        `ValueError`: If a line is not a hash and a path inside the folder.
    """
    path = Path(folder) / CHECKSUMS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = _CHECKSUM_LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{path}, line {number}: expected a SHA-256, two spaces and a path inside the folder, got {line!r}."
            )
        check_relative_path(match[2], f"{path}, line {number}: the path")
        sums[match[2]] = match[1]
    return sums


def find_changed_files(folder: str | os.PathLike[str], sums: dict[str, str]) -> list[str]:
    """Compare a folder with its checksums: a line for each file that is missing, not as listed, or not listed."""
    root = Path(folder)
    problems = []
    for name, expected in sums.items():
        if not (root / name).is_file():
            problems.append(f"{name} is missing")
        elif (found := compute_file_hash(root / name)) != expected:
            problems.append(f"{name} has SHA-256 {found}, but {expected} is listed")
    # The Hub adds .gitattributes on its own, and its client keeps notes of a download under .cache.
    listed = {*sums, CHECKSUMS_NAME, ".gitattributes"}
    unlisted = [name for name in list_files(root) if name not in listed and not name.startswith(".cache/")]
    return problems + [f"{name} is not listed" for name in unlisted]
