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
    """One sample song: its title on the page, and its file."""

    title: str
    path: Path


def load_samples() -> list[Sample]:
    """Load the list of sample songs, in the order of `samples.json`; `1-good-pop.ogg` is titled `Good pop`."""
    listed = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))["songs"]
    paths = [SAMPLES_FOLDER / song["file"] for song in listed]
    titles = (path.stem.partition("-")[2].replace("-", " ").capitalize() for path in paths)
    return [Sample(title.replace("lo fi", "lo-fi"), path) for title, path in zip(titles, paths, strict=True)]
