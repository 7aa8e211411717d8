"""
Audio of songs: a song's id or path comes in, the file it means leaves, or what was found inside that file.

Files are looked up without listing the folder, which may hold hundreds of thousands. Looking inside decodes the whole
song once, block by block: that tells whether it is sound, how long it lasts and what it is like (a fingerprint).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_scripts.audio_fingerprint import FingerprintAccumulator
from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.inference.audio_apex import open_audio
from modeling_apex.storage import file_names

AUDIO_SUFFIXES = (".mp3", ".flac", ".ogg", ".opus", ".wav", ".m4a", ".aac", ".webm", ".mp4")


class AudioPathError(ValueError):
    """A path in a table that points out of the folder it belongs to."""


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
            Why the file cannot be used; `None` for a sound one.
    """

    sha256: bytes
    num_bytes: int
    duration: float
    fingerprint: bytes | None
    error: str | None


class AudioFolder:
    """
    Look up songs in a folder by id, or by a path that a table names.

    Args:
        folder (`str` or `Path`):
            The folder that holds the audio files.

    Raises:
        `FileNotFoundError`: If there is no such folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"No audio folder at {self.folder}.")
        self._likely_suffixes = list(AUDIO_SUFFIXES)

    def find(self, song_id: str, relative_path: str | None = None, *, location: str = "") -> Path | None:
        """
        Find the file of a song.

        Args:
            song_id (`str`):
                The id; its file is `<id>.<a known audio suffix>`.
            relative_path (`str`, *optional*):
                A path relative to the folder, if the table names one; then the id is not used.
            location (`str`, *optional*):
                Where the row stands, for the message.

        Returns:
            `Path`, or `None` when there is no such file.

        Raises:
            [`AudioPathError`]: If the path would leave the folder.
        """
        if relative_path:
            path = self.folder / check_relative_path(relative_path, location=location)
            return path if path.is_file() else None
        stem = check_relative_path(song_id, location=location)
        for position, suffix in enumerate(self._likely_suffixes):
            path = self.folder / f"{stem}{suffix}"
            if path.is_file():
                # One folder mostly holds one kind of file: ask for that kind first from now on.
                self._likely_suffixes.insert(0, self._likely_suffixes.pop(position))
                return path
        return None


def check_relative_path(path: str, *, location: str = "") -> str:
    """
    Make sure that a path from a table stays inside its folder; `/` and `\\` both separate, the result has `/`.

    Raises:
        [`AudioPathError`]: If it is absolute or climbs out by `..`; the message says where the row stands.
    """
    where = f"{location}: " if location else ""
    try:
        return file_names.check_relative_path(path, f"{where}the audio path")
    except ValueError as error:
        raise AudioPathError(str(error)) from error


def examine_audio_file(path: str | Path) -> AudioFacts:
    """Hash, decode and fingerprint an audio file; one that does not decode says so by `error`, and stops no build."""
    path = Path(path)
    digest = bytes.fromhex(compute_file_hash(path))
    num_bytes = path.stat().st_size
    try:
        with open_audio(path) as stream:
            accumulator = FingerprintAccumulator(stream.sampling_rate)
            for block in stream.blocks:
                accumulator.push(block)
            duration = accumulator.num_samples / stream.sampling_rate
        return AudioFacts(digest, num_bytes, duration, accumulator.finish(), None)
    except (ValueError, OSError) as error:
        return AudioFacts(digest, num_bytes, 0.0, None, str(error).replace(str(path), path.name))


def spool_audio(audio: Mapping[str, Any], folder: Path, stem: str) -> Path | None:
    """
    Put audio that came inside a table into a file, so that every song is a file from there on.

    Args:
        audio (`Mapping`):
            `{"bytes", "path"}`, as `datasets.Audio(decode=False)` gives it.
        folder (`Path`):
            Where the file goes.
        stem (`str`):
            Its name without suffix.

    Returns:
        `Path`: the new file, or the existing one that `path` names; `None` when there is neither.
    """
    data, name = audio.get("bytes"), audio.get("path") or ""
    if data is None:
        return Path(name) if name and os.path.isfile(name) else None
    suffix = Path(name).suffix
    path = folder / f"{stem}{suffix if suffix.lower() in AUDIO_SUFFIXES else '.audio'}"
    if not path.is_file() or path.read_bytes() != data:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(data)
        partial.replace(path)
    return path
