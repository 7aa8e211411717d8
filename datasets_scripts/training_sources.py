"""
The sources of training songs as a command line names them: tables, their audio, and which column holds which field.

Apart from the builder that reads them, so that `--help` needs no package of an extra.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Where a Suno song object keeps what a song row needs. `|` separates alternatives, dots reach into objects.
DEFAULT_COLUMNS: Mapping[str, str] = {
    "id": "id",
    "platform": "platform",
    "play_count": "play_count",
    "like_count": "upvote_count",
    "creator": "user_id|handle",
    "prompt": "metadata.gpt_description_prompt|metadata.prompt",
    "created_at": "created_at",
    "duration": "metadata.duration|duration",
    "duration_ms": "duration_ms|metadata.duration_ms",
    "title": "title",
    "has_vocal": "metadata.has_vocal",
    "is_instrumental": "is_instrumental",
    "audio": "audio",
    "audio_path": "audio_path|file_name",
}
# The name that stands for the table of labels where a platform may: `--column labels:id=track`.
LABELS = "labels"
AUDIO_IN_TABLE = "in-table"
NO_AUDIO = "none"


@dataclass(frozen=True)
class SongSource:
    """
    One metadata table and its audio.

    Args:
        metadata (`str`):
            A file, a folder of files, or a Hub dataset id (`"owner/name"`).
        audio (`str`):
            The audio folder; `"in-table"` when the table has a column with the audio; `"none"` for no audio at all.
        platform (`str`, *optional*):
            The platform of all its songs. Without it the table must have a column that says so.
        split (`str`, defaults to `"train"`):
            The split to read of a Hub dataset.
        revision (`str`, *optional*):
            The revision to read of a Hub dataset.
    """

    metadata: str
    audio: str
    platform: str | None = None
    split: str = "train"
    revision: str | None = None
