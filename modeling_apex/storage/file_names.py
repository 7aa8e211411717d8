"""
Names that stand in files, such as those of splits, on their way to becoming paths: checked here and nowhere else.

Whoever wrote the file may be a stranger, so a name must be one that every file system takes for a name and nothing
else: it leaves no folder, means no device, and a terminal shows it as it is.
"""

import os
import re
from pathlib import PurePosixPath
from typing import Any

MAX_NAME_BYTES = 180  # file systems take 255; the rest is for what is added to it
MAX_PART_BYTES = 255
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows, also with a suffix


def check_file_name(name: Any, what: str) -> str:
    """
    Make sure that a name can be the name of a file, or the beginning of one.

    Args:
        name:
            What was read.
        what (`str`):
            What it names and where it was read, for the message: "manifest.json: the split".

    Returns:
        `str`: the name, as it is.

    Raises:
        `ValueError`: If it cannot; the message says why.
    """
    if problem := _find_problem(name):
        shown = repr(name)
        shown = shown if len(shown) <= 100 else f"{shown[:97]}..."
        raise ValueError(f"{what} {shown} cannot be the name of a file, because it {problem}. Rename it.")
    return str(name)


def check_relative_path(path: Any, what: str) -> str:
    """
    Make sure that a path stays inside the folder that it is relative to; `/` and `\\` both separate.

    Args:
        path:
            What was read.
        what (`str`):
            As for `check_file_name`.

    Returns:
        `str`: the path, with `/`.

    Raises:
        `ValueError`: If it is absolute, climbs out by `..`, or is nothing that a file system can be asked for.
    """
    if not isinstance(path, str):
        raise ValueError(f"{what} {path!r} is of type {type(path).__name__}, not a path.")
    parts = PurePosixPath(path.replace("\\", "/"))
    leaves = parts.is_absolute() or ".." in parts.parts or (parts.parts and parts.parts[0].endswith(":"))
    if leaves or "\0" in path:
        raise ValueError(f"{what} {path!r} leaves its folder. Use relative paths only.")
    try:
        is_too_long = any(len(os.fsencode(part)) > MAX_PART_BYTES for part in parts.parts)
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {path!r} holds characters that are not valid text. Correct it.") from error
    if is_too_long:
        raise ValueError(f"{what} {path[:80]!r}... is too long for a file name. Shorten it.")
    return str(parts)


def _find_problem(name: Any) -> str | None:
    """Say in words that follow "it" why a name cannot be that of a file; `None` if it can."""
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}, not text"
    if not name or name.strip(". ") == "":
        return "is empty" if not name else "is made of dots or spaces"
    if not name.isprintable():
        return "holds characters that cannot be shown"
    if found := next((character for character in '/\\:<>"|?*' if character in name), None):
        return f"holds {found!r}"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"is longer than {MAX_NAME_BYTES} bytes"
    if DEVICES.fullmatch(name):
        return "is the name of a device on some systems"
    return "ends in a dot or a space" if name[-1] in ". " else None
