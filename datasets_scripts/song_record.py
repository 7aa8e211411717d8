"""
What goes into a song corpus: one record a song, whatever its source, and the options of what to keep and how to split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets_scripts.splits import DEFAULT_SPLIT_RATIOS, SPLIT_METHODS
from modeling_apex.inference.heads_apex import DEFAULT_HEADS

# The names of the aesthetic labels and their range are those of the model's own configuration.
AESTHETIC_HEADS = tuple(head for head in DEFAULT_HEADS if head["group"] == "aesthetics")
AESTHETIC_NAMES = tuple(str(head["name"]) for head in AESTHETIC_HEADS)
LABEL_SOURCES = ("songeval-raters", "pseudo-labels", "synthetic")
MAX_AGE_DAYS = 36525
GROUP_KEYS = ("creator", "prompt", "audio")


@dataclass
class SongRecord:
    """One song as its source tells it; unknown things are `None`. See `song_schema` for what the fields mean."""

    location: str
    id: str
    platform: str
    audio_path: Path | None = None
    creator: str | None = None
    other_creators: Sequence[str] = ()
    prompt: str | None = None
    play_count: int | None = None
    like_count: int | None = None
    created_at: datetime | None = None
    duration: float | None = None
    title: str | None = None
    is_instrumental: bool | None = None
    labels: Mapping[str, float] | None = None
    label_source: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CorpusOptions:
    """
    What to keep of a corpus, and how to divide it.

    Args:
        seed (`int`, defaults to 42):
            Seed of the splits.
        split_ratios (`tuple[float, float, float]`, defaults to 85, 10 and 5):
            Shares of train, validation and test.
        group_by (`tuple[str, ...]`, defaults to creator, prompt and audio):
            What must not occur in two splits.
        split_method (`str`, defaults to `"hash"`):
            `"hash"`: songs that are added later move no other song. `"quota"`: platforms and popularity bands are
            divided as exactly as groups allow, for corpora that are small and final.
        needs_popularity (`bool`, defaults to `True`):
            Whether songs without counts or with zero plays are dropped and the others ranked.
        keeps_zero_plays (`bool`, defaults to `False`):
            Whether songs that nobody played stay.
        minimum_age_days (`float`, defaults to 0):
            Songs younger than this are dropped: their counts have not settled.
        as_of (`datetime`, *optional*):
            The moment from which age is counted. Defaults to the creation of the newest song, so that a build does not
            depend on the day it runs.
        refuses_duplicate_ids (`bool`, defaults to `False`):
            Whether an id that occurs twice is an error rather than a dropped song.
        needs_audio (`bool`, defaults to `True`):
            Whether songs without sound audio are dropped. Without it no audio is looked at and none is stored.
        embeds_audio (`bool`, defaults to `True`):
            Whether the encoded audio is stored in the rows, or only the path to it.
        allows_outside_paths (`bool`, defaults to `False`):
            Whether paths in tables, and links, may lead out of the folder that they belong to.
        num_workers (`int`, defaults to 1):
            Processes that look inside audio files.
    """

    seed: int = 42
    split_ratios: tuple[float, float, float] = DEFAULT_SPLIT_RATIOS
    group_by: tuple[str, ...] = GROUP_KEYS
    split_method: str = "hash"
    needs_popularity: bool = True
    keeps_zero_plays: bool = False
    minimum_age_days: float = 0.0
    as_of: datetime | None = None
    refuses_duplicate_ids: bool = False
    needs_audio: bool = True
    embeds_audio: bool = True
    allows_outside_paths: bool = False
    num_workers: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.group_by if name not in GROUP_KEYS]
        if unknown:
            raise ValueError(f"Cannot group by {', '.join(unknown)}: expected some of {', '.join(GROUP_KEYS)}.")
        if self.split_method not in SPLIT_METHODS:
            raise ValueError(f"`split_method` is {self.split_method!r}, expected one of {', '.join(SPLIT_METHODS)}.")
        if not 0 <= self.minimum_age_days <= MAX_AGE_DAYS:
            raise ValueError(
                f"`minimum_age_days` must not be negative, got {self.minimum_age_days}; expected 0 to {MAX_AGE_DAYS}."
            )


def format_time(moment: datetime) -> str:
    """Write a moment as ISO 8601 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def build_working_row(record: SongRecord) -> dict[str, Any]:
    """Build the row of a record in the working table: its own columns, and where its audio lies."""
    labels = record.labels or {}
    return {
        "id": record.id,
        "platform": record.platform,
        "creator": record.creator,
        "prompt": record.prompt,
        "play_count": record.play_count,
        "like_count": record.like_count,
        **{name: labels.get(name) for name in AESTHETIC_NAMES},
        "label_source": record.label_source if labels else None,
        "created_at": format_time(record.created_at) if record.created_at else None,
        "duration": record.duration,
        "title": record.title,
        "is_instrumental": record.is_instrumental,
        "audio_path": str(record.audio_path) if record.audio_path else None,
        **record.extras,
    }
