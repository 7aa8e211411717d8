"""
`apex-music calibrate`: give a model that exists what training gives a new one: ranks, intervals, what is novel.

What comes in are a model and songs that it did not learn from, with their labels where they have any; what leaves is
`config.reference`, written into the model's folder or into a new one. Songs are scored as any others are.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_apex.corpus.song_source import Song, SongSource, open_song_source
from modeling_apex.inference.audio_limits_apex import AudioLimits
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.scoring_apex import SongScorer
from modeling_apex.loading import load_model
from modeling_apex.model_names import find_model
from modeling_apex.storage.output_folder import replace_text, write_new_folder
from modeling_apex.storage.output_lock import OutputLock
from modeling_apex.training.reference import INTERVAL_LEVEL, build_reference

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Calibration:
    """What calibrating came to: `config.reference`, and the songs that could not be scored, with their errors."""

    reference: dict[str, Any]
    failures: list[dict[str, str]]


def calibrate(
    scorer: SongScorer,
    songs: str | os.PathLike | SongSource,
    *,
    name: str | None = None,
    splits: Sequence[str] | None = None,
    interval_level: float = INTERVAL_LEVEL,
    limits: AudioLimits | None = None,
) -> Calibration:
    """
    Measure how a model scores songs that it did not learn from.

    Args:
        scorer ([`SongScorer`]):
            Holds the model.
        songs (`str`, `os.PathLike` or [`SongSource`]):
            A dataset folder, a folder of audio, or a Hub dataset id. Labels are its columns named as the scores are;
            a column `group` says which songs go together.
        name (`str`, *optional*):
            What reports call these songs; the name of the folder or dataset by default.
        splits (`Sequence[str]`, *optional*):
            Which splits; all but `train` by default, or all there are.
        interval_level (`float`, defaults to 0.9):
            Share of new songs whose label is to lie in its interval.
        limits ([`AudioLimits`], *optional*):
            What is refused.

    Returns:
        [`Calibration`]

    Raises:
        `ValueError`: If a split is not there, or fewer than twenty songs can be scored.
    """
    source = open_song_source(songs)
    chosen = list(splits or [split for split in source.splits if split != "train"] or source.splits)
    if unknown := [split for split in chosen if split not in source.splits]:
        raise ValueError(f"{source.name}: no split {', '.join(unknown)}; there are {', '.join(source.splits)}.")
    pairs = _score_all(scorer, source, chosen, limits)
    failures = [{"id": song.id, "error": report["error"]} for song, report in pairs if "error" in report]
    scored = [(song, report) for song, report in pairs if "error" not in report]
    head_names = scorer.model.config.head_names
    labels = [[_read_label(song.columns.get(head)) for head in head_names] for song, _ in scored]
    reference = build_reference(
        np.array([list(report["scores"].values()) for _, report in scored], np.float32),
        head_names,
        name=name or Path(source.name).name,
        song_ids=[song.id for song, _ in scored],
        labels=np.array(labels, np.float32).reshape(-1, len(head_names)),
        groups=[song.columns.get("group") for song, _ in scored],
        embeddings=np.array([report["embedding"] for _, report in scored], np.float32),
        interval_level=interval_level,
    )
    return Calibration(reference, failures)


def _score_all(
    scorer: SongScorer, source: SongSource, splits: Sequence[str], limits: AudioLimits | None
) -> list[tuple[Song, dict[str, Any]]]:
    """Score the songs of splits; return each without its audio, and its report."""
    listed: list[Song] = []
    feature_names = getattr(scorer.model.config, "feature_names", ())

    def list_songs() -> Iterator[dict[str, Any]]:
        for split in splits:
            for song in source.iterate(split, 0, source.splits[split]):
                listed.append(Song(song.id, None, song.columns))
                features = {name: song.columns.get(name) for name in feature_names}
                yield {"id": song.id, "audio": song.audio, **({"features": features} if features else {})}

    options: dict[str, Any] = {"on_error": "report", "return_embedding": True, "return_percentiles": False}
    reports: list[Any] = list(scorer.score(list_songs(), limits=limits, **options))
    return list(zip(listed, reports, strict=True))


def _read_label(value: Any) -> float:
    return float("nan") if value is None else float(value)


def save_reference(
    model: str | os.PathLike, reference: dict[str, Any], output: str | os.PathLike | None = None
) -> Path:
    """
    Write what a model knows of its reference set into its `config.json`.

    Args:
        model (`str` or `os.PathLike`), reference (`dict`):
            The model's folder, or its Hub id; from [`calibrate`].
        output (`str` or `os.PathLike`, *optional*):
            A new folder for the model with its reference; by default it is written into the model's own folder.

    Returns:
        `Path`: the folder.

    Raises:
        `ValueError`: If the model is on the Hub and no output is named.
        `FileExistsError`: If the output holds anything.
    """
    folder = Path(os.path.expanduser(model))
    if output is None:
        if not folder.is_dir():
            raise ValueError(f"{model}: no folder, so its config cannot be written. Choose a new one: --output FOLDER")
        with OutputLock(folder):
            _write_config(folder, reference)
        return folder
    with write_new_folder(output) as part:
        source = Path(find_model(model))
        if source.is_dir():
            shutil.copytree(source, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        else:
            loaded: Any = load_model(model)
            loaded.save_pretrained(part)
            if not getattr(loaded.config, "is_whole_song", False):  # nothing cuts what is heard whole
                ApexFeatureExtractor.from_config(loaded.config).save_pretrained(part)
        _write_config(part, reference)
    return Path(output)


def _write_config(folder: Path, reference: dict[str, Any]) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    replace_text(folder / CONFIG_FILE, json.dumps({**config, "reference": reference}, indent=2, sort_keys=True) + "\n")
