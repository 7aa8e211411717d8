"""
From battles with audio to a table of battles with scores: the one door between the arena experiment and a model.

What comes in is a dataset of the Music Arena builder and a callable that scores a song; what leaves is a JSONL file,
one battle a line without its audio, and the [`BattleTable`] read from it. The file is its own journal: an interrupted
run goes on behind its last whole line. It is valid for the weights and the audio that made it: a file of other weights
is refused, a battle whose audio was replaced is scored again, and votes are always those of the dataset as it is. A
side that could not be scored (withheld or broken audio) keeps empty scores and the reason.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modeling_apex.arena.battle_files import load_battle_table
from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.ranking import find_groups
from modeling_apex.corpus.identity import ContentIdentity, identify_audio, refuse_differences
from modeling_apex.storage.links import open_to_append
from modeling_apex.storage.output_folder import replace_text

REQUIRED_COLUMNS = ("battle_uuid", "preference", "audio_a", "audio_b")
KEPT_COLUMNS = ("preference", "system_a", "system_b", "is_instrumental", "prompt", "user_pseudonym", "date")
SILENCE_DECIBELS = -120.0
SCORE_GROUPS = ("popularity", "aesthetics")  # what classifiers are given with and without
WITHHELD = "the audio is withheld"
REMEDY = "Delete it and run the same `apex-music arena` command again, or name another --output."


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


def load_beginning(audio: Any, seconds: float) -> dict[str, Any]:
    """
    Decode the beginning of a song, at its own sampling rate and mixed to one channel.

    Args:
        audio: The song, as `open_audio` takes it.
        seconds (`float`): How much of it, at most.

    Returns:
        `dict`: `array` and `sampling_rate`, which is a song again.
    """
    from modeling_apex.inference.decoding_apex import open_audio

    with open_audio(audio) as stream:
        length, pieces = round(seconds * stream.sampling_rate), list[np.ndarray]()
        for block in stream.blocks:
            pieces.append(block)
            if sum(map(len, pieces)) >= length:
                break
        return {"array": np.concatenate(pieces)[:length], "sampling_rate": stream.sampling_rate}


def score_beginning(score_song: Callable[[Any], Mapping[str, Any]], seconds: float, audio: Any) -> Mapping[str, Any]:
    """Score the beginning of a song alone, see [`load_beginning`]; what cannot be decoded has an `error`."""
    from modeling_apex.inference.scoring_apex import SONG_ERRORS

    try:
        beginning = load_beginning(audio, seconds)
    except SONG_ERRORS as error:
        return {"error": str(error)}
    return score_song(beginning)


def compute_battle_scores(
    dataset: Iterable[Mapping[str, Any]],
    score_song: Callable[[Any], Mapping[str, Any]],
    output: str | Path,
    *,
    model_id: str,
    weights_sha256: str,
    loudness: Callable[[Any], float] | None = measure_loudness,
    rereads: bool = False,
    first_seconds: float | None = None,
) -> BattleTable:
    """
    Score both sides of every battle once and store the table.

    Args:
        dataset (`Iterable[Mapping[str, Any]]`):
            Rows with `battle_uuid`, `preference`, `system_a`, `system_b`, `audio_a`, `audio_b` and what else is known.
        score_song (`Callable`):
            Takes a song and returns its report: `scores` by name and `duration_seconds`, or `error`.
        output (`str` or `Path`): JSONL file to write or to go on with.
        model_id (`str`): What people call the model that scores the songs.
        weights_sha256 (`str`): Hash of everything of it that scores depend on; a file of other weights is refused.
        loudness (`Callable`, *optional*): Takes a song and returns decibels; `None` leaves loudness unknown.
        rereads (`bool`, defaults to `False`): Whether to read audio files that look unchanged.
        first_seconds (`float`, *optional*): How much of each song is heard, see [`load_beginning`]; all by default.

    Returns:
        `BattleTable`: The battles of the dataset in its order, with scores, durations and loudness.

    Raises:
        `ValueError`: If the file holds battles scored by other weights, in other lengths or by version 0.1, or does
            not belong to this dataset, a column is missing, or no song could be scored.
    """
    path = Path(output)
    if path.suffix.lower() != ".jsonl":
        raise ValueError(f"Scores are stored as JSONL, but the output is {path}. Choose a file ending in .jsonl.")
    path.parent.mkdir(parents=True, exist_ok=True)
    identity: dict[str, Any] = {"weights_sha256": weights_sha256}
    if first_seconds is not None:  # said only where it is, so that files of before go on
        identity["first_seconds"] = first_seconds
        score_song = functools.partial(score_beginning, score_song, first_seconds)
    stored = _read_stored(path, identity)
    rows: list[dict[str, Any]] = []
    with open_to_append(path, encoding="utf-8") as journal:
        for number, battle in enumerate(dataset, start=1):
            if missing := [name for name in REQUIRED_COLUMNS if name not in battle]:
                raise ValueError(f"Row {number} of the dataset lacks {missing}. It has {sorted(battle)}.")
            found = _take_over(battle, stored.get(str(battle["battle_uuid"])), rereads)
            if found is None:
                found = {**_score_battle(battle, score_song, loudness), "scored_by": model_id, **identity}
                journal.write(json.dumps(_describe(battle, found), ensure_ascii=False, default=str) + "\n")
                journal.flush()
            rows.append(_describe(battle, found))
    _refuse_foreign(path, stored, rows)
    groups = {name: group for row in rows for name, group in row["groups"].items()}
    if not groups:
        reasons = sorted({str(row[f"error_{side}"]) for row in rows for side in "ab"})
        raise ValueError(f"No song of {len(rows)} battles could be scored. Reasons: {'; '.join(reasons[:5])}.")
    _save_table(path, rows, list(groups))
    return load_battle_table(path, scores=[f"{name}:{group}" for name, group in groups.items()])


def _refuse_foreign(path: Path, stored: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    wanted = {row["battle_uuid"] for row in rows}
    if foreign := [battle for battle in stored if battle not in wanted]:
        raise ValueError(
            f"{path} holds {len(foreign)} battles that the dataset does not have, the first being {foreign[0]!r}. "
            "Choose another output, or delete the file."
        )


def _is_withheld(audio: Any) -> bool:
    return not audio or (isinstance(audio, Mapping) and not any(audio.values()))


def _describe(battle: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Put what the dataset says of a battle, as it says it now, beside what was found in the audio."""
    row = {"battle_uuid": str(battle["battle_uuid"]), **found, **{name: battle.get(name) for name in KEPT_COLUMNS}}
    for side in "ab":
        given = battle.get(f"duration_{side}")
        row[f"duration_{side}"] = found[f"measured_duration_{side}"] if given is None else given
    return row


