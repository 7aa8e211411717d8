"""
Spotify-like tracks: a table of track features with popularity, and the audio it speaks of, become a song dataset.

Column names are those of Spotify's tables and web API unless told otherwise; a column that the table lacks is missing
in every row. Tracks that share an artist never fall into two splits, whoever of several is named first. Features that
leak the target (see `track_features_apex`) are named as such in the card, and `leaking_features="drop"` leaves them
out.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import datasets

from datasets_scripts.audio_files import AudioFolder
from datasets_scripts.creators import split_creators
from datasets_scripts.field_values import read_count, read_duration, read_flag, read_number
from datasets_scripts.metadata_tables import (
    ColumnSpec,
    check_columns,
    is_hub_id,
    iterate_table,
    list_table_files,
    pin_revision,
)
from datasets_scripts.song_builder import BUILDER_VERSION, SongDatasetBuilder, SongDatasetConfig
from datasets_scripts.song_record import CorpusOptions, SongRecord
from datasets_scripts.song_schema import SONG_COLUMNS
from modeling_apex.inference.track_features_apex import LEAKING_NAMES, TRACK_FEATURES
from modeling_apex.storage.cell_values import read_text
from modeling_apex.storage.table_reader import TableError, TableRow

SPOTIFY_PLATFORM = "spotify"
SPOTIFY_CORPUS = CorpusOptions(group_by=("creator", "audio"), needs_popularity=False)
LEAKING_CHOICES = ("keep", "drop")

# Dances and moods: shares.
_SHARES = ("danceability", "energy", "valence", "speechiness", "acousticness", "instrumentalness", "liveness")
# Where Spotify's tables keep what a row needs. `|` separates alternatives, dots reach into objects.
DEFAULT_COLUMNS: Mapping[str, str] = {
    "id": "track_id|id",
    "artist": "artist_id|artists",
    "title": "track_name|name",
    "popularity": "popularity|track_popularity",
    "release_date": "release_date|album.release_date",
    "audio_path": "audio_path|file_name",
    "all_artists": "artists|artist_names|artist_name",
    "genre": "track_genre|genre",
    "album_type": "album_type|album.album_type",
    "num_markets": "num_markets",
    "explicit": "explicit",
    "duration": "duration_ms",
    "duration_seconds": "duration_seconds",
    **{
        name: name
        for name in (
            *_SHARES,
            *("loudness", "tempo", "mode", "key", "time_signature"),
        )
    },
    "artist_popularity": "artist_popularity|artist.popularity",
    "artist_followers": "artist_followers|artist.followers.total",
    "play_count": "play_count|streams",
    "like_count": "like_count",
}
# What a feature can be, in its own unit.
FEATURE_RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(_SHARES, (0, 1)),
    "loudness": (-120, 30),
    "tempo": (0, 1000),
    "mode": (0, 1),
    "artist_popularity": (0, 100),
}
COUNTS = ("artist_followers", "play_count", "like_count", "num_markets")
# Features that are columns of every song already, or follow from the date.
SHARED_FEATURES = tuple(feature["name"] for feature in TRACK_FEATURES if feature["name"] in SONG_COLUMNS)


def _describe(feature: Mapping[str, Any]) -> str:
    leak = "; leaks the target: it is computed from the track's success" if feature["is_leaking"] else ""
    return f"track feature: {feature['meaning']}{leak}"


EXTRA_FEATURES = tuple(feature for feature in TRACK_FEATURES if feature["name"] not in SHARED_FEATURES)


@dataclass
class SpotifyTracksConfig(SongDatasetConfig):
    """
    Where the tracks lie.

    Args:
        tracks (`str`):
            The table, or a folder of tables, or a dataset id on the Hub.
        audio (`str`, *optional*):
            The folder with `<id>.mp3` and the like; without it the dataset has no audio.
        columns (`Mapping[str, str]`, *optional*):
            Columns that differ from `DEFAULT_COLUMNS`, by field.
        leaking_features (`str`, defaults to `"keep"`):
            `"drop"` leaves every feature out that is computed from a track's success.
    """

    corpus: CorpusOptions = SPOTIFY_CORPUS
    tracks: str = ""
    audio: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    leaking_features: str = "keep"

    def list_source_files(self) -> list[Path]:
        """List the table."""
        return list_table_files(self.tracks)

    def list_audio_folders(self) -> list[Path]:
        """List the audio folder."""
        return [Path(os.path.expanduser(self.audio))] if self.audio else []


class SpotifyTracks(SongDatasetBuilder):
    """Tracks with popularity between 0 and 100 and the features that Spotify states."""

    BUILDER_CONFIG_CLASS = SpotifyTracksConfig
    BUILDER_CONFIGS: ClassVar[list] = [SpotifyTracksConfig(name="tracks", version=BUILDER_VERSION)]
    DEFAULT_CONFIG_NAME = "tracks"
    PRETTY_NAME = "Tracks with features and popularity"
    INTRODUCTION = f"""\
Tracks of a Spotify-like table joined to their audio: `popularity` from 0 to 100 as the table states it, and structured
features. No artist is in two splits: a track by several is in the split of the first, who is its `creator`, and is
left out where another of them is in an earlier split.

