"""
The sample songs that come with the page: songs that a program rendered, more or less well on purpose.

What comes in is the folder with `samples.json`; what leaves is their titles and paths.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

SAMPLES_FOLDER = Path(__file__).parent / "samples"
# Whole by itself: a visitor may press before the page's own script has run. Only there is the page's address known.
PLACE_SAMPLES = """(function place(fields) {
  return fields.map((field) => Array.isArray(field) ? place(field) : {...field, url: gradio_config.root + field.url});
})"""


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


def build_choice(values: Sequence[Sample | Sequence[Sample]]) -> str:
    """
    Build the browser's function that puts samples into fields of the page, without asking the server.

    Args:
        values (`Sequence`): For each field its sample, or the samples of a field that takes several.
    """
    described = [
        _describe(value) if isinstance(value, Sample) else [_describe(sample) for sample in value] for value in values
    ]
    return f"() => {PLACE_SAMPLES}({json.dumps(described)})"


def _describe(sample: Sample) -> dict[str, object]:
    """Describe a sample as Gradio describes a file; its `url` waits for where the page is served."""
    path = sample.path.resolve()
    return {
        "path": str(path),
        "url": f"/gradio_api/file={quote(path.as_posix())}",
        "orig_name": path.name,
        "size": path.stat().st_size,
        "meta": {"_type": "gradio.FileData"},
    }
