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
def score_songs(model: ApexModel, table: SongTable, batch_size: int = 8) -> NDArray:
    """
    Score whole songs, through the same feature extractor and model as any other song.

    Args:
        model ([`ApexModel`]):
            The model.
        table ([`SongTable`]):
            The songs.
        batch_size (`int`, defaults to 8):
            Songs at once.

    Returns:
        `np.ndarray` of shape `(num_songs, num_heads)`: scores in native units.
    """
    extractor = ApexFeatureExtractor.from_config(model.config)
    model.eval()
    scores = []
    for first in range(0, len(table.waveforms), batch_size):
        songs = table.waveforms[first : first + batch_size] / np.float32(FULL_SCALE)
        features = extractor(list(songs), sampling_rate=SAMPLING_RATE, return_tensors="pt")
        scores.append(model(features["input_values"], features["segment_mask"]).scores.numpy())
    return np.concatenate(scores)


def evaluate_model(model: ApexModel, recipe: TinyRecipe, tables: dict[str, SongTable]) -> dict[str, Any]:
    """
    Evaluate the model on the test songs and on the songs of unseen systems.

    Args:
        model ([`ApexModel`]):
            The trained model.
        recipe ([`TinyRecipe`]):
            The choices.
        tables (`dict[str, SongTable]`):
            `training` (for the baselines), `test` and `unseen`.

    Returns:
        `dict[str, Any]`: the evaluations of `results.json`, by name.
    """
    evaluations: dict[str, Any] = {}
    for name, song_set in recipe.build_song_sets().items():
        if name not in TARGETS:
            continue
        scores = score_songs(model, tables[name])
        heads, labels = model.config.heads, tables["training"].labels
        evaluations[name] = {
            "num_songs": song_set.num_songs,
            "seed": song_set.seed,
            "systems": list(song_set.systems),
            "factors": "independent",
            "scores": _evaluate_scores(scores, tables[name], heads, labels, TARGETS[name], recipe.seed),
            "spearman_by_system": compute_spearman_by_system(scores, tables[name], heads),
        }
    return evaluations


def _evaluate_scores(
    scores: NDArray,
    table: SongTable,
    heads: Sequence[Mapping[str, Any]],
    training_labels: NDArray,
    targets: Mapping[str, float],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """
    Return by score what [`compute_head_results`] gives, and `spearman_ceiling` (of a listener who knows the truth of
    the simulation), `target` and `is_target_met`.
    """
    results = {}
    for column, head in enumerate(heads):
        labels, target = table.labels[:, column], targets[head["group"]]
        numbers = compute_head_results(
            scores[:, column], labels, training_labels[:, column], num_draws=NUM_BOOTSTRAP_DRAWS, seed=seed
        )
        spearman = numbers["spearman"]["value"]
        numbers["spearman_ceiling"] = compute_metrics(table.truth[:, column], labels)["spearman"]
        numbers["target"], numbers["is_target_met"] = target, spearman is not None and spearman >= target
        results[head["name"]] = numbers
    return results


def compute_spearman_by_system(
    scores: NDArray, table: SongTable, heads: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Compute the rank correlation of every score within the songs of each system."""
    results = {}
    for system in sorted(set(table.systems.tolist())):
        is_of_system = table.systems == system
        metrics = compute_head_metrics(
            scores[is_of_system], table.labels[is_of_system], [head["name"] for head in heads]
        )
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
