"""
Training songs: metadata tables with play and like counts, and the audio they speak of, become a song dataset.

A source is a table (a local file, a folder of files or a Hub dataset) and its audio (a folder, or a column of the
table). Which column holds which field is an option; the defaults are those of a Suno song object. Aesthetic labels are
joined from a table of their own.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datasets_scripts.audio_files import spool_audio
from datasets_scripts.creators import split_creators
from datasets_scripts.field_values import read_count, read_duration, read_flag, read_time
from datasets_scripts.labels import LABEL_COLUMNS, LabelTable
from datasets_scripts.metadata_tables import (
    ColumnSpec,
    check_columns,
    is_hub_id,
    iterate_table,
    list_table_files,
    pin_revision,
)
from datasets_scripts.song_builder import BUILDER_VERSION, SongDatasetBuilder, SongDatasetConfig
from datasets_scripts.song_record import AESTHETIC_NAMES, SongRecord
from datasets_scripts.training_sources import AUDIO_IN_TABLE, DEFAULT_COLUMNS, LABELS, NO_AUDIO, SongSource
from modeling_apex.corpus.song_ids import compute_exact_key
from modeling_apex.storage.cell_values import read_text
from modeling_apex.storage.table_reader import TableError, TableRow


@dataclass
class TrainingSongsConfig(SongDatasetConfig):
    """
    Which songs, and which of them.

    Args:
        sources (`Sequence[SongSource]`):
            Tables and audio, in the order in which duplicates are decided.
        columns (`Mapping[str, str]`, *optional*):
            Columns that differ from `DEFAULT_COLUMNS`, by field; `"platform:field"` sets one for one platform only,
            and `"labels:field"`, or the name of an aesthetic label, one of the table of labels.
        labels (`str`, *optional*):
            A table with `id` (or `song_id`) and the five aesthetic columns, such as `apex-music label` writes.
        label_source (`str`, defaults to `"pseudo-labels"`):
            Who gave those labels.
    """

    sources: Sequence[SongSource] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: str | None = None
    label_source: str = "pseudo-labels"

    def list_source_files(self) -> list[Path]:
        """List the tables that are local, the labels last."""
        tables = [source.metadata for source in self.sources] + ([self.labels] if self.labels else [])
        return [file for table in tables for file in list_table_files(table)]

    def list_audio_folders(self) -> list[Path]:
        """List the audio folders of the sources."""
        places = [source.audio for source in self.sources if source.audio not in (AUDIO_IN_TABLE, NO_AUDIO)]
        return [Path(os.path.expanduser(place)) for place in places]


class TrainingSongs(SongDatasetBuilder):
    """Songs of one or several platforms with popularity targets and, where there are labels, aesthetic ones."""

    BUILDER_CONFIG_CLASS = TrainingSongsConfig
    BUILDER_CONFIGS: ClassVar[list] = [TrainingSongsConfig(name="songs", version=BUILDER_VERSION)]
    DEFAULT_CONFIG_NAME = "songs"
    PRETTY_NAME = "Songs with popularity targets"
    INTRODUCTION = """\
