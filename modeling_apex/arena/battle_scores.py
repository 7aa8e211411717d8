"""
From battles with audio to a table of battles with scores: the one door between the arena experiment and a model.

What comes in is a dataset of the Music Arena builder and a callable that scores a song; what leaves is a JSONL file,
one battle a line without its audio, and the [`BattleTable`] read from it. The file is its own journal: an interrupted
run goes on behind its last whole line, and a file scored by another model is refused. A side that could not be scored
(withheld or broken audio) keeps empty scores and the reason.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modeling_apex.arena.battle_table import BattleTable, build_score_columns, load_battle_table
from modeling_apex.storage.output_folder import replace_text

KEPT_COLUMNS = ("preference", "system_a", "system_b", "is_instrumental", "prompt", "user_pseudonym", "date")
SILENCE_DECIBELS = -120.0


def compute_loudness(waveform: np.ndarray) -> float:
    """
    Compute the level of a song: its root mean square in decibels relative to full scale.

    Args:
        waveform (`np.ndarray` of shape `(num_samples,)`): Mono audio.

    Returns:
        `float`: Decibels, not below -120, which stands for silence.
    """
    mean_square = float(np.mean(np.square(waveform, dtype=np.float64))) if len(waveform) else 0.0
    return max(SILENCE_DECIBELS, 10.0 * math.log10(mean_square)) if mean_square > 0 else SILENCE_DECIBELS


def measure_loudness(audio: Any) -> float:
    """Decode a song and compute its level, see [`compute_loudness`]."""
    from modeling_apex.inference.audio_apex import load_audio

    return compute_loudness(load_audio(audio))


def compute_battle_scores(
    dataset: Iterable[Mapping[str, Any]],
    pipeline: Callable[[Any], Mapping[str, Any]],
    output: str | Path,
    *,
    model_id: str,
    loudness: Callable[[Any], float] | None = measure_loudness,
) -> BattleTable:
    """
    Score both sides of every battle once and store the table.

    Args:
        dataset (`Iterable[Mapping[str, Any]]`):
            Rows with `battle_uuid`, `preference`, `system_a`, `system_b`, `audio_a`, `audio_b` and what else is known.
        pipeline (`Callable`):
            Takes a song and returns its report: `scores` by name and `duration_seconds`, or `error`.
        output (`str` or `Path`): JSONL file to write or to go on with.
        model_id (`str`): What scores the songs, with its revision; a file of another one is refused.
        loudness (`Callable`, *optional*): Takes a song and returns decibels; `None` leaves loudness unknown.

    Returns:
        `BattleTable`: The battles of the dataset in its order, with scores, durations and loudness.

    Raises:
        `ValueError`: If the file holds battles scored by another model or does not belong to this dataset, a column is
            missing, or no song could be scored.
    """
    path = Path(output)
    if path.suffix.lower() != ".jsonl":
        raise ValueError(f"Scores are stored as JSONL, but the output is {path}. Name a file ending in .jsonl.")
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = _read_journal(path, model_id)
    wanted: list[str] = []
    score_names: list[str] = []
    with path.open("a", encoding="utf-8") as journal:
        for number, row in enumerate(dataset, start=1):
            missing = [name for name in ("battle_uuid", "preference", "audio_a", "audio_b") if name not in row]
            if missing:
                raise ValueError(f"Row {number} of the dataset lacks {missing}. It has {sorted(row)}.")
            wanted.append(str(row["battle_uuid"]))
            if wanted[-1] not in stored:
                stored[wanted[-1]] = _score_battle(row, pipeline, loudness, model_id)
                journal.write(json.dumps(stored[wanted[-1]], ensure_ascii=False, default=str) + "\n")
                journal.flush()
    for battle in wanted:
        score_names += [name for name in stored[battle]["scored"] if name not in score_names]
    if foreign := [battle for battle in stored if battle not in set(wanted)]:
        raise ValueError(
            f"{path} holds {len(foreign)} battles that the dataset does not have, the first being {foreign[0]!r}. "
            "Name another output, or delete the file."
        )
    if not score_names:
        reasons = sorted({str(row[f"error_{side}"]) for row in stored.values() for side in "ab"})
        raise ValueError(f"No song of {len(wanted)} battles could be scored. Reasons: {'; '.join(reasons[:5])}.")
    _save_table(path, [stored[battle] for battle in wanted], score_names)
    return load_battle_table(path, scores=_declare(score_names))


def _declare(score_names: list[str]) -> list[str]:
    columns = [f"{name}_{side}" for name in score_names for side in "ab"]
    return [
        f"{column.name}:{column.group}={column.column_a},{column.column_b}"
        for column in build_score_columns(columns, score_names)
    ]


def _score_battle(
    row: Mapping[str, Any],
    pipeline: Callable[[Any], Mapping[str, Any]],
    loudness: Callable[[Any], float] | None,
    model_id: str,
) -> dict[str, Any]:
    scored: dict[str, Any] = {"battle_uuid": str(row["battle_uuid"])}
    scored.update({name: row.get(name) for name in KEPT_COLUMNS})
    names: list[str] = []
    for side in "ab":
        audio = row[f"audio_{side}"]
        is_withheld = not audio or (isinstance(audio, Mapping) and not any(audio.values()))
        report: Mapping[str, Any] = {"error": "the audio is withheld"} if is_withheld else pipeline(audio)
        scores = dict(report.get("scores", {}))
        names += [name for name in scores if name not in names]
        scored.update({f"{name}_{side}": float(value) for name, value in scores.items()})
        duration = row.get(f"duration_{side}")
        scored[f"duration_{side}"] = report.get("duration_seconds") if duration is None else duration
        scored[f"loudness_{side}"] = loudness(audio) if scores and loudness is not None else None
        scored[f"error_{side}"] = report.get("error")
    return {**scored, "scored": names, "scored_by": model_id}


def _read_journal(path: Path, model_id: str) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    # A kill can leave half a line behind the last line break.
    whole = path.read_bytes().split(b"\n")[:-1]
    rows = [json.loads(line) for line in whole]
    others = sorted({str(row.get("scored_by")) for row in rows} - {model_id})
    if others:
        raise ValueError(
            f"{path} holds scores by {', '.join(others)}, not by {model_id}. Name another output, or delete the file."
        )
    os.truncate(path, sum(len(line) + 1 for line in whole))
    return {row["battle_uuid"]: row for row in rows}


def _save_table(path: Path, rows: list[dict[str, Any]], score_names: list[str]) -> None:
    """Write all battles in the dataset's order, every score column in every row."""
    columns = {f"{name}_{side}": None for name in score_names for side in "ab"}
    lines = [json.dumps({**columns, **row}, ensure_ascii=False, default=str) + "\n" for row in rows]
    replace_text(path, "".join(lines))
