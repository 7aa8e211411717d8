"""Measure a shortcut of a model on songs, and keep the record where `choose_encoder` will look for it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_apex.engines import check_engine
from modeling_apex.engines.choice import build_engine_key, find_engine_folder, get_exported_folder
from modeling_apex.engines.model_hashes import compute_fingerprint
from modeling_apex.engines.validation import DEFAULT_TOLERANCE, VALIDATION_FILE, measure_shortcut, save_record
from modeling_apex.loading import load_scorer


def validate_shortcut(
    songs: Sequence[Any],
    model: Any = None,
    *,
    engine: str = "torch",
    precision: str = "float32",
    compile: bool = False,
    resampler: str = "sinc",
    tolerance: float = DEFAULT_TOLERANCE,
    **options: Any,
) -> tuple[dict[str, Any], Path]:
    """
    Score songs by the exact path and by a shortcut, and keep what changed.

    The exact path is torch in float32; for an exported model, which has no torch encoder, its float32 graph, which
    was compared with torch when it was exported.

    Args:
        songs (`Sequence`):
            Anything that [`SongScorer`] scores.
        model (`str` or `os.PathLike`, *optional*):
            A folder or a Hub id. Defaults to the embedded demonstration model.
        engine, precision, compile, resampler:
            The shortcut, as for [`load_pipeline`], and how both resample.
        tolerance (`float`, defaults to 0.01):
            Largest accepted change of a score, as a share of its range.
        options:
            Passed to `load_scorer`.

    Returns:
        `tuple[dict, Path]`: the record of `measure_shortcut`, and the file that it is kept in.

    Raises:
        `TypeError`: If `model` is a loaded model.
        `ValueError`: If the default path was named, which is what shortcuts are measured against; if there is no song.
    """
    _check_request(model, engine, precision, compile)
    shortcut = load_scorer(
        model, engine=engine, precision=precision, compile=compile, require_validation=False, **options
    )
    exported = get_exported_folder(shortcut.model)
    if exported is not None and precision == "float32":
        raise ValueError(
            f"{exported}: its float32 graph was compared with torch when it was exported, so there is nothing to "
            "validate. Choose a precision below float32, or validate the checkpoint that it was exported from."
        )
    exact_engine = "torch" if exported is None else engine
    exact = load_scorer(model, engine=exact_engine, **{**options, "device": shortcut.model.device})
    folder = exported or find_engine_folder(compute_fingerprint(shortcut.model), engine)
    record = measure_shortcut(
        lambda some: list(exact.score(some, resampler=resampler)),
        lambda some: list(shortcut.score(some, resampler=resampler)),
        songs,
        build_engine_key(shortcut.model, folder, engine, precision, compile),
        reference=f"{exact_engine} float32",
        tolerance=tolerance,
    )
    save_record(folder, record)
    return record, folder / VALIDATION_FILE


def _check_request(model: Any, engine: str, precision: str, compile: bool) -> None:
    check_engine(engine, precision, compile=compile)
    if model is not None and not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            f"`model` must be a folder or a Hub id, because each path loads its own; got {type(model).__name__}."
        )
    if engine == "torch" and precision == "float32" and not compile:
        raise ValueError(
            "there is nothing to validate: torch in float32 is the exact path. Choose an engine, a precision below "
            "float32, or compile."
        )
