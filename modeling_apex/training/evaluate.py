"""
`apex-music evaluate`: how well a model's scores follow the labels, beside the trivial baselines.

What comes in is a model and a folder of embeddings that its encoder made; what leaves is one dict, and a table of it:
per split, per platform and per score the errors and correlations with bootstrap intervals over the groups of songs
that the dataset names (of one creator, artist or prompt), and the errors of always predicting the mean or median of
the training labels.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_apex.corpus.embedding_manifest import build_expected_identity, refuse_other_identity
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.corpus.song_source import SongSource
from modeling_apex.corpus.song_store import SongSplit, SongStore
from modeling_apex.engines.model_hashes import compute_scores_hash
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.inference.report_apex import format_table
from modeling_apex.statistics.metrics import BASELINES, METRICS, compute_head_results
from modeling_apex.statistics.result_schema import build_opening
from modeling_apex.training.trained_model import load_base_model
from modeling_apex.training.verdict import add_better_constants, describe_better_constants

ALL_PLATFORMS = "all"
BATCH_SONGS = 256
# What songs may share: `group` is what the builders keep whole in a split, a creator, an artist or a prompt.
RESAMPLED_COLUMNS = ("group", "creator")


def evaluate_model(
    model: str | os.PathLike | ApexModel,
    embeddings: str | os.PathLike,
    *,
    splits: Sequence[str] | None = None,
    num_draws: int = 1000,
    songs: str | os.PathLike | SongSource | None = None,
    rereads: bool = False,
) -> dict[str, Any]:
    """
    Evaluate a model on stored embeddings.

    Args:
        model (`str`, `os.PathLike` or [`ApexModel`]):
            The model, in float32; its encoder must be the one that made the embeddings.
        embeddings (`str` or `os.PathLike`):
            A finished folder of `embed_songs`.
        splits (`Sequence[str]`, *optional*):
            Which splits; defaults to all but `train`.
        num_draws (`int`, defaults to 1000):
            Bootstrap resamples, of the stored groups and creators where songs have them.
        songs (`str`, `os.PathLike` or [`SongSource`], *optional*), rereads (`bool`, defaults to `False`):
            As for [`train`].

    Returns:
        `dict`: as the schema `"evaluation"` of `result_schema` says: the opening, `embeddings_manifest_sha256`,
        `dataset_sha256`, `label_sources`, `splits`: per split, per platform (and `"all"`), per score what
        `compute_head_results` returns and `worse_than`, and `findings`: which scores a constant would beat, in
        sentences. Survives JSON.

    Raises:
        `ValueError`: If a split is missing, or the embeddings come from another model.
    """
    store = open_embedding_store(embeddings, songs=songs, rereads=rereads)
    loaded: Any = load_base_model(model).eval()
    identity = store.manifest["identity"]
    refuse_other_identity(str(store.folder), identity, build_expected_identity(loaded, identity))
    training_labels = store.get_split("train").build_labels(loaded.config.head_names)
    chosen = [name for name in store.splits if name != "train"] if splits is None else list(splits)
    results = {name: _evaluate_split(loaded, store.get_split(name), training_labels, num_draws) for name in chosen}
    opening = build_opening(
        "evaluation",
        model=str(loaded.config._name_or_path),
        model_sha256=compute_scores_hash(loaded),
        input_sha256=store.dataset_sha256,
    )
    return {
        **opening,
        "embeddings_manifest_sha256": store.manifest_sha256,
        "dataset_sha256": store.dataset_sha256,
        "label_sources": list_label_sources(store),
        "num_draws": num_draws,
        "splits": results,
        "findings": list_worse_scores(results),
    }


def list_worse_scores(splits: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Say in sentences which scores a constant would beat, by split, on all platforms together."""
    return [
        sentence
        for split, platforms in splits.items()
        for head, result in platforms[ALL_PLATFORMS].items()
        for sentence in describe_better_constants(head, result, f"{split}, {result['num_songs']} songs")
    ]


def _evaluate_split(
    model: ApexModel, split: SongSplit, training_labels: NDArray[np.float32], num_draws: int
) -> dict[str, dict[str, Any]]:
    """Return the results of every head, by platform."""
    config: Any = model.config
    scores, labels = predict_split(model, split), split.build_labels(config.head_names)
    units = {name: split.list_values(name) for name in RESAMPLED_COLUMNS}
    results: dict[str, dict[str, Any]] = {}
    for platform, rows in group_by_platform(split).items():
        columns = zip(scores[rows].T, labels[rows].T, training_labels.T, strict=True)
        groups = build_resampled_groups({name: [values[row] for row in rows] for name, values in units.items()})
        heads = (compute_head_results(*column, num_draws=num_draws, groups=groups) for column in columns)
        results[platform] = dict(zip(config.head_names, map(add_better_constants, heads), strict=True))
    return results