**Features that leak the target:** {", ".join(f"`{name}`" for name in LEAKING_NAMES)}. They are computed from how the
track did, so a model that has them is told a part of the answer, and cannot judge a song that is not published yet.
`--leaking-features drop` builds the dataset without them.
"""
    TAGS = ("music-popularity", "track-features")
    EXTRA_COLUMNS: ClassVar[Mapping[str, datasets.Value]] = {
        "popularity": datasets.Value("float32"),
        **{
            feature["name"]: datasets.Value("string" if feature["kind"] == "categorical" else "float32")
            for feature in EXTRA_FEATURES
        },
    }
    EXTRA_DESCRIPTIONS: ClassVar[Mapping[str, str]] = {
        "popularity": "target, 0 to 100, as the table states it",
        **{feature["name"]: _describe(feature) for feature in TRACK_FEATURES},
    }

    def iterate_records(self, working_folder: Path) -> Iterator[SongRecord]:
        """Stream the tracks."""
        config: SpotifyTracksConfig = self.config
        audio = None if config.audio is None else self.open_audio_folder(config.audio)
        return iterate_tracks(config.tracks, audio, columns=config.columns, leaking_features=config.leaking_features)

    def describe_options(self) -> dict[str, Any]:
        """Return the options of the build for the manifest."""
        config: SpotifyTracksConfig = self.config
        return {
            "tracks": Path(config.tracks).name,
            "has_audio": bool(config.audio),
            "columns": dict(config.columns),
            "leaking_features": config.leaking_features,
            "leaking_names": list(LEAKING_NAMES),
            **({"revision": pin_revision(config.tracks)} if is_hub_id(config.tracks) else {}),
            **super().describe_options(),
        }


def iterate_tracks(
    tracks: str | Path,
    audio: str | Path | AudioFolder | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    leaking_features: str = "keep",
) -> Iterator[SongRecord]:
    """
    Stream the tracks of a table, in its order; the arguments are the fields of [`SpotifyTracksConfig`].

    Raises:
        `ValueError`: If a field or the choice of leaking features is unknown.
        `TableError`: If a column is missing or a cell makes no sense.
    """
    if leaking_features not in LEAKING_CHOICES:
        raise ValueError(f"`leaking_features` must be one of {', '.join(LEAKING_CHOICES)}, got {leaking_features!r}.")
    unknown = [name for name in columns or {} if name not in DEFAULT_COLUMNS]
    if unknown:
        raise ValueError(f"Unknown field {unknown[0]!r}: expected one of {', '.join(DEFAULT_COLUMNS)}.")
    specs = {name: ColumnSpec(column) for name, column in {**DEFAULT_COLUMNS, **(columns or {})}.items()}
    folder = audio if audio is None or isinstance(audio, AudioFolder) else AudioFolder(audio)
    required = {name: specs[name] for name in ("id", "artist", "popularity")}
    for row in check_columns(iterate_table(tracks, revision=pin_revision(str(tracks))), required, source=str(tracks)):
        record = _build_record(row, specs, keeps_leaking=leaking_features == "keep")
        if folder is not None:
            named = read_text(specs["audio_path"].find(row.values))
            record.audio_path = folder.find(record.id, named, location=row.location)
        yield record


def _build_record(row: TableRow, specs: Mapping[str, ColumnSpec], *, keeps_leaking: bool) -> SongRecord:
    found, place = {name: spec.find(row.values) for name, spec in specs.items()}, row.location
    song_id = read_text(found["id"])
    if song_id is None:
        raise TableError(f"{place} has no id.")
    if not keeps_leaking:
        found |= dict.fromkeys(LEAKING_NAMES)
    popularity = read_number(found["popularity"], "popularity", place, minimum=0, maximum=100)
    released = read_release_date(found["release_date"], place)
    duration = read_duration(found["duration_seconds"], "duration_seconds", place)
    if duration is None:
        duration = read_duration(found["duration"], "duration", place, is_in_milliseconds=True)
    artists, all_artists = (split_creators(found[name]) for name in ("artist", "all_artists"))
    explicit = read_flag(found["explicit"], "explicit", place)
    values: dict[str, Any] = {
        "popularity": popularity,
        "release_year": None if released is None else released[0],
        "release_month": None if released is None else released[1],
        "explicit": None if explicit is None else float(explicit),
    }
    for feature in EXTRA_FEATURES:
        name = feature["name"]
        if name in values:
            continue
        if feature["kind"] == "categorical":
            values[name] = _read_category(found[name])
        elif name in COUNTS:
            values[name] = read_count(found[name], name, place)
        else:
            minimum, maximum = FEATURE_RANGES.get(name, (None, None))
            values[name] = read_number(found[name], name, place, minimum=minimum, maximum=maximum)
    return SongRecord(
        location=place,
        id=song_id,
        platform=SPOTIFY_PLATFORM,
        creator=artists[0] if artists else None,
        other_creators=list(dict.fromkeys([*artists[1:], *(name for name in all_artists if name not in artists[:1])])),
        play_count=read_count(found["play_count"], "play_count", place),
        like_count=read_count(found["like_count"], "like_count", place),
        created_at=None if released is None else datetime(released[0], released[1] or 1, 1, tzinfo=UTC),
        duration=duration,
        title=read_text(found["title"]),
        extras=values,
    )


def read_release_date(value: Any, location: str) -> tuple[int, int | None] | None:
    """
    Read a release date as year and month; Spotify may know the year only (`"2019"`), or the month too (`"2019-05"`).

    Raises:
        `TableError`: If it is no such date.
    """
    text = read_text(value)
    if text is None:
        return None
    match = re.fullmatch(r"(\d{4})(?:-(\d{2})(?:-\d{2}.*)?)?", text.strip())
    month = int(match[2]) if match and match[2] else None
    if match is None or int(match[1]) == 0 or (month is not None and not 1 <= month <= 12):
        raise TableError(f"{location}: release_date is {text!r}, expected 2019, 2019-05 or 2019-05-17.")
    return int(match[1]), month


def _read_category(value: Any) -> str | None:
    """Return a category as text; tables that lost the type of a column write the key 4 as 4.0."""
    text = read_text(value)
    return None if text is None else re.sub(r"^(-?\d+)\.0$", r"\1", text)
