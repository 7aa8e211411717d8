"""
Scores that a cluster left, read again: a folder of Parquet comes in, with what it was made by; reports leave.

`apex-music score TABLE --backend ray` writes such folders. What they hold are the scores of one model, so that another
command need not listen to a song twice.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_apex.corpus.score_rows import ScoreRows
from modeling_apex.storage.output_folder import load_fields

SETTINGS = "settings.json"
FILES = "scores-*.parquet"
REMEDY = "Delete it, then score its table again."


def find_cluster_scores(names: Sequence[str]) -> Path | None:
    """
    Find out whether songs are named by the folder of their scores.

    Args:
        names (`Sequence[str]`):
            What a command line names.

    Returns:
        `Path` or `None`: the folder; `None` if no name is one.

    Raises:
        `ValueError`: If such a folder is named together with something else.
    """
    folders = (Path(os.path.expanduser(name)) for name in names)
    folder = next((path for path in folders if (path / SETTINGS).is_file() and any(path.glob(FILES))), None)
    if folder is not None and len(names) > 1:
        raise ValueError(
            f"{folder}: holds scores, and was given together with other inputs. Pass this folder alone, or songs "
            "alone."
        )
    return folder


def read_cluster_scores(folder: Path, config: Any, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    Read the reports of a folder.

    Args:
        folder (`Path`):
            What `score_table` wrote.
        config ([`ApexConfig`] or one of another model):
            That of the model whose scores they are.
        settings (`Mapping[str, Any]`):
            What the scores must be made by, as `settings.json` has it: `weights_sha256`, `tail`.

    Returns:
        `list[dict]`: `id`, `scores`, `duration_seconds` and `warnings` of each song; of one that failed, its `error`.

    Raises:
        `ValueError`: If the folder is damaged, or its scores are of another model or tail.
    """
    found = load_fields(folder / SETTINGS, REMEDY)
    wrong = [name for name, value in settings.items() if found.get(name) != value]
    if wrong:
        facts = "; ".join(f"{name} {found.get(name)!s:.12} instead of {settings[name]!s:.12}" for name in wrong)
        raise ValueError(f"{folder}: its scores are not of this model and these options ({facts}).")
    reports = []
    for path in sorted(folder.glob(FILES)):
        rows = ScoreRows.read(path, REMEDY)
        names = ["id", *config.head_names, "duration_seconds", "warnings", "error"]
        columns = [rows.list_values(name) for name in names]
        for song, *scores, duration, warnings, error in zip(*columns, strict=True):
            report: dict[str, Any] = {"id": song, "duration_seconds": duration}
            if error is not None:
                reports.append(report | {"error": error})
                continue
            if song is None or None in scores:
                raise ValueError(f"{path}: is damaged (a song without its id or a score). {REMEDY}")
            named = dict(zip(config.head_names, scores, strict=True))
            reports.append(report | {"scores": named, "warnings": [warnings] if warnings else []})
    return reports