def _identify(audio: Any, known: ContentIdentity | None = None, *, rereads: bool = False) -> ContentIdentity | None:
    try:
        return None if _is_withheld(audio) else identify_audio(audio, known, rereads=rereads)
    except OSError:  # whoever decodes the song says why it cannot be read
        return None


def _take_over(battle: Mapping[str, Any], row: Mapping[str, Any] | None, rereads: bool) -> dict[str, Any] | None:
    """Give what is stored of a battle, or `None` if that was found in other audio, or audio nobody can identify."""
    if row is None:
        return None
    found = dict(row)
    for side in "ab":
        if _is_withheld(battle[f"audio_{side}"]) and found[f"error_{side}"] == WITHHELD:
            continue
        known = found[f"identity_{side}"] and ContentIdentity.from_json(found[f"identity_{side}"])
        identity = _identify(battle[f"audio_{side}"], known, rereads=rereads)
        if not known or not identity or identity.sha256 != known.sha256:
            return None
        found[f"identity_{side}"] = identity.to_json()
    return found


def _score_battle(
    battle: Mapping[str, Any],
    score_song: Callable[[Any], Mapping[str, Any]],
    loudness: Callable[[Any], float] | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {"groups": {}}
    for side in "ab":
        audio = battle[f"audio_{side}"]
        before = _identify(audio)
        report: Mapping[str, Any] = {"error": WITHHELD} if _is_withheld(audio) else score_song(audio)
        scores = dict(report.get("scores", {}))
        groups = find_groups(report) if scores else {}
        found["groups"] |= {name: groups[name] if groups.get(name) in SCORE_GROUPS else "other" for name in scores}
        found.update({f"{name}_{side}": float(value) for name, value in scores.items()})
        found[f"measured_duration_{side}"] = report.get("duration_seconds")
        found[f"loudness_{side}"] = loudness(audio) if scores and loudness is not None else None
        found[f"error_{side}"] = report.get("error")
        # What changed while it was scored is not known to be what was scored.
        after = _identify(audio, before)
        is_same = before is not None and after is not None and after.sha256 == before.sha256
        found[f"identity_{side}"] = before.to_json() if before is not None and is_same else None
    return {**found, "scored": list(found["groups"])}


def _read_stored(path: Path, identity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    # A kill can leave half a line behind the last line break.
    whole = path.read_bytes().split(b"\n")[:-1]
    rows = [json.loads(line) for line in whole]
    for row in rows:
        if "weights_sha256" not in row:
            raise ValueError(
                f"{path}: holds scores of battles by version 0.1, which did not record their weights and "
                f"audio. {REMEDY}"
            )
        what = f"scores of battles by {row['scored_by']}"
        stored, wanted = (
            {"weights": facts["weights_sha256"], "seconds heard of each song": str(facts.get("first_seconds", "all"))}
            for facts in (row, identity)
        )
        refuse_differences(path, what, stored, wanted, REMEDY)
    os.truncate(path, sum(len(line) + 1 for line in whole))
    return {row["battle_uuid"]: row for row in rows}  # where a battle was scored again, the last row counts


def _save_table(path: Path, rows: list[dict[str, Any]], score_names: list[str]) -> None:
    """Write all battles in the dataset's order, every score column in every row."""
    columns = {f"{name}_{side}": None for name in score_names for side in "ab"}
    lines = [json.dumps({**columns, **row}, ensure_ascii=False, default=str) + "\n" for row in rows]
    replace_text(path, "".join(lines))
