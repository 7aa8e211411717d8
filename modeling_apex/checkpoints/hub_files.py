"""
Compare files here with files on the Hub: hashes of both kinds that the Hub keeps, and `SHA256SUMS` beside a model.

The Hub knows a large file by its SHA-256 and a small one by its git blob id; both can be computed from the file alone,
so a comparison needs no second download. `SHA256SUMS` has the format of coreutils: `sha256sum -c SHA256SUMS` reads it.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKSUMS_NAME = "SHA256SUMS"
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class HubFile:
    """
    A file of a Hub repository, as the Hub lists it.

    Args:
        path (`str`): Path in the repository.
        num_bytes (`int`): Its size.
        blob_id (`str`): Git's id of it; of a large file, the id of its pointer.
        sha256 (`str`, *optional*): Hash of the content; the Hub states it for large files.
    """

    path: str
    num_bytes: int
    blob_id: str
    sha256: str | None


def get_hub_errors() -> tuple[type[BaseException], ...]:
    """
    Return what a call to the Hub can raise: refusals, broken lines, and local errors.

    A line that breaks is an error of the HTTP library, which changed with huggingface_hub's versions and is no
    `OSError`. `HfHubHTTPError` descends from that library's base error in each of them.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__


def compute_file_hash(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_blob_id(path: str | os.PathLike) -> str:
    """Return git's id of a file's content, in hexadecimal: SHA-1 over a short header and the bytes."""
    digest = hashlib.sha1(f"blob {os.path.getsize(path)}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def list_hub_files(api: Any, repo_id: str, *, repo_type: str = "model", revision: str | None = None) -> list[HubFile]:
    """
    List the files of a Hub repository with the hashes that the Hub keeps.

    Args:
        api (`huggingface_hub.HfApi`):
            The client.
        repo_id (`str`):
            `"owner/name"`.
        repo_type (`str`, defaults to `"model"`):
            `"model"`, `"dataset"` or `"space"`.
        revision (`str`, *optional*):
            Branch, tag or commit.

    Returns:
        `list[HubFile]`: in the order of their paths.
    """
    files = []
    for entry in api.list_repo_tree(repo_id, repo_type=repo_type, revision=revision, recursive=True):
        if hasattr(entry, "blob_id"):  # a folder has none
            large = entry.lfs
            files.append(HubFile(entry.path, entry.size, entry.blob_id, large.sha256 if large else None))
    return sorted(files, key=lambda file: file.path)


def is_same_file(path: str | os.PathLike, hub_file: HubFile) -> bool:
    """Tell whether a file here has the content that the Hub lists."""
    if os.path.getsize(path) != hub_file.num_bytes:
        return False
    if hub_file.sha256 is not None:
        return compute_file_hash(path) == hub_file.sha256
    return compute_blob_id(path) == hub_file.blob_id


def list_files(folder: str | os.PathLike) -> list[str]:
    """List the files below a folder, as sorted paths with forward slashes; symbolic links count as files."""
    root = Path(folder)
    found = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path.relative_to(root).as_posix() for path in found)


def save_checksums(folder: str | os.PathLike) -> Path:
    """
    Write `SHA256SUMS` of all other files below a folder.

    Args:
        folder (`str` or `os.PathLike`):
            The folder; it must be complete.

    Returns:
        `Path`: the file.
    """
    root = Path(folder)
    names = [name for name in list_files(root) if name != CHECKSUMS_NAME]
    lines = [f"{compute_file_hash(root / name)}  {name}\n" for name in names]
    path = root / CHECKSUMS_NAME
    path.write_text("".join(lines), encoding="utf-8")
    return path


def load_checksums(folder: str | os.PathLike) -> dict[str, str]:
    """
    Read `SHA256SUMS`.

    Args:
        folder (`str` or `os.PathLike`):
            A folder that holds it.

    Returns:
        `dict[str, str]`: path to SHA-256.

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
        if match is None or not _is_inside(match[2]):
            raise ValueError(
                f"{path}, line {number}: expected a SHA-256, two spaces and a path inside the folder, got {line!r}."
            )
        sums[match[2]] = match[1]
    return sums


def find_changed_files(folder: str | os.PathLike, sums: dict[str, str]) -> list[str]:
    """
    Compare a folder with its checksums.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.
        sums (`dict[str, str]`):
            What [`load_checksums`] returned.

    Returns:
        `list[str]`: one line for each file that is missing, other than listed, or not listed.
    """
    root = Path(folder)
    problems = []
    for name, expected in sums.items():
        if not (root / name).is_file():
            problems.append(f"{name} is missing")
        elif (found := compute_file_hash(root / name)) != expected:
            problems.append(f"{name} has SHA-256 {found}, listed is {expected}")
    problems += [f"{name} is not listed" for name in _list_unlisted(root, sums)]
    return problems


def _list_unlisted(root: Path, sums: Iterable[str]) -> list[str]:
    # The Hub adds .gitattributes on its own, and its client keeps notes of a download under .cache.
    listed = {*sums, CHECKSUMS_NAME, ".gitattributes"}
    return [name for name in list_files(root) if name not in listed and not name.startswith(".cache/")]


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in Path(name).parts
