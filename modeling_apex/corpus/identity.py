"""
What stored work was made from: the content of its inputs, never their names.

What comes in are inputs (files, bytes, rows of labels, options) and what is stored of an earlier look at them; what
leaves are hashes, and a refusal that names each difference. A name stays when content changes: a corrected table,
other audio under an old id, a branch that moved. So whatever is stored carries the identity of what made it, and is
taken up again for exactly that.

A file is read once. After that its size, its times and its inode say that it is unchanged; its time of change cannot
be set by a program, so content that changes never passes. Standard library only: builders of datasets use it too.
"""

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

# A clock tick of a file system is a few milliseconds: a file that changed less than this before it was read could
# change again within the same tick, so its stamp is not kept, and it is read again the next time.
SETTLING_NS = 2_000_000_000
READ_ATTEMPTS = 3
URL_PREFIXES = ("http://", "https://")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class FileStamp:
    """
    What the file system says of a file; it changes whenever the content does.

    Args:
        num_bytes (`int`):
            Size.
        modified_ns (`int`), changed_ns (`int`):
            Time of the last writing, which a program can set back, and of the last change, which none can; nanoseconds
            since 1970.
        inode (`int`):
            Number of the file in its file system.
    """

    num_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def from_status(cls, status: os.stat_result) -> Self:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def is_settled(self) -> bool:
        """Tell whether the last change is long enough ago that the next one must get another time."""
        return time.time_ns() - self.changed_ns > SETTLING_NS


@dataclass(frozen=True)
class ContentIdentity:
    """
    The content of one input.

    Args:
        sha256 (`str`):
            Hash of its bytes, hexadecimal.
        stamp ([`FileStamp`], *optional*):
            By which the same file is known to be unchanged without reading it. `None` for bytes in memory, and for a
            file that had changed just before it was read.
    """

    sha256: str
    stamp: FileStamp | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` reads them."""
        return {"sha256": self.sha256} | ({"stamp": list(astuple(self.stamp))} if self.stamp else {})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """
        Read what `to_json` wrote.

        Raises:
            `ValueError`: If it is something else.
        """
        sha256, stamp = fields.get("sha256"), fields.get("stamp")
        is_stamp = stamp is None or (isinstance(stamp, list) and [type(value) for value in stamp] == [int] * 4)
        if not isinstance(sha256, str) or not is_stamp:
            raise ValueError(f"not the identity of a file: {dict(fields)!r}.")
        return cls(sha256, FileStamp(*stamp) if stamp else None)


def identify_file(
    path: str | os.PathLike, known: ContentIdentity | None = None, *, rereads: bool = False
) -> ContentIdentity:
    """
    Identify the content of a file, without reading it where it is known to be unchanged.

    Args:
        path (`str` or `os.PathLike`):
            The file; links are followed.
        known ([`ContentIdentity`], *optional*):
            What was found the last time.
        rereads (`bool`, defaults to `False`):
            Whether to read it even if its stamp is the known one.

    Returns:
        [`ContentIdentity`]: `known` itself if the file is unchanged.

    Raises:
        `OSError`: If it cannot be read, is no regular file, or changes again and again while it is read.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISFIFO(mode):
        raise OSError(f"{os.fspath(path)}: is a pipe, and what comes out is read once. Save it as a file first.")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # such as /dev/zero, which has no end
        raise OSError(f"{os.fspath(path)}: is not a regular file. Save what it gives as a file first.")
    for _ in range(READ_ATTEMPTS):
        with open(path, "rb") as file:
            before = FileStamp.from_status(os.fstat(file.fileno()))
            if known is not None and known.stamp == before and not rereads:
                return known
            is_settled = before.is_settled()
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if FileStamp.from_status(os.fstat(file.fileno())) == before:
                return ContentIdentity(sha256, before if is_settled else None)
    raise OSError(f"{os.fspath(path)}: changes while it is read. Wait until it is written, then try again.")


def identify_audio(
    audio: Any, known: ContentIdentity | None = None, *, rereads: bool = False
) -> ContentIdentity | None:
    """
    Identify the audio of a song as sources of songs give it.

    Args:
        audio (`str`, `os.PathLike`, `bytes` or `dict` with `bytes` or `path`):
            The song.
        known ([`ContentIdentity`], *optional*), rereads (`bool`, defaults to `False`):
            As for `identify_file`.

    Returns:
        [`ContentIdentity`] or `None`: `None` where nothing can be known without fetching or decoding the song: a URL,
        an array, a file that is missing.
    """
    if isinstance(audio, Mapping):
        audio = audio.get("bytes") if audio.get("bytes") is not None else audio.get("path")
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return ContentIdentity(hashlib.sha256(audio).hexdigest())
    if not isinstance(audio, (str, os.PathLike)) or is_uri(os.fspath(audio)):
        return None
    try:
        return identify_file(audio, known, rereads=rereads)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def is_uri(audio: Any) -> bool:
    """Tell whether a song is given by a URL or another URI rather than by a path."""
    return isinstance(audio, str) and _URI.match(audio) is not None


def hash_json(value: Any) -> str:
    """Hash plain values, such as a row of labels or options: SHA-256 of their JSON with sorted keys, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def list_differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Name each entry of `expected` that was found to be something else, in the words of a message."""
    return [
        f"{name} {_shorten(found.get(name))} instead of {_shorten(wanted)}"
        for name, wanted in expected.items()
        if found.get(name) != wanted
    ]


def refuse_differences(
    place: str | Path, what: str, found: Mapping[str, Any], expected: Mapping[str, Any], remedy: str
) -> None:
    """
    Refuse stored work that was made from something else.

    Args:
        place (`str` or `Path`):
            Where it lies.
        what (`str`):
            What it is, for the message: "embeddings", "scores of battles".
        found (`Mapping`), expected (`Mapping`):
            What it was made from, and what is wanted now; entries that `expected` lacks do not count.
        remedy (`str`):
            What to do.

    Raises:
        `ValueError`: If any entry differs; the message names them all.
    """
    if differences := list_differences(found, expected):
        raise ValueError(f"{place}: holds {what} made from something else ({'; '.join(differences)}). {remedy}")


def _shorten(value: Any) -> str:
    """Show a hash by its first digits, which is how people compare them."""
    is_hash = isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
    return f"{value[:12]}…" if is_hash else repr(value)
