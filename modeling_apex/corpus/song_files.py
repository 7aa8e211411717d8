"""
Find the songs that a command line names: files, folders, patterns and URLs.

What comes in are the words of the command line; what leaves is a list without doubles, in a stable order. A name that
leads nowhere stays in the list, so that it is reported as one song that failed and not lost.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from modeling_apex.corpus.identity import is_uri
from modeling_apex.storage.table_reader import get_table_suffix, iterate_lines

# What a folder is searched for. A file that is named outright is tried whatever its suffix.
AUDIO_SUFFIXES = frozenset(
    {".aac", ".ac3", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mov"}
    | {".mp2", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".wav", ".webm", ".wma"}
)
# What the shards of a dataset are called.
SHARD_NAME = re.compile(r"(?P<split>.+?)-\d{5}(-of-\d{5})?\.parquet")
# Of the Hub; what begins with a dot or a tilde, or ends in a slash, is meant as a path.
DATASET_ID = re.compile(r"[A-Za-z0-9_-][\w.-]*/[\w.-]+")


def find_songs(names: Iterable[str]) -> list[str]:
    """
    Expand names to songs.

    Args:
        names (`Iterable[str]`):
            Files, folders (searched with their sub-folders), glob patterns, URLs and other URIs.

    Returns:
        `list[str]`: paths and URLs, each once; those of a folder or pattern are sorted. What is hidden in a folder is
        passed over; a folder that a link leads to is searched too, once.

    Raises:
        `ValueError`: If a name is empty.
        `FileNotFoundError`: If a folder holds no audio, or a pattern matches nothing.
    """
    songs: dict[str, None] = {}
    for name in names:
        if is_uri(name):
            songs[name] = None
            continue
        if not name.strip():
            raise ValueError(
                f"a song is given by an empty string {name!r}. Pass a file, a folder, a pattern or a URL."
            )
        path = Path(os.path.expanduser(name))  # `~tilde.wav` stays a name
        if path.is_dir():
            found = sorted(search_folder(path))
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


def is_table(name: str) -> bool:
    """Tell whether a name is that of a file whose rows are songs."""
    return get_table_suffix(name) != "" and os.path.isfile(os.path.expanduser(name))


def is_dataset(name: str) -> bool:
    """Tell whether a name is that of a folder of shards, or looks like that of a dataset on the Hub."""
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return bool(list_shards(path))
    is_file_name = path.suffix.lower() in AUDIO_SUFFIXES or glob.has_magic(name) or get_table_suffix(name) != ""
    # What is missing from a folder that is there is a slip, and no host is asked for it.
    is_path = is_file_name or os.path.lexists(path) or path.parent.is_dir()
    return not is_path and DATASET_ID.fullmatch(name) is not None


def find_folder(names: Sequence[str], is_one: Callable[[Path], bool], content: str) -> Path | None:
    """
    Find out whether songs are given by a folder of what was made of them.

    Args:
        names (`Sequence[str]`):
            What a command line names.
        is_one (`Callable[[Path], bool]`), content (`str`):
            Tells such a folder from others; what it holds, for the message.

    Returns:
        `Path` or `None`: the folder; `None` if no name is one.

    Raises:
        `ValueError`: If such a folder is named together with something else.
    """
    folder = next(filter(is_one, (Path(os.path.expanduser(name)) for name in names)), None)
    if folder is not None and len(names) > 1:
        raise ValueError(
            f"{folder}: holds {content}, and was given together with other inputs. Pass this folder alone, or songs "
            "alone."
        )
    return folder


def list_shards(folder: Path) -> list[Path]:
    """List the files below a folder that are called like shards of a dataset."""
    return [path for path in list_parquet_files(folder) if SHARD_NAME.fullmatch(path.name)]


def list_parquet_files(folder: Path) -> list[Path]:
    """List the files of Parquet where a dataset has them: in its `data`, or else in the folder itself."""
    return sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet"))


def read_song_list(path: str | os.PathLike) -> list[str]:
    """
    Read the songs of a list: a text file with a path, pattern, URL or other URI on each line, as a command line has
    them; empty lines are passed over.

    Raises:
        `FileNotFoundError`: If there is no such file.
        `ValueError`: If it names no song, or is called like a table.
        [`TableError`]: If it is no text.
    """
    place = Path(os.path.expanduser(path))
    if not place.is_file():
        raise FileNotFoundError(f"{path}: no such list of songs. Pass a text file with a song on each line.")
    if get_table_suffix(place):
        raise ValueError(f"{path}: is named like a table. Pass it without --songs: a list is text and has no ids.")
    songs = [line.strip() for _, line in iterate_lines(place) if not line.isspace()]
    if not songs:
        raise ValueError(f"{path}: this list names no song. Write a path, pattern or URL on each line.")
    return songs


def search_folder(folder: Path) -> Iterator[str]:
    """Yield the audio below a folder. Links to folders come last, so that a song has its own name where it has one."""
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        links: list[str] = []
        for directory, folders, files in os.walk(waiting.pop(0)):
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links += [path for name in folders if os.path.islink(path := os.path.join(directory, name))]
            for file in files:
                if not file.startswith(".") and Path(file).suffix.lower() in AUDIO_SUFFIXES:
                    yield os.path.join(directory, file)
        waiting += [link for link in links if not _leads_back(link)]


def _leads_back(link: str) -> bool:
    """Tell whether a link leads to a folder that it lies in: a loop, or a way out to all that lies beside."""
    place, target = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    return os.path.commonpath([place, target]) == target
