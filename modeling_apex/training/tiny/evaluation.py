"""
Measure apex-tiny on songs that it never saw.

What comes in is the model and [`SongTable`]s; what leaves is the numbers of `results.json`: rank correlation with
bootstrap interval beside the simulation's noise ceiling, and errors beside trivial baselines.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeling_apex.inference.feature_extraction_apex import ApexFeatureExtractor
from modeling_apex.inference.modeling_apex import ApexModel
from modeling_apex.statistics.metrics import compute_head_metrics, compute_head_results, compute_metrics
from modeling_apex.training.tiny.recipe import TinyRecipe
from modeling_apex.training.tiny.songs import FULL_SCALE, SAMPLING_RATE, SongTable

BATCH_SIZE = 8  # songs scored at once
NUM_BOOTSTRAP_DRAWS = 1000
# What a useful demonstration needs, as rank correlation on songs with independent factors.
TARGETS = {
    "test": {"aesthetics": 0.5, "popularity": 0.35},
    "unseen": {"aesthetics": 0.35, "popularity": 0.25},
}
TITLES = {
    "test": "New songs of the two training platforms",
    "unseen": "Songs of eleven systems that training never saw",
}


@torch.no_grad()
def score_songs(model: ApexModel, table: SongTable) -> tuple[NDArray, NDArray]:
    """
    Score whole songs, through the same feature extractor and model as any other song.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: scores in native units `(num_songs, num_heads)`, and song embeddings
        `(num_songs, hidden_size)`.
    """
    extractor = ApexFeatureExtractor.from_config(model.config)
    model.eval()
    scores, embeddings = [], []
    for first in range(0, len(table.waveforms), BATCH_SIZE):
        songs = table.waveforms[first : first + BATCH_SIZE] / np.float32(FULL_SCALE)
        features = extractor(list(songs), sampling_rate=SAMPLING_RATE, return_tensors="pt")
        output = model(**features)
        scores.append(output.scores.numpy())
        embeddings.append(output.song_embedding.numpy())
    return np.concatenate(scores), np.concatenate(embeddings)


def evaluate_model(model: ApexModel, recipe: TinyRecipe, tables: Mapping[str, SongTable]) -> dict[str, Any]:
    """
    Evaluate the model on the test songs and on the songs of unseen systems.

    Args:
        model ([`ApexModel`]):
            The trained model.
        recipe ([`TinyRecipe`]):
            What it was trained by.
        tables (`Mapping[str, SongTable]`):
            `training` (for the baselines), `test` and `unseen`.

    Returns:
        `dict[str, Any]`: the evaluations of `results.json`, by name.
    """
    evaluations, song_sets = {}, recipe.build_song_sets()
    for name, targets in TARGETS.items():
        song_set, table, (scores, _) = song_sets[name], tables[name], score_songs(model, tables[name])
        results = {}
        for column, head in enumerate(model.config.heads):
            columns = (values[:, column] for values in (scores, table.labels, tables["training"].labels, table.truth))
            results[head["name"]] = _evaluate_head(*columns, target=targets[head["group"]], seed=recipe.seed)
        evaluations[name] = {
            "num_songs": song_set.num_songs,
            "seed": song_set.seed,
            "systems": list(song_set.systems),
            "factors": "independent",
            "scores": results,
            "spearman_by_system": _compute_spearman_by_system(scores, table, model.config.head_names),
        }
    return evaluations


def _evaluate_head(
    scores: NDArray, labels: NDArray, training_labels: NDArray, truth: NDArray, *, target: float, seed: int
) -> dict[str, Any]:
    """Add to [`compute_head_results`] the target, and the ceiling: what the truth behind the labels would reach."""
    numbers = compute_head_results(scores, labels, training_labels, num_draws=NUM_BOOTSTRAP_DRAWS, seed=seed)
    spearman = numbers["spearman"]["value"]
    numbers["spearman_ceiling"] = compute_metrics(truth, labels)["spearman"]
    return {**numbers, "target": target, "is_target_met": spearman is not None and spearman >= target}


def _compute_spearman_by_system(
    scores: NDArray, table: SongTable, head_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Compute the rank correlation of every score within the songs of each system."""
    results = {}
    for system in sorted(set(table.systems.tolist())):
        rows = table.systems == system
        metrics = compute_head_metrics(scores[rows], table.labels[rows], head_names)
        results[system] = {name: numbers["spearman"] for name, numbers in metrics.items()}
    return results


def find_missed_targets(results: Mapping[str, Any]) -> list[str]:
    """Return one sentence for every target of `results.json` that the model misses."""
    sentences = []
    for name, evaluation in results["evaluations"].items():
        for score, numbers in evaluation["scores"].items():
            if not numbers["is_target_met"]:
                value = format_number(numbers["spearman"]["value"])
                sentences.append(f"`{score}` on {TITLES[name].lower()}: {value}, below {numbers['target']:.2f}.")
    return sentences


def format_number(value: float | None) -> str:
    """Return a number as the README shows it."""
    return "undefined" if value is None else f"{value:.2f}"
