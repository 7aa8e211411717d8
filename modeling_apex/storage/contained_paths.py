"""
Paths that a table names: what comes in is a path from a file that may be anybody's; what leaves lies in the folder
that the table is about, or it is refused by name.

Without this a row such as `{"bytes": null, "path": "/home/me/voice-memo.flac"}` would carry a file of this machine
into a dataset that is then published.
"""

from collections.abc import Sequence
from pathlib import Path

from modeling_apex.storage import file_names


class AudioPathError(ValueError):
    """A path in a table that points out of the folder it belongs to."""


def check_relative_path(path: str, *, location: str = "") -> str:
    """
    Make sure that a path from a table is relative to its folder; `/` and `\\` both separate, the result has `/`.

    Raises:
        [`AudioPathError`]: If it is absolute or climbs out by `..`; the message says where the row stands.
    """
    where = f"{location}: " if location else ""
    try:
        return file_names.check_relative_path(path, f"{where}the audio path")
    except ValueError as error:
        raise AudioPathError(str(error)) from error


def refuse_outside(path: Path, folders: Sequence[Path], *, location: str = "", flag: str = "") -> Path:
    """
    Make sure that a file lies in one of some folders, links followed.

    Args:
        path (`Path`):
            The file.
        folders (`Sequence[Path]`):
            Where it may lie; in the cache of the Hub, whose snapshots are folders of links, also in the blobs of it.
        location, flag (`str`):
            Where the row stands, and what allows more, for the message.

    Returns:
        `Path`: the file, as it was given.

    Raises:
        [`AudioPathError`]: If it lies elsewhere.
    """
    resolved = path.resolve()
    roots = [folder.resolve() for folder in folders]
    roots += [root.parents[1] / "blobs" for root in roots if root.parent.name == "snapshots"]
    if not any(resolved.is_relative_to(root) for root in roots):
        where = f"{location}: " if location else ""
        way_out = f" If the table is yours, {flag} allows it." if flag else ""
        leads = f" (by a link, to {resolved})" if resolved != path.absolute() else ""
        raise AudioPathError(
            f"{where}the audio {str(path)!r}{leads} is outside {' and '.join(map(str, folders))}, the folder "
            f"that the table is about. Put the file there.{way_out}"
        )
    return path
