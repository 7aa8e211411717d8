"""
No write through a link: what an output folder holds may come from a stranger.

A link in a folder that was downloaded can lead to any file of the user, so nothing is opened for writing, locked or
cut through one. A file that is made takes the place of whatever bears its name; a file that is appended to must be one
of its own, and a folder that a command fills must hold no link that leads out of it.
"""

import os
import stat
from pathlib import Path
from typing import IO, Any, BinaryIO

NO_FOLLOWING = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for its other end


class LinkRefusedError(OSError):
    """A link lies where something is to be written. The message names it."""


def refuse_link(path: Path) -> None:
    """
    Refuse to write to a file that is not one of its own: a link, a second name of another file, a pipe, a device.

    Raises:
        [`LinkRefusedError`]: If it is; a missing file is not.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
        raise LinkRefusedError(f"{path}: is a link, and nothing is written through links. Remove it.")
    refuse_irregular(path)


def refuse_irregular(path: Path) -> None:
    """
    Refuse to replace what is no file: a pipe, a device, a folder.

    Raises:
        [`LinkRefusedError`]: If it is; a missing file is not.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.stat().st_mode):
        raise LinkRefusedError(
            f"{path}: is not a regular file, and only regular files are written. Choose another output."
        )


def refuse_links_out_of(folder: Path) -> None:
    """
    Refuse a folder that is about to be filled and from which a link leads out, however deep.

    Links that stay inside are left alone: trackers of experiments make such.

    Raises:
        [`LinkRefusedError`]: If there is one.
    """
    root = os.path.realpath(folder)
    for directory, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(directory, name)
            if os.path.islink(path) and os.path.commonpath([root, os.path.realpath(path)]) != root:
                raise LinkRefusedError(
                    f"{path}: is a link that leads out of the output {folder}, and nothing is written through links. "
                    "Remove it, or choose another output."
                )


def open_new(path: Path) -> BinaryIO:
    """Open a file that is made now; whatever bears its name is removed, and a link to elsewhere with it."""
    path.unlink(missing_ok=True)
    return open(path, "xb")  # "x" follows no link


def open_to_append(path: Path, **options: Any) -> IO[Any]:
    """
    Open a file to write behind its end; it is made if it is missing.

    Args:
        path (`Path`):
            The file.
        options:
            As for `open`: `encoding`, `errors`.

    Raises:
        [`LinkRefusedError`]: If a link lies there.
    """
    refuse_link(path)
    return open(path, "a", opener=_open_itself, **options)


def _open_itself(path: str, flags: int) -> int:
    return os.open(path, flags | NO_FOLLOWING, 0o666)
