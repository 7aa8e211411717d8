"""
Find the songs that a command line names: files, folders, patterns and URLs.

What comes in are the words of the command line; what leaves is a list without doubles, in a stable order. A name that
leads nowhere stays in the list, so that it is reported as one song that failed and not lost.
"""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

# What a folder is searched for. A file that is named outright is tried whatever its suffix.
AUDIO_SUFFIXES = frozenset(
    {".aac", ".ac3", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mov"}
    | {".mp2", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".wav", ".webm", ".wma"}
)


def find_songs(names: Iterable[str]) -> list[str]:
    """
    Expand names to songs.

    Args:
        names (`Iterable[str]`):
            Files, folders (searched with their sub-folders), glob patterns, `http(s)` URLs.

    Returns:
        `list[str]`: paths and URLs, each once; those of a folder or pattern are sorted.

    Raises:
        `FileNotFoundError`: If a folder holds no audio, or a pattern matches nothing.
    """
    songs: dict[str, None] = {}
    for name in names:
        if name.startswith(("http://", "https://")):
            songs[name] = None
            continue
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(
                os.path.join(directory, file)
                for directory, _, files in os.walk(path)
                for file in files
                if Path(file).suffix.lower() in AUDIO_SUFFIXES
            )
            if not found:
                raise FileNotFoundError(
                    f"{name}: no audio in this folder; looked for {', '.join(sorted(AUDIO_SUFFIXES))}."
                )
        elif not path.exists() and glob.has_magic(name):
            found = sorted(match for match in glob.glob(str(path), recursive=True) if os.path.isfile(match))
            if not found:
                raise FileNotFoundError(f"{name}: no file matches this pattern.")
        else:
            found = [str(path)]
        songs.update(dict.fromkeys(found))
    return list(songs)
