"""
`apex-music evaluate` for a spectrogram-fusion model: errors, correlations and hits, beside the trivial baselines.

What comes in is a model and a dataset of songs with popularity and track features; what leaves is one dict, and a
table of it: per split the errors and correlations of popularity, and F1, precision, recall and AUC of predicted hits
at the model's own threshold, with bootstrap intervals over groups of songs where the dataset names groups.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_apex.corpus.identity import hash_json
from modeling_apex.corpus.song_decoding import decode_song
from modeling_apex.corpus.song_source import Song, SongSource, compute_source_fingerprint, open_song_source
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_spectrogram_fusion_apex import SpectrogramFusionModel
from modeling_apex.inference.report_apex import format_table
from modeling_apex.inference.track_features_apex import is_missing
from modeling_apex.statistics.hit_metrics import HIT_METRICS, compute_hit_results
from modeling_apex.statistics.metrics import METRICS, compute_head_results
from modeling_apex.statistics.result_schema import build_opening
from modeling_apex.training.evaluate import (
    ALL_PLATFORMS,
    RESAMPLED_COLUMNS,
    build_resampled_groups,
    describe_resampled,
    format_findings,
    format_interval,
    format_number,
)
from modeling_apex.training.verdict import add_better_constants, describe_better_constants


def evaluate_fusion_model(
    model: str | os.PathLike | SpectrogramFusionModel,
    source: str | os.PathLike | SongSource,
    *,
    splits: Sequence[str] | None = None,
    target_column: str = "popularity",
    num_draws: int = 1000,
) -> dict[str, Any]:
    """
    Evaluate a model on a dataset of songs, through the classes that score any song.

    Args:
        model (`str`, `os.PathLike` or [`SpectrogramFusionModel`]), source (`str`, `os.PathLike` or [`SongSource`]):
            The model and the songs.
        splits (`Sequence[str]`, *optional*):
            Which splits; defaults to all but `train`.
        target_column (`str`, defaults to `"popularity"`):
            Column of the popularity, 0 to 100.
        num_draws (`int`, defaults to 1000):
            Bootstrap samples.

    Returns:
        `dict`: as the schema `"evaluation"` of `result_schema` says: the opening, facts of the model, `failures`, and
        `splits`: per split `popularity` (as `compute_head_results` gives it) and `hit` (as `compute_hit_results`
        does). Survives JSON.

    Raises:
        `ValueError`: If a split or the target column is missing.
    """
    songs, loaded = open_song_source(source) if isinstance(source, (str, os.PathLike)) else source, cast(Any, model)
    if isinstance(model, (str, os.PathLike)):
        loaded = SpectrogramFusionModel.from_pretrained(os.fspath(model), dtype=torch.float32)
    config = loaded.eval().config
    chosen = choose_splits(songs, splits, target_column)
    training_songs = songs.iterate("train", 0, songs.splits["train"]) if "train" in songs.splits else ()
    training_labels = _list_labels(training_songs, target_column)
    failures: list[dict[str, str]] = []
    results: dict[str, Any] = {}
    for name in chosen:
        scores, scored = predict_songs(loaded, songs, name, failures)
        results[name] = _evaluate_songs(
            scores, scored, training_labels, target_column, config.hit_threshold, num_draws
        )
    return {
        **build_opening(
            "evaluation",
            model=str(config._name_or_path),
            model_sha256=compute_scores_hash(loaded),
            input_sha256=_hash_rows(songs, [target_column, *config.feature_names, *RESAMPLED_COLUMNS]),
        ),
        "branches": config.branches,
        "features": config.feature_names,
        "leaking_features": config.leaking_names,
        "hit_threshold": config.hit_threshold,
        "baselines_from": "train" if len(training_labels) else "the songs themselves, without training songs",
        "num_draws": num_draws,
        "failures": failures,
        "splits": results,
        "findings": _list_findings(results),
    }


def _list_findings(splits: Mapping[str, Any]) -> list[str]:
    """Say by split whether a constant does better at popularity; hits have baselines of their own."""
    return [
        sentence
        for name, found in splits.items()
        for sentence in describe_better_constants("popularity", found["popularity"], name)
    ]


def _evaluate_songs(
    scores: NDArray[np.float32],
    scored: list[Song],
    training_labels: NDArray[np.float64],
    target_column: str,
    hit_threshold: float,
    num_draws: int,
) -> dict[str, Any]:
    labels = _list_labels(scored, target_column)
    units = {column: [song.columns.get(column) for song in scored] for column in RESAMPLED_COLUMNS}
    drawn: dict[str, Any] = {"num_draws": num_draws, "groups": build_resampled_groups(units)}
    known = training_labels if len(training_labels) else labels
    popularity = add_better_constants(compute_head_results(scores[:, 0], labels, known, **drawn))
    is_hit = np.where(np.isnan(labels), np.nan, labels >= hit_threshold)
    return {
        "popularity": popularity,
        "hit": compute_hit_results(scores[:, 1], is_hit, threshold=hit_threshold, **drawn),
    }


def _hash_rows(songs: SongSource, names: Sequence[str]) -> str:
    """Hash the ids of all songs and what an evaluation reads of their rows; not the audio, which may be large."""
    present = [name for name in dict.fromkeys(names) if name in songs.columns.names]
    rows = {split: songs.read_columns(split, present).to_pylist() for split in sorted(songs.splits)}
    return hash_json([compute_source_fingerprint(songs), rows])


def choose_splits(source: SongSource, splits: Sequence[str] | None, target_column: str) -> list[str]:
    """
    Return the splits to evaluate on: all but `train`, unless they are named.

    Raises:
        `ValueError`: If there is no such split, none at all, or no column to compare with.
    """
    columns = ", ".join(source.columns.names)
    if target_column not in source.columns.names:
        raise ValueError(
            f"{source.name}: no column `{target_column}` to compare with; it has {columns}. Name another by "
            "--target-column."
        )
    chosen = [name for name in source.splits if name != "train"] if splits is None else list(splits)
    unknown = [name for name in chosen if name not in source.splits]
    if unknown or not chosen:
        raise ValueError(
            f"{source.name}: no split {', '.join(map(repr, unknown)) or 'to evaluate on'}; it has "
            f"{', '.join(source.splits)}. Name one of them by --split."
        )
    return chosen


def predict_songs(
    model: SpectrogramFusionModel, source: SongSource, split: str, failures: list[dict[str, str]]
) -> tuple[NDArray[np.float32], list[Song]]:
    """
    Score the songs of a split; what cannot be decoded is added to `failures`.

    Returns:
        `tuple[np.ndarray, list[Song]]`: scores of shape `(num_scored_songs, num_heads)`, and the songs they are of.
    """
    config: Any = model.config
    extractor = ApexFeatureExtractor.from_config(config)
    scores, scored = [], []
    for song in source.iterate(split, 0, source.splits[split]):
        row = {name: song.columns.get(name) for name in config.feature_names}
        inputs: dict[str, Any] = {"features": model.encode_features([row])} if config.features else {}
        if config.has_audio:
            segments = list(decode_song(song, extractor))
            if segments[-1].error is not None:
                failures.append({"split": split, "id": song.id, "error": segments[-1].error})
                continue
            values = np.stack([segment.samples for segment in segments if segment.samples is not None])
            inputs["num_real_samples"] = torch.tensor([[segment.num_real_samples for segment in segments]])
            inputs["input_values"] = torch.from_numpy(values).unsqueeze(0).to(model.device)  # (1, S, T)
        with torch.inference_mode():
            scores.append(model(**inputs).scores.float().cpu().numpy())
        scored.append(song)
    return np.concatenate([np.zeros((0, len(config.heads)), np.float32), *scores]), scored


def _list_labels(songs: Iterable[Song], target_column: str) -> NDArray[np.float64]:
    values: list[Any] = [song.columns.get(target_column) for song in songs]
    return np.array([np.nan if is_missing(value) else float(value) for value in values])


def format_fusion_results(results: Mapping[str, Any]) -> str:
    """Return results as text: two tables a split, one of popularity and one of hits, and what stands behind them."""
    parts = []
    units: dict[str, None] = {}
    for split, result in results["splits"].items():
        units[describe_resampled(split, result["popularity"]["resampled"])] = None
        popularity, hit = result["popularity"], result["hit"]
        mean = popularity["baselines"]["mean"]
        header = [f"{split}, {ALL_PLATFORMS}", "songs", *METRICS, "mean: MSE / MAE"]
        cells = [format_interval(popularity[metric]) for metric in METRICS]
        baseline = f"{format_number(mean['mse'])} / {format_number(mean['mae'])}"
        row = ["popularity", str(popularity["num_songs"]), *cells, baseline]
        parts.append(format_table(header, [row]))
        if not hit["num_songs"]:
            continue
        rows = [["model", *(format_interval({**hit[name], "value": hit[name]["estimate"]}) for name in HIT_METRICS)]]
        for name, baseline in hit["baselines"].items():
            rows.append([name.replace("_", " "), *(format_number(baseline.get(metric)) for metric in HIT_METRICS)])
        title = f"{split}, hits (popularity from {results['hit_threshold']:g}: {hit['hit_share']:.0%} of the songs)"
        parts.append(format_table([title, *(name.replace("_", " ") for name in HIT_METRICS)], rows))
    leaking = ", ".join(results["leaking_features"])
    parts.append(
        f"[low, high]: 95 % bootstrap over {'; '.join(units)}. Features that leak the target: {leaking or 'none'}. "
        f"Baselines from: {results['baselines_from']}."
    )
    parts += format_findings(results)
    return "\n\n".join(parts)
