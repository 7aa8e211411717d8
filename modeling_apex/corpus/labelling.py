"""
Pseudo-labels: a corpus of songs and a model that teaches come in, one row a song leaves, as builders of datasets read.

A row names its song by the id that the corpus has, and says with the scores who gave them: the teacher, the hash of
its weights, the day, the version. So nobody takes them for what people said, wherever the table goes.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Unpack

from modeling_apex import __version__
from modeling_apex.corpus.audio_record import UNREADABLE, SongAudio, identify_song
from modeling_apex.corpus.label_teacher import MAX_NAME_LENGTH, TEACHER_COLUMNS, LabelTeacher
from modeling_apex.corpus.score_journal import ScoreJournal
from modeling_apex.corpus.song_source import Song, SongSource, compute_source_fingerprint
from modeling_apex.corpus.song_uris import open_song
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.inference.heads_apex import DEFAULT_HEADS
from modeling_apex.inference.report_apex import escape_controls
from modeling_apex.inference.scoring_apex import ScoreOptions, SongScorer

LABELS = {head["name"]: head for head in DEFAULT_HEADS if head["group"] == "aesthetics"}


def score_source(
    songs: SongSource,
    scorer: SongScorer,
    journal: ScoreJournal,
    *,
    rereads: bool = False,
    **options: Unpack[ScoreOptions],
) -> Iterator[dict[str, Any]]:
    """
    Score the songs of a source that a journal does not hold yet, or holds with other audio.

    Args:
        songs ([`SongSource`]):
            The songs, of all splits.
        scorer ([`SongScorer`]), journal ([`ScoreJournal`]):
            What scores them, and what is given each report.
        rereads (`bool`, defaults to `False`):
            Whether to read files that look unchanged, and to score what lies behind URLs again.
        options:
            Those of [`SongScorer.score`]; a song that fails has its reason in its report.

    Returns:
        `Iterator[dict]`: the reports, each called by the id of its song.
    """
    waiting: deque[tuple[str, SongAudio]] = deque()

    def choose() -> Iterator[dict[str, Any]]:
        for song in _iterate_all(songs):
            audio = identify_song(song.audio, journal.find_audio(song.id), rereads=rereads)
            if not journal.holds(song.id, audio) or (rereads and audio.is_address):
                waiting.append((song.id, audio))
                yield {"id": song.id, "audio": open_song(song.audio, limits=options.get("limits"))}

    settled: ScoreOptions = {"read_ahead": True, **options, "on_error": "report"}
    reports: Iterator[Any] = scorer.score(choose(), **settled)
    for report in reports:
        song_id, audio = waiting.popleft()
        if audio.path is not None and identify_song(audio.path, audio).content != audio.content:
            audio = SongAudio(UNREADABLE, audio.path)  # it changed, perhaps before it was scored
        report["song"] = song_id
        journal.add(song_id, report, audio)
        yield report


def list_ids(songs: SongSource) -> list[str]:
    """
    Return the ids of all songs of a source, in order.

    Raises:
        `ValueError`: If an id occurs twice.
    """
    compute_source_fingerprint(songs)
    return [song_id for split in songs.splits for song_id in songs.read_columns(split)["id"].to_pylist()]


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
            f"{scorer.model_id}: cannot teach, for it has no score {', '.join(problems)}; its scores are "
            f"{', '.join(heads)}. Name a model with the five aesthetic scores, such as SongEval or APEX."
        )
    for name, label in LABELS.items():
        found, expected = ([head[end] for end in ("minimum", "maximum")] for head in (heads[name], label))
        if found != expected:
            raise ValueError(
                f"{scorer.model_id}: cannot teach, for its score {name} runs from {found[0]:g} to {found[1]:g}; a "
                f"label runs from {expected[0]:g} to {expected[1]:g}. Name a model of that range."
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
        "id": report["song"],
        **scores,
        "duration_seconds": report.get("duration_seconds"),
        "warnings": "; ".join(report.get("warnings", ())),
        "error": report.get("error"),
        **teacher.to_json(),
    }


def _iterate_all(songs: SongSource) -> Iterator[Song]:
    for split, num_songs in songs.splits.items():
        yield from songs.iterate(split, 0, num_songs)
