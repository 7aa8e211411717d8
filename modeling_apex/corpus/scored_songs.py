"""
What a finished output was made from: the settings of its scores and the audio of its songs, in a file beside it.

By it `score --append` knows which songs are new and which have changed since, and that their scores may stand beside
the others. What comes in and leaves is `.NAME.songs` beside NAME: a line with the settings and the hash of the output,
then a line a song, in the order of its rows.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from modeling_apex.checkpoints.hub_files import compute_file_hash
from modeling_apex.corpus.audio_record import SongAudio
from modeling_apex.corpus.identity import list_differences
from modeling_apex.storage.output_folder import TEXT_ERRORS, parse_json, replace_file

RECORD_FORMAT = 1
REMEDY = "Choose another output for the new songs, or pass --overwrite to score all of them again."


@dataclass
class ScoredSongs:
    """
    The record of one output.

    Args:
        settings (`dict`):
            What its scores depend on, besides the songs.
        songs (`dict[str, SongAudio]`):
            What the audio of each song was, by what a journal knows it by, in the order of the rows.
        sha256 (`str`):
            Of the output, hexadecimal.
    """

    settings: dict[str, Any]
    songs: dict[str, SongAudio]
    sha256: str

    @staticmethod
    def locate(output: Path) -> Path:
        """Return the place of the record of an output."""
        return output.with_name(f".{output.name}.songs")

    @classmethod
    def load(cls, output: Path) -> Self:
        """
        Read the record of an output.

        Raises:
            `FileNotFoundError`: If there is none.
            `ValueError`: If it is damaged, or the output has changed since.
        """
        path = cls.locate(output)
        if not path.is_file():
            raise FileNotFoundError(
                f"{output}: it is not known what its scores were made with, for {path.name} is not beside it, which "
                f"this version writes with every output. {REMEDY}"
            )
        lines = path.read_bytes().split(b"\n")[:-1]
        try:
            header = parse_json(lines[0], f"{path}, line 1", REMEDY)
            if header["format"] != RECORD_FORMAT or not isinstance(header["settings"], dict):
                raise ValueError(f"its format is {header['format']!r}")
            songs = {}
            for number, line in enumerate(lines[1:], start=2):
                key, *audio = parse_json(line, f"{path}, line {number}", REMEDY)
                songs[str(key)] = SongAudio.from_json(audio)
            record = cls(header["settings"], songs, str(header["output_sha256"]))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: is damaged ({error}). {REMEDY}") from error
        if compute_file_hash(output) != record.sha256:
            raise ValueError(f"{output}: was changed since it was written, and {path.name} is of before. {REMEDY}")
        return record

    def refuse_other_settings(self, output: Path, settings: Mapping[str, Any]) -> None:
        """
        Refuse an output whose scores do not belong beside new ones.

        Raises:
            `ValueError`: If a setting differs; the message names them all.
        """
        wanted = dict.fromkeys(self.settings) | dict(settings)
        if differences := list_differences(self.settings, wanted):
            raise ValueError(
                f"{output}: holds scores of other settings ({'; '.join(differences)}). Give the model and the options "
                "of before, or name another output."
            )

    def save(self, path: Path) -> None:
        """Write the record, whole."""
        header = {"format": RECORD_FORMAT, "settings": self.settings, "output_sha256": self.sha256}

        def lay_out() -> Iterator[Any]:
            yield header
            for key, audio in self.songs.items():
                yield [key, *audio.to_json()]

        with replace_file(path) as file:
            for line in lay_out():
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", TEXT_ERRORS))
