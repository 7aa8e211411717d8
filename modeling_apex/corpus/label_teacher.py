"""
Whose word pseudo-labels are: the columns of a table of labels that say so, and the words that every card repeats.

What comes in is a row of a table, perhaps a stranger's; what leaves is the teacher, or a refusal. Standard library
only: builders of datasets and cards need no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Self

from modeling_apex.storage.cell_values import read_text

PSEUDO_LABELS = "pseudo-labels"
TEACHER_COLUMNS = ("teacher", "teacher_revision", "teacher_sha256", "labelled_on", "apex_music_version")
MAX_NAME_LENGTH = 200
_HASH = re.compile(r"[0-9a-f]{64}")
_WORDS = re.compile(
    rf"{PSEUDO_LABELS} of (?P<words>.{{1,{MAX_NAME_LENGTH}}} \(SHA-256 [0-9a-f]{{12}}, [0-9 to-]{{10,24}}\))"
)


@dataclass(frozen=True)
class LabelTeacher:
    """
    The model that made labels.

    Args:
        teacher (`str`):
            Its name: a Hub id, or the name of a folder.
        teacher_revision (`str`, *optional*):
            Its commit on the Hub.
        teacher_sha256 (`str`):
            Hash of all that its scores depend on, hexadecimal.
        labelled_on (`str`):
            The day, as ISO 8601; of several days, "first to last".
        apex_music_version (`str`, *optional*):
            What computed the scores.
    """

    teacher: str
    teacher_revision: str | None
    teacher_sha256: str
    labelled_on: str
    apex_music_version: str | None

    @classmethod
    def from_row(cls, values: Mapping[str, Any]) -> Self | None:
        """
        Read the teacher of a row of labels.

        Returns:
            [`LabelTeacher`] or `None`: `None` for a row without `teacher_sha256`, as people write them.

        Raises:
            `ValueError`: If a column holds something else than `apex-music label` writes.
        """
        found = {name: read_text(values.get(name)) for name in TEACHER_COLUMNS}
        if found["teacher_sha256"] is None:
            return None
        for name, text in found.items():
            is_plain = text is None or (text.isprintable() and len(text) <= MAX_NAME_LENGTH)
            if not is_plain or (text is None and name in ("teacher", "labelled_on")):
                raise ValueError(f"{name} is {text!r:.80}, expected a line of at most {MAX_NAME_LENGTH} characters.")
        if not _HASH.fullmatch(found["teacher_sha256"]):
            raise ValueError(f"teacher_sha256 is {found['teacher_sha256']!r:.80}, expected 64 hexadecimal digits.")
        try:
            date.fromisoformat(str(found["labelled_on"]))
        except ValueError as error:
            raise ValueError(f"labelled_on is {found['labelled_on']!r:.80}, expected a day as 2026-01-31.") from error
        return cls(**found)  # type: ignore[arg-type]

    def is_same(self, other: "LabelTeacher") -> bool:
        """Tell whether two rows have one teacher, whatever the day and the version."""
        return (self.teacher, self.teacher_sha256) == (other.teacher, other.teacher_sha256)

    def describe(self) -> str:
        """Say in words whose labels they are, as the column `label_source` of a dataset has it."""
        return f"{PSEUDO_LABELS} of {self.teacher} (SHA-256 {self.teacher_sha256[:12]}, {self.labelled_on})"

    def to_json(self) -> dict[str, str | None]:
        """Return the facts by name."""
        return asdict(self)


def find_teacher(label_source: str) -> str | None:
    """Return the words for the teacher in what [`LabelTeacher.describe`] wrote; `None` if it is something else."""
    found = _WORDS.fullmatch(label_source)
    return found["words"] if found else None
