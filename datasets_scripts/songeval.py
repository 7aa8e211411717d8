"""
SongEval: songs with the ratings of several people come in, mean and spread per aesthetic dimension leave.

The layout is that of `ASLP-lab/SongEval`: `metadata.jsonl` names an audio file per song and holds `annotation`, one
entry per rater with the five dimensions from 1 to 5. The songs have no play counts, so no popularity targets either.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import datasets

from datasets_scripts.audio_files import AudioFolder
from datasets_scripts.labels import build_label_specs, read_labels
from datasets_scripts.metadata_tables import ColumnSpec, check_columns, iterate_table
from datasets_scripts.song_builder import BUILDER_VERSION, SongDatasetBuilder, SongDatasetConfig
from datasets_scripts.song_record import AESTHETIC_NAMES, CorpusOptions, SongRecord
from modeling_apex.storage.cell_values import read_text
from modeling_apex.storage.table_reader import TableError, TableRow

SONGEVAL_PLATFORM = "songeval"
# People rated these songs; nobody counted plays, and each song is a group of its own.
SONGEVAL_CORPUS = CorpusOptions(needs_popularity=False, refuses_duplicate_ids=True, group_by=("audio",))
SONGEVAL_COLUMNS: Mapping[str, str] = {
    "id": "id|song_id",
    "audio_path": "file_name|audio|audio_path|path",
    "gender": "gender",
    "annotation": "annotation|annotations",
}
INSTRUMENTAL_GENDERS = ("instrumental", "none")


@dataclass
class SongEvalConfig(SongDatasetConfig):
    """
    Where SongEval lies.

    Args:
        source (`str`):
            The folder that holds `metadata.jsonl` and the audio files that it names.
        columns (`Mapping[str, str]`, *optional*):
            Columns that differ from `SONGEVAL_COLUMNS`, by field; of the dimensions, the names that ratings have.
        label_source (`str`, defaults to `"songeval-raters"`):
            Who rated: people, or `"synthetic"` raters.
    """

    corpus: CorpusOptions = SONGEVAL_CORPUS
    license_id: str = "cc-by-nc-sa-4.0"
    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    label_source: str = "songeval-raters"

    def list_source_files(self) -> list[Path]:
        """List the table."""
        return [Path(os.path.expanduser(self.source)) / "metadata.jsonl"]

    def list_audio_folders(self) -> list[Path]:
        """List the folder."""
        return [Path(os.path.expanduser(self.source))]


class SongEval(SongDatasetBuilder):
    """Songs with mean and spread of what raters said, per aesthetic dimension."""

    BUILDER_CONFIG_CLASS = SongEvalConfig
    BUILDER_CONFIGS: ClassVar[list] = [SongEvalConfig(name="songs", version=BUILDER_VERSION)]
    DEFAULT_CONFIG_NAME = "songs"
    PRETTY_NAME = "Songs with aesthetic ratings"
    INTRODUCTION = """\
