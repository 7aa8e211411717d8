"""
Pseudo-labels: a corpus of songs and a model that teaches come in, one row per song leaves, as dataset builders read.

A row names its song by the id that the corpus has, and says with the scores who gave them: the teacher, the hash of
its weights, the day, the version. So nobody takes them for what people said, wherever the table goes.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modeling_apex import __version__
from modeling_apex.corpus.label_teacher import MAX_NAME_LENGTH, TEACHER_COLUMNS, LabelTeacher
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.inference.heads_apex import DEFAULT_HEADS
from modeling_apex.inference.report_apex import escape_controls
from modeling_apex.inference.scoring_apex import SongScorer

LABELS = {head["name"]: head for head in DEFAULT_HEADS if head["group"] == "aesthetics"}


def refuse_teacher_without_labels(scorer: SongScorer) -> None:
    """
    Refuse a model whose scores are no labels.

    Raises:
        `ValueError`: If it lacks one of the five aesthetic scores, or has it in another range.
    """
    heads = {head["name"]: head for head in scorer.model.config.heads}
    problems = [name for name in LABELS if name not in heads]
    if problems:
        raise ValueError(
            f"{scorer.model_id}: cannot be a teacher, because it has no score {', '.join(problems)}; its scores are "
            f"{', '.join(heads)}. Choose a model with the five aesthetic scores, such as SongEval or APEX."
        )
    for name, label in LABELS.items():
        found, expected = ([head[end] for end in ("minimum", "maximum")] for head in (heads[name], label))
        if found != expected:
            raise ValueError(
                f"{scorer.model_id}: cannot be a teacher, because its score {name} runs from {found[0]:g} to "
                f"{found[1]:g}; a label runs from {expected[0]:g} to {expected[1]:g}. Choose a model with that range."
            )


def describe_teacher(scorer: SongScorer) -> LabelTeacher:
    """Say who labels, and when. A folder is called by its name, without its place."""
    name = scorer.model_id
    if os.path.isdir(name):
        name = Path(os.path.abspath(name)).name
    name = escape_controls(name)[:MAX_NAME_LENGTH]
    today = datetime.now(UTC).date().isoformat()
    return LabelTeacher(name, scorer.model_revision, compute_scores_hash(scorer.model), today, __version__)


def list_label_columns(config: Any) -> dict[str, str]:
    """List the columns of a table of labels, with their types; all but `id` and the teacher's may be null."""
    scores = {head["name"]: "double" for head in config.heads}
    texts = dict.fromkeys(("warnings", "error", *TEACHER_COLUMNS), "string")
    return {"id": "string", **scores, "duration_seconds": "double", **texts}


def build_label_row(report: Mapping[str, Any], config: Any, teacher: LabelTeacher) -> dict[str, Any]:
    """
    Turn a report into a row of `list_label_columns`; a song that failed has `error`, and no scores.

    A float32 score may miss the bound of its range by its rounding, and a label may not.
    """
    found = report.get("scores", {})
    scores = {
        head["name"]: min(max(found[head["name"]], head["minimum"]), head["maximum"]) if found else None
        for head in config.heads
    }
    return {
        "id": report["id"],
        **scores,
        "duration_seconds": report.get("duration_seconds"),
        "warnings": "; ".join(report.get("warnings", ())),
        "error": report.get("error"),
        **teacher.to_json(),
    }
