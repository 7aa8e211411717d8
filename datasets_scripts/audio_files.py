"""
Audio of songs: a song's id or path comes in, the file it means leaves, or what was found inside that file.

Files are looked up without listing the folder, which may hold hundreds of thousands, unless ids lost their leading
zeros. Looking inside decodes the whole
song once, block by block: that tells whether it is sound, how long it lasts and what it is like (a fingerprint).
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_scripts.audio_fingerprint import FingerprintAccumulator
from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.corpus.song_files import AUDIO_SUFFIXES
from modeling_apex.corpus.song_ids import loosen_id, strip_audio_suffix
from modeling_apex.inference.audio_apex import open_audio
from modeling_apex.storage.contained_paths import check_relative_path, refuse_outside
from modeling_apex.storage.table_reader import TableError

logger = logging.getLogger(__name__)

OUTSIDE_FLAG = "--allow-outside-paths"

# What a folder is asked for first; `AUDIO_SUFFIXES` has what it may hold besides.
COMMON_SUFFIXES = (".mp3", ".flac", ".ogg", ".opus", ".wav", ".m4a", ".aac", ".webm", ".mp4")
# Warnings of the decoder that say something of the sound; all others say that a part of the file is missing.
WARNINGS_OF_SOUND = ("silen", "cancel")


@dataclass(frozen=True)
class AudioFacts:
    """
    What one look inside an audio file found.

    Args:
        sha256 (`bytes`):
            Hash of the file's bytes.
        num_bytes (`int`):
            Size of the file.
        duration (`float`):
            Seconds of sound that decode; 0 when nothing does.
        fingerprint (`bytes`, *optional*):
            See `audio_fingerprint`; `None` for a silent or steady song.
        error (`str`, *optional*):
            Why the file cannot be used, or what is missing of it; `None` for a sound one.
        is_cut (`bool`, defaults to `False`):
            Whether a part of the sound is missing: the file was cut off, or does not decode to its end.
    """

    sha256: bytes
    num_bytes: int
    duration: float
    fingerprint: bytes | None
    error: str | None
    is_cut: bool = False


class AudioFolder:
    """
    Look up songs in a folder by id, or by a path that a table names, and count what was found.

    Args:
        folder (`str` or `Path`):
            The folder that holds the audio files.
        allows_outside (`bool`, defaults to `False`):
            Whether paths and links may lead out of the folder.

    Raises:
        `FileNotFoundError`: If there is no such folder.
    """

    def __init__(self, folder: str | Path, *, allows_outside: bool = False):
        self.folder = Path(os.path.expanduser(folder))
        if not self.folder.is_dir():
            raise FileNotFoundError(f"No audio folder at {self.folder}.")
        self._allows_outside = allows_outside
        suffixes = [*COMMON_SUFFIXES, *sorted(AUDIO_SUFFIXES - set(COMMON_SUFFIXES))]
        self._likely_suffixes = [write(suffix) for write in (str, str.upper, str.title) for suffix in suffixes]
        self._numbered: dict[str, list[str]] | None = None
        self._num_songs = self._num_found = 0
        self._first_stray = ""

    def find(self, song_id: str, relative_path: str | None = None, *, location: str = "") -> Path | None:
        """
        Find the file of a song.

        Args:
            song_id (`str`):
                The id; its file is `<id>.<an audio suffix>`, the suffix in whatever case. An id that is a number is
                also found with other leading zeros.
            relative_path (`str`, *optional*):
                A path relative to the folder, if the table names one; then the id is not used.
            location (`str`, *optional*):
                Where the row stands, for the message.

        Returns:
            `Path`, or `None` when there is no such file.

        Raises:
            [`AudioPathError`]: If the path would leave the folder, links followed.
            [`TableError`]: If two files have the number that is the id.
        """
        if relative_path and self._allows_outside:
            path: Path | None = self.folder / relative_path
        elif relative_path:
            path = self.folder / check_relative_path(relative_path, location=location)
        else:
            stem = check_relative_path(song_id, location=location)
            path = self._find_named(stem) or self._find_numbered(stem, location)
        self._num_songs += 1
        if path is None or not path.is_file():
            self._first_stray = self._first_stray or relative_path or song_id
            return None
        self._num_found += 1
        return (
            path if self._allows_outside else refuse_outside(path, [self.folder], location=location, flag=OUTSIDE_FLAG)
        )

    def count_matches(self) -> dict[str, Any]:
        """Count the songs that were asked for and those that have a file."""
        return {
            "source": self.folder.resolve().name,
            "num_songs": self._num_songs,
            "num_matched_songs": self._num_found,
        }

    def check_matches(self) -> str | None:
        """
        Refuse a folder that holds the audio of no song, and warn of one that holds that of few.

        Returns:
            `str` or `None`: the warning, if fewer than half of the songs were found.

        Raises:
            [`TableError`]: If no song was found; the message shows an example of each side.
        """
        if 2 * self._num_found >= self._num_songs:
            return None
        example = next((path.name for path in sorted(self.folder.iterdir())), "nothing")
        sides = f"the table has, for example, {self._first_stray!r}, the folder {example!r}"
        if not self._num_found:
            raise TableError(
                f"{self.folder}: none of the {self._num_songs} songs has audio there; {sides}. Give the folder "
                "with <id>.mp3 and the like, or name the column that holds their paths with --column audio_path=NAME."
            )
        found = f"only {self._num_found} of the {self._num_songs} songs have their audio there"
        warning = f"{self.folder.name}: {found}; {sides}"
        logger.warning(warning)
        return warning

    def _find_named(self, stem: str) -> Path | None:
        bare = strip_audio_suffix(stem)
        if bare != stem and (path := self.folder / stem).is_file():
            return path
        for position, suffix in enumerate(self._likely_suffixes):
            path = self.folder / f"{bare}{suffix}"
            if path.is_file():
                # One folder mostly holds one kind of file: ask for that kind first from now on.
                self._likely_suffixes.insert(0, self._likely_suffixes.pop(position))
                return path
        return None

    def _find_numbered(self, stem: str, location: str) -> Path | None:
        number = loosen_id(stem)
        if not number.isdigit():
            return None
        if self._numbered is None:
            self._numbered = {}
            for name in sorted(os.listdir(self.folder)):
                key = loosen_id(name)
                if key.isdigit() and name != strip_audio_suffix(name):
                    self._numbered.setdefault(key, []).append(name)
        names = self._numbered.get(number, [])
        if len(names) > 1:
            raise TableError(
                f"{location}: the id {stem!r} fits both {names[0]} and {names[1]} in {self.folder}. Write the ids as "
                "the files have them, or name the files in a column."
            )
        return self.folder / names[0] if names else None


def examine_audio_file(path: str | Path) -> AudioFacts:
    """
    Hash, decode and fingerprint an audio file; one that does not decode, or not to its end, says so by `error`, and
    stops no build.
    """
    path = Path(path)
    digest = bytes.fromhex(compute_file_hash(path))
    num_bytes = path.stat().st_size
    try:
        with open_audio(path) as stream:
            accumulator = FingerprintAccumulator(stream.sampling_rate)
            for block in stream.blocks:
                accumulator.push(block)
            duration = accumulator.num_samples / stream.sampling_rate
            missing = [text for text in stream.warnings if not any(word in text for word in WARNINGS_OF_SOUND)]
        if missing:
            return AudioFacts(digest, num_bytes, duration, None, f"{path.name}: {'; '.join(missing)}", is_cut=True)
        return AudioFacts(digest, num_bytes, duration, accumulator.finish(), None)
    except (ValueError, OSError) as error:
        return AudioFacts(digest, num_bytes, 0.0, None, str(error).replace(str(path), path.name))


def spool_audio(audio: Mapping[str, Any], folder: Path, stem: str, *, root: Path | None, location: str) -> Path | None:
    """
    Put audio that came inside a table into a file, so that every song is a file from there on.

    Args:
        audio (`Mapping`):
            `{"bytes", "path"}`, as `datasets.Audio(decode=False)` gives it.
        folder (`Path`):
            Where the file goes.
        stem (`str`):
            Its name without suffix.
        root (`Path`, *optional*):
            The folder in which a file has to lie that is named by its path alone; `None` lets it lie anywhere.
        location (`str`):
            Where the row stands, for the message.

    Returns:
        `Path`: the new file, or the existing one that `path` names; `None` when there is neither.

    Raises:
        [`AudioPathError`]: If the path leads out of `root`.
    """
    data, name = audio.get("bytes"), audio.get("path") or ""
    if data is None:
        named = (root or Path()) / name
        if root is not None and name:
            refuse_outside(named, [root], location=location, flag=OUTSIDE_FLAG)
        return named if name and os.path.isfile(named) else None
    suffix = Path(name).suffix
    path = folder / f"{stem}{suffix if suffix.lower() in AUDIO_SUFFIXES else '.audio'}"
    if not path.is_file() or path.read_bytes() != data:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(data)
        partial.replace(path)
    return path