def build_resampled_groups(units: Mapping[str, Sequence[Any]]) -> dict[str, NDArray]:
    """
    Build the groups that a bootstrap draws as a whole, from the columns that may name them.

    Args:
        units (`dict[str, Sequence]`): Values of each column of `RESAMPLED_COLUMNS`, one a song; `None` where missing.

    Returns:
        `dict[str, np.ndarray]`: per column that names anything, a number of the group of each song; a song without
        one stands alone.
    """
    groups = {}
    for name, values in units.items():
        if any(value is not None for value in values):
            keys = [("alone", row) if value is None else ("group", value) for row, value in enumerate(values)]
            numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
            groups[name] = np.array([numbers[key] for key in keys])
    return groups


def predict_split(model: ApexModel, split: SongSplit) -> NDArray[np.float32]:
    """Score the songs of a split by the model's own forward pass, `(num_songs, num_heads)`."""
    scores = []
    for start in range(0, split.num_songs, BATCH_SONGS):
        offsets = split.offsets[start : start + BATCH_SONGS + 1]
        counts, rows = np.diff(offsets), slice(offsets[0], offsets[-1])
        mask = np.arange(counts.max()) < counts[:, None]  # (B, S)
        padded = np.zeros((*mask.shape, split.segments.shape[1]), np.float32)
        padded[mask] = split.segments[rows]
        lengths = mask.astype(np.int64)
        assert split.num_real_samples is not None  # stores of embeddings know them
        lengths[mask] = split.num_real_samples[rows]
        with torch.inference_mode():
            output: Any = model(
                segment_embeddings=torch.from_numpy(padded).to(model.device),
                segment_mask=torch.from_numpy(mask).to(model.device),
                num_real_samples=torch.from_numpy(lengths).to(model.device),
            )
        scores.append(output.scores.float().cpu().numpy())
    return np.concatenate(scores)


def group_by_platform(split: SongSplit) -> dict[str, NDArray[np.int64]]:
    """Return the rows of all songs, and of each platform where there are several."""
    platforms = split.list_values("platform")
    known = sorted({platform for platform in platforms if platform is not None})
    groups = {name: np.flatnonzero([value == name for value in platforms]) for name in known if len(known) > 1}
    return {ALL_PLATFORMS: np.arange(split.num_songs), **groups}


def list_label_sources(store: SongStore) -> list[str]:
    """Return who gave the aesthetic labels, such as people or a model; a reader must see it beside the numbers."""
    return sorted(
        {str(value) for split in store.splits.values() for value in split.list_values("label_source") if value}
    )


def format_results(results: Mapping[str, Any]) -> str:
    """Return results as text: one table a split and platform, each metric with its 95 % interval."""
    parts: list[str] = []
    units: dict[str, None] = {}
    for split, platforms in results["splits"].items():
        for platform, heads in platforms.items():
            header = [f"{split}, {platform}", "songs", *METRICS, *(f"{kind}: MSE / MAE" for kind in BASELINES)]
            rows = []
            for name, result in heads.items():
                cells = [format_interval(result[metric]) for metric in METRICS]
                pairs = [result["baselines"][kind] for kind in BASELINES]
                baselines = [f"{format_number(pair['mse'])} / {format_number(pair['mae'])}" for pair in pairs]
                rows.append([name, str(result["num_songs"]), *cells, *baselines])
            parts.append(format_table(header, rows))
            places = (describe_resampled(f"{split}, {platform}", result["resampled"]) for result in heads.values())
            units.update(dict.fromkeys(places))
    sources = ", ".join(results["label_sources"]) or "not stated"
    parts.append(f"[low, high]: 95 % bootstrap over {'; '.join(units)}. Aesthetic labels from: {sources}.")
    parts += format_findings(results)
    return "\n\n".join(parts)


def format_findings(results: Mapping[str, Any]) -> list[str]:
    """Return the findings of results as one part of their text, or nothing."""
    return ["\n".join(f"note: {words}" for words in results["findings"])] if results["findings"] else []


def describe_resampled(place: str, resampled: Mapping[str, Any]) -> str:
    """Say in words which unit the intervals of a place draw, and how many there were."""
    counts = ", ".join(f"{number} {name}s" for name, number in resampled["num_units"].items())
    return f"{counts} ({place})"


def format_interval(result: Mapping[str, Any]) -> str:
    """Return a metric with its interval, or a dash where it is not defined."""
    if result["value"] is None:
        return "-"
    if result["low"] is None:
        return format_number(result["value"])
    return f"{format_number(result['value'])} [{format_number(result['low'])}, {format_number(result['high'])}]"


def format_number(value: float | None) -> str:
    """Return a number with as many digits as a table needs, or a dash for none."""
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"
