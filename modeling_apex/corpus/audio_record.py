"""
What the audio of stored songs was, so that a song whose audio changed is seen without reading all of them again.

What comes in are songs of a source; what leaves is a record: per song the content of its audio, per file that holds it
a stamp. Where the stamps still hold, the record of the last time is the record of now. Where a file of a dataset was
rewritten, its songs are read and compared one by one, so that those that kept their audio are known to have.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from modeling_apex.corpus.identity import ContentIdentity, FileStamp, identify_audio, is_uri
from modeling_apex.storage.output_folder import replace_text

if TYPE_CHECKING:  # datasets need pyarrow, and the journal of `score` does without
    from modeling_apex.corpus.song_source import Song, SongSource

UNREADABLE = "unreadable"
ADDRESS = "address "


@dataclass(frozen=True)
class SongAudio:
    """
    The audio of one song.

    Args:
        content (`str`):
            SHA-256 of its bytes, hexadecimal. What lies behind a URL is known by the SHA-256 of the URL alone: nothing
            but fetching it would tell more, and the URL itself can hold a password. A file that is missing or cannot
            be read is `"unreadable"`.
        path (`str`, *optional*):
            The file of its own that it lies in.
        stamp ([`FileStamp`], *optional*):
            Of that file.
    """

    content: str
    path: str | None = None
    stamp: FileStamp | None = None

    @property
    def is_address(self) -> bool:
        return self.content.startswith(ADDRESS)

    def to_json(self) -> list[Any]:
        """Return plain values; `from_json` reads them."""
        return [self.content, self.path, self.stamp and list(astuple(self.stamp))]

    @classmethod
    def from_json(cls, fields: list[Any]) -> Self:
        """Read what `to_json` wrote."""
        content, path, stamp = fields
        return cls(content, path, FileStamp(*stamp) if stamp else None)


def identify_song(audio: Any, known: SongAudio | None = None, *, rereads: bool = False) -> SongAudio:
    """
    Identify the audio of a song as a source gives it, without reading a file that is known to be unchanged.

    The other arguments are those of `identify_file`.
    """
    if isinstance(audio, Mapping):
        array = audio.get("array")
        audio = audio.get("bytes") or audio.get("path") if array is None else np.asarray(array).tobytes()
    path = os.path.abspath(audio) if isinstance(audio, (str, os.PathLike)) else None
    if path is not None and is_uri(str(audio)):
        return SongAudio(f"{ADDRESS}{hashlib.sha256(str(audio).encode('utf-8', 'surrogatepass')).hexdigest()}")
    before = ContentIdentity(known.content, known.stamp) if known and path and known.path == path else None
    try:
        found = identify_audio(path or audio, before, rereads=rereads)
    except (OSError, ValueError):  # no file, or no name of one; whoever decodes the song says why it cannot be read
        found = None
    return SongAudio(found.sha256, path, found.stamp) if found else SongAudio(UNREADABLE, path)


@dataclass
class AudioRecord:
    """
    The audio of consecutive songs of a split.

    Args:
        files (`list`):
            The files of the dataset that hold their rows: path, first row, row after the last, stamp.
        songs (`dict[str, SongAudio]`):
            The audio of each song by its id, in order.
    """

    files: list[tuple[str, int, int, FileStamp | None]]
    songs: dict[str, SongAudio]

    @classmethod
    def start(cls, source: "SongSource", split: str, start: int, stop: int) -> Self:
        """Start the record of songs that are about to be read; what changes from here on is seen the next time."""
        files = []
        for path, first, last in source.locate(split, start, stop):
            stamp = FileStamp.from_status(os.stat(path))
            files.append((os.path.abspath(path), first, last, stamp if stamp.is_settled() else None))
        return cls(files, {})

    def watch(self, songs: "Iterator[Song]") -> "Iterator[Song]":
        """Yield songs, and note the audio of each before it is used."""
        for song in songs:
            self.songs[song.id] = identify_song(song.audio)
            yield song

    def forget_changed(self) -> None:
        """Forget what was noted of files that changed since, perhaps before they were decoded."""
        for song_id, audio in self.songs.items():
            if audio.path is not None and identify_song(audio.path, audio).content != audio.content:
                self.songs[song_id] = SongAudio(UNREADABLE, audio.path)

    def list_contents(self) -> list[list[str]]:
        """Return id and content of each song, which is what stored work was made from."""
        return [[song_id, audio.content] for song_id, audio in self.songs.items()]

    def has_rows_of(self, other: "AudioRecord") -> bool:
        """Tell whether both were read from the same rows of files that have not changed between."""
        return bool(self.files) and self.files == other.files and all(stamp for *_, stamp in self.files)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read a record; `None` where there is none that can be read, which costs reading the songs again."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files = [
                (name, first, last, FileStamp(*stamp) if stamp else None)
                for name, first, last, stamp in content["files"]
            ]
            return cls(files, {name: SongAudio.from_json(fields) for name, fields in content["songs"].items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def save(self, path: Path) -> None:
        """Write the record, whole."""
        files = [[*place, stamp and list(astuple(stamp))] for *place, stamp in self.files]
        songs = {name: audio.to_json() for name, audio in self.songs.items()}
        replace_text(path, json.dumps({"files": files, "songs": songs}), is_shared=True)


def record_audio(
    source: "SongSource",
    split: str,
    start: int,
    stop: int,
    place: Path,
    *,
    first: Path | None = None,
    rereads: bool = False,
) -> AudioRecord:
    """
    Record the audio of consecutive songs, reading only what is not known to be unchanged.

    Args:
        source ([`SongSource`]), split (`str`), start (`int`), stop (`int`):
            Which songs.
        place (`Path`):
            Where the record of the last time lies, and this one is kept; where that is not allowed, the next time
            costs as much as this one.
        first (`Path`, *optional*):
            Where a record lies that is read while there is none at `place`; it is never written.
        rereads (`bool`, defaults to `False`):
            Whether to read every file, whatever its stamp says.

    Returns:
        [`AudioRecord`]
    """
    known = AudioRecord.load(place) or (AudioRecord.load(first) if first else None)
    found = AudioRecord.start(source, split, start, stop)
    if known is not None and not rereads and known.has_rows_of(found):
        # The rows are those of the last time; only audio in files of its own can have changed.
        found.songs = {
            name: audio if audio.path is None else identify_song(audio.path, audio)
            for name, audio in known.songs.items()
        }
    else:
        before = known.songs if known else {}
        for song in source.iterate(split, start, stop):
            found.songs[song.id] = identify_song(song.audio, before.get(song.id), rereads=rereads)
    if found != known or not place.exists():
        with contextlib.suppress(OSError):
            found.save(place)
    return found
