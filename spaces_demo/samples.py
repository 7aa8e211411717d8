"""
The sample songs that come with the page: songs that a program rendered, more or less well on purpose.

What comes in is the folder with `samples.json`; what leaves is their titles and paths.
"""

import json
from dataclasses import dataclass
from pathlib import Path

SAMPLES_FOLDER = Path(__file__).parent / "samples"


@dataclass(frozen=True)
class Sample:
    """One sample song: its title on the page, its file, and what it was told to be."""

    title: str
    path: Path
    prompt: str


def load_samples(folder: Path = SAMPLES_FOLDER) -> list[Sample]:
    """
    Load the list of sample songs.

    Args:
        folder (`Path`):
            Folder with `samples.json` and the files that it names.

    Returns:
        `list[Sample]`: in the order of the file; `1-good-pop.ogg` is titled `Good pop`.
    """
    songs = json.loads((folder / "samples.json").read_text(encoding="utf-8"))["songs"]
    return [
        Sample(
            title=Path(song["file"]).stem.partition("-")[2].replace("-", " ").capitalize().replace("lo fi", "lo-fi"),
            path=folder / song["file"],
            prompt=song["prompt"],
        )
        for song in songs
    ]