Songs in the layout of SongEval (ASLP-lab/SongEval), each rated by several raters from 1 to 5 on five dimensions:
overall coherence, overall musicality, memorability, clarity of song structure, and naturalness of vocal breathing and
phrasing. The five label columns are means over raters; `*_std` is the sample standard deviation. `label_source` says
whether the raters were people. There are no popularity targets.
"""
    TAGS = ("music-aesthetics",)
    EXTRA_COLUMNS: ClassVar[Mapping[str, datasets.Value]] = {
        **{f"{name}_std": datasets.Value("float32") for name in AESTHETIC_NAMES},
        "num_raters": datasets.Value("int32"),
        "gender": datasets.Value("string"),
    }
    EXTRA_DESCRIPTIONS: ClassVar[Mapping[str, str]] = {
        **{f"{name}_std": f"spread of {name} over raters; null for a single rater" for name in AESTHETIC_NAMES},
        "num_raters": "how many raters heard the song",
        "gender": "of the voice, as the source has it",
    }

    def iterate_records(self, working_folder: Path) -> Iterator[SongRecord]:
        """Stream the rated songs."""
        folder = self.open_audio_folder(self.config.source)
        return iterate_rated_songs(folder, self.config.columns, self.config.label_source)

    def describe_options(self) -> dict[str, Any]:
        """Return the options of the build for the manifest."""
        config: SongEvalConfig = self.config
        own = {"columns": dict(config.columns), "label_source": config.label_source}
        return {"source": Path(config.source).resolve().name, **own, **super().describe_options()}


def iterate_rated_songs(
    source: str | Path | AudioFolder, columns: Mapping[str, str], label_source: str = "songeval-raters"
) -> Iterator[SongRecord]:
    """
    Stream the songs of a folder with their mean labels; the arguments are the fields of [`SongEvalConfig`].

    Raises:
        `FileNotFoundError`: If there is no such folder, or no `metadata.jsonl` in it.
        `ValueError`: If a field is unknown.
        `TableError`: If a song has no raters, or a rating is missing or outside 1 to 5.
    """
    known = (*SONGEVAL_COLUMNS, *AESTHETIC_NAMES)
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise ValueError(f"Unknown field {unknown[0]!r}: expected one of {', '.join(known)}.")
    specs = {name: ColumnSpec(column) for name, column in {**SONGEVAL_COLUMNS, **columns}.items()}
    label_specs = build_label_specs({name: column for name, column in columns.items() if name in AESTHETIC_NAMES})
    folder = source if isinstance(source, AudioFolder) else AudioFolder(source)
    table = folder.folder / "metadata.jsonl"
    required = {name: specs[name] for name in ("audio_path", "annotation")}
    for row in check_columns(iterate_table(table), required, source=str(table)):
        path = read_text(specs["audio_path"].find(row.values))
        if path is None:
            raise TableError(f"{row.location} names no audio file.")
        ratings = _read_ratings(row, specs["annotation"].find(row.values), label_specs)
        gender = _read_gender(row, specs["gender"])
        means = {name: math.fsum(rating[name] for rating in ratings) / len(ratings) for name in AESTHETIC_NAMES}
        yield SongRecord(
            location=row.location,
            id=read_text(specs["id"].find(row.values)) or PurePosixPath(path).stem,
            platform=SONGEVAL_PLATFORM,
            audio_path=folder.find("", path, location=row.location),
            is_instrumental=None if gender is None else gender.casefold() in INSTRUMENTAL_GENDERS,
            labels=means,
            label_source=label_source,
            extras={
                **{f"{name}_std": _compute_spread([rating[name] for rating in ratings]) for name in AESTHETIC_NAMES},
                "num_raters": len(ratings),
                "gender": gender,
            },
        )


def _read_gender(row: TableRow, spec: ColumnSpec) -> str | None:
    """Read the gender of the voice; here, `none` is an answer: nobody sings."""
    given = next((row.values[path] for path in spec.alternatives if row.values.get(path) is not None), None)
    if isinstance(given, str) and given.strip().casefold() in INSTRUMENTAL_GENDERS:
        return given.strip()
    return read_text(given)


def _read_ratings(row: TableRow, annotation: Any, specs: Mapping[str, ColumnSpec]) -> list[dict[str, float]]:
    if isinstance(annotation, Mapping):
        # Ratings by name of the rater.
        annotation = list(annotation.values())
    if not isinstance(annotation, Sequence) or isinstance(annotation, str) or not annotation:
        raise TableError(f"{row.location} has no raters: expected `annotation` to be a list with an entry per rater.")
    ratings = []
    for number, rating in enumerate(annotation, start=1):
        location = f"{row.location}, rater {number}"
        if not isinstance(rating, Mapping):
            raise TableError(f"{location} is a {type(rating).__name__}, expected an object with the five dimensions.")
        ratings.append(read_labels(rating, location, specs))
    return ratings


def _compute_spread(values: Sequence[float]) -> float | None:
    """Compute the sample standard deviation; `None` for a single value."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