AI-generated songs with play and like counts turned into popularity targets, and aesthetic labels where there are any.
`label_source` says whose they are: labels whose source begins with `pseudo-labels` were made by another model, not by
people.
"""
    TAGS = ("music-popularity",)

    def iterate_records(self, working_folder: Path) -> Iterator[SongRecord]:
        """Stream the songs of all sources."""
        config: TrainingSongsConfig = self.config
        if not config.sources:
            raise ValueError("`sources` is empty: give at least one SongSource(metadata, audio).")
        labels, columns = None, build_label_columns(config.columns)
        if config.labels:
            # The same program may have written both tables.
            own_id = {"id": f"{config.columns['id']}|{LABEL_COLUMNS['id']}"} if "id" in config.columns else {}
            labels = LabelTable(config.labels, label_source=config.label_source, columns=own_id | columns)
            self.join_labels(labels)
        elif columns:
            raise ValueError(f"--column names columns of labels ({', '.join(columns)}), but there is no --labels.")
        return (
            record
            for source in config.sources
            for record in self._iterate_source(source, labels, working_folder / "audio")
        )

    def describe_options(self) -> dict[str, Any]:
        """Return the options of the build for the manifest."""
        config: TrainingSongsConfig = self.config
        sources = [
            {
                "metadata": _describe_place(source.metadata),
                "audio": source.audio if source.audio in (AUDIO_IN_TABLE, NO_AUDIO) else _describe_place(source.audio),
                "platform": source.platform,
                "split": source.split,
                "revision": pin_revision(source.metadata, source.revision),
            }
            for source in config.sources
        ]
        return {
            "sources": sources,
            "columns": dict(config.columns),
            "labels": _describe_place(config.labels) if config.labels else None,
            "label_source": config.label_source if config.labels else None,
            **super().describe_options(),
        }

    def _iterate_source(
        self, source: SongSource, labels: LabelTable | None, spool_folder: Path
    ) -> Iterator[SongRecord]:
        """Stream the songs of one source; audio that comes inside its table is put into the spool folder."""
        specs = build_column_specs(self.config.columns, source.platform)
        required = {name: specs[name] for name in ("id", "play_count", "like_count")}
        if source.platform is None:
            required["platform"] = specs["platform"]
        if source.audio == AUDIO_IN_TABLE:
            required["audio"] = specs["audio"]
        folder = None if source.audio in (AUDIO_IN_TABLE, NO_AUDIO) else self.open_audio_folder(source.audio)
        place = Path(os.path.expanduser(source.metadata))
        # Where audio may lie that a table names by its path alone.
        root = None if self.config.corpus.allows_outside_paths else place if place.is_dir() else place.parent
        revision = pin_revision(source.metadata, source.revision)
        rows = iterate_table(source.metadata, split=source.split, revision=revision)
        for row in check_columns(rows, required, source=source.metadata):
            record = _build_record(row, specs, source.platform)
            if folder is not None:
                named = read_text(specs["audio_path"].find(row.values))
                record.audio_path = folder.find(record.id, named, location=row.location)
            elif source.audio == AUDIO_IN_TABLE:
                audio = specs["audio"].find(row.values)
                audio = {"path": audio} if isinstance(audio, str) else audio
                if isinstance(audio, Mapping):
                    name = f"{compute_exact_key(record.id):016x}"
                    record.audio_path = spool_audio(audio, spool_folder, name, root=root, location=row.location)
            if labels is not None:
                record.labels, record.label_source = labels.find(record.id), labels.label_source
            yield record


def build_label_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """Pick the columns of the table of labels from a choice of columns: `"labels:id"`, `"coherence"` and the like."""
    parts = ((*name.rpartition(":"), column) for name, column in columns.items())
    return {
        field_name: column
        for table, _, field_name, column in parts
        if table == LABELS or (not table and field_name in AESTHETIC_NAMES)
    }


def build_column_specs(columns: Mapping[str, str], platform: str | None) -> dict[str, ColumnSpec]:
    """
    Complete a choice of columns, by field or by `"platform:field"`, by the defaults; those of the platform win.

    Raises:
        `ValueError`: If a field is unknown.
    """
    chosen, chosen_for_platform = dict(DEFAULT_COLUMNS), {}
    for name, column in columns.items():
        of_platform, separator, field_name = name.rpartition(":")
        known = LABEL_COLUMNS if of_platform == LABELS else DEFAULT_COLUMNS
        known = known if separator else {**DEFAULT_COLUMNS, **LABEL_COLUMNS}
        if field_name not in known:
            raise ValueError(f"Unknown field {field_name!r}: expected one of {', '.join(known)}.")
        if of_platform == LABELS or field_name not in DEFAULT_COLUMNS:
            continue
        if not separator:
            chosen[field_name] = column
        elif of_platform == platform:
            chosen_for_platform[field_name] = column
    return {name: ColumnSpec(column) for name, column in {**chosen, **chosen_for_platform}.items()}


def _build_record(row: TableRow, specs: Mapping[str, ColumnSpec], platform: str | None) -> SongRecord:
    found = {name: specs[name].find(row.values) for name in specs if name not in ("audio", "audio_path")}
    song_id, place = read_text(found["id"]), row.location
    if song_id is None:
        raise TableError(f"{place} has no id.")
    platform = platform or read_text(found["platform"])
    if platform is None:
        raise TableError(f"{place} names no platform. Name one for the whole source, or fill the column.")
    is_instrumental = read_flag(found["is_instrumental"], "is_instrumental", place)
    has_vocal = read_flag(found["has_vocal"], "has_vocal", place)
    if is_instrumental is None and has_vocal is not None:
        is_instrumental = not has_vocal
    creators = split_creators(found["creator"])
    duration = read_duration(found["duration"], "duration", place)
    if duration is None:
        duration = read_duration(found["duration_ms"], "duration_ms", place, is_in_milliseconds=True)
    return SongRecord(
        location=place,
        id=song_id,
        platform=platform,
        creator=creators[0] if creators else None,
        other_creators=creators[1:],
        prompt=read_text(found["prompt"]),
        play_count=read_count(found["play_count"], "play_count", place),
        like_count=read_count(found["like_count"], "like_count", place),
        created_at=read_time(found["created_at"], "created_at", place),
        duration=duration,
        title=read_text(found["title"]),
        is_instrumental=is_instrumental,
    )


def _describe_place(place: str) -> str:
    """Return a Hub id as it is and a path without its folders, which say something about a machine only."""
    return place if is_hub_id(place) else Path(os.path.expanduser(place)).resolve().name
