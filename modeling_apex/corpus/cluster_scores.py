"""
Scores that a cluster left, for what takes songs: a folder of Parquet and what made it come in, reports leave.

`apex-music score TABLE --backend ray` writes such folders. What they hold are the scores of one model, so that another
command need not listen to a song twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex.corpus.audio_record import UNREADABLE, SongAudio
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.score_rows import ScoreRows
from modeling_apex.corpus.song_files import find_folder
from modeling_apex.storage.output_folder import load_fields

SETTINGS = "settings.json"
FILES = "scores-*.parquet"
REMEDY = "Delete it, then score its table again."


def find_cluster_scores(names: Sequence[str]) -> Path | None:
    """Return the folder of scores that songs are given by, if they are; see [`find_folder`]."""
    return find_folder(names, lambda path: (path / SETTINGS).is_file() and any(path.glob(FILES)), "scores")


class ClusterScores:
    """
    The songs of a folder of scores, which are not scored again.

    Args:
        folder (`Path`):
            What `score_table` wrote.
        config ([`ApexConfig`] or one of another model):
            That of the model whose scores they are.
        settings (`Mapping[str, Any]`):
            What the scores must be made by, as `settings.json` has it: `weights_sha256`, `tail`.

    Attributes:
        ids (`list[str]`): Of all songs, in order; those that failed among them.

    Raises:
        `ValueError`: If the folder is damaged, or its scores are of another model or tail.
    """

    def __init__(self, folder: Path, config: Any, settings: Mapping[str, Any]):
        found = load_fields(folder / SETTINGS, REMEDY)
        wrong = [name for name, value in settings.items() if found.get(name) != value]
        if wrong:
            facts = "; ".join(f"{name} {found.get(name)!s:.12} instead of {settings[name]!s:.12}" for name in wrong)
            raise ValueError(f"{folder}: its scores are not of this model and these options ({facts}).")
        paths = sorted(folder.glob(FILES))
        self._reports = [report for path in paths for report in _read_reports(path, config.head_names)]
        self.ids = [report["song"] for report in self._reports]

    def score(self, _: Any, journal: ScoreJournal, **options: Any) -> Iterator[dict[str, Any]]:
        """Give a journal the reports that it does not hold, and yield them; no scorer and no option changes them."""
        for report in self._reports:
            audio = SongAudio(UNREADABLE)  # which the folder does not say
            if journal.wants(report["song"], audio):
                journal.add(report["song"], report, audio)
                yield report


def _read_reports(path: Path, heads: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield `song`, `scores`, `duration_seconds` and `warnings` of each row; of a song that failed, its `error`."""
    rows = ScoreRows.read(path, REMEDY)
    columns = [rows.list_values(name) for name in ("id", *heads, "duration_seconds", "warnings", "error")]
    for song, *scores, duration, warnings, error in zip(*columns, strict=True):
        report: dict[str, Any] = {"song": song, "duration_seconds": duration}
        if song is None or (error is None and None in scores):
            raise ValueError(f"{path}: is damaged (a song without its id or a score). {REMEDY}")
        if error is not None:
            yield report | {"error": error}
        else:
            yield report | {
                "scores": dict(zip(heads, scores, strict=True)),
                "warnings": [warnings] if warnings else [],
            }
