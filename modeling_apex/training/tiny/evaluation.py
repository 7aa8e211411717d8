"""
Measure apex-tiny, and say in words what was measured.

What comes in is the scores that the model gave to songs it never saw, and their [`SongTable`]; what leaves is the
numbers of `results.json` (rank correlation with bootstrap interval beside the simulation's noise ceiling, errors
beside trivial baselines) and the model folder's README, which holds no number that is not in `results.json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from modeling_apex.statistics.metrics import compute_head_metrics, compute_head_results, compute_metrics
from modeling_apex.training.tiny.songs import SongTable

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


def evaluate_scores(
    scores: NDArray,
    table: SongTable,
    heads: Sequence[Mapping[str, Any]],
    training_labels: NDArray,
    targets: Mapping[str, float],
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """
    Evaluate every score of a set of songs.

    Args:
        scores (`np.ndarray` of shape `(num_songs, num_heads)`):
            What the model says, in native units.
        table ([`SongTable`]):
            The songs.
        heads (`Sequence[Mapping[str, Any]]`):
            `config.heads`: names and groups, in the order of the columns.
        training_labels (`np.ndarray` of shape `(num_training_songs, num_heads)`):
            Where the baselines come from.
        targets (`Mapping[str, float]`):
            Rank correlation to reach, by group.
        seed (`int`, defaults to 0):
            Seed of the bootstrap.

    Returns:
        `dict[str, dict[str, Any]]`: by score what [`compute_head_results`] gives, and `spearman_ceiling` (of a
        listener who knows the truth of the simulation), `target` and `is_target_met`.
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
                value = _format(numbers["spearman"]["value"])
                sentences.append(f"`{score}` on {TITLES[name].lower()}: {value}, below {numbers['target']:.2f}.")
    return sentences


def build_readme(results: Mapping[str, Any]) -> str:
    """
    Write the README of the model folder.

    Args:
        results (`Mapping[str, Any]`):
            Content of `results.json`.

    Returns:
        `str`: Markdown with the front matter of a model card.
    """
    facts = results["training"]
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: transformers",
        "pipeline_tag: audio-classification",
        "tags: [apex-music, music, popularity, aesthetics, synthetic-data]",
        "---",
        "",
        "# apex-tiny",
        "",
        'A demonstration model: it lets `apex-music score` and `pipeline("apex-popularity")` run anywhere, offline '
        "and at once. It has only ever heard songs that a program rendered, so its scores say nothing about real "
        "music. For that, name the published weights: `amaai-lab/apex`.",
        "",
        f"A HuBERT-shaped encoder and seven heads, {facts['num_parameters']:,} parameters together, trained end to "
        f"end from 24 kHz waveforms on {facts['num_songs']:,} synthetic songs of {facts['song_seconds']:.0f} s by "
        f"`{facts['command']}`.",
        "",
        "Aesthetic labels are means of sixteen simulated raters; popularity labels are percentiles of simulated play "
        "and like counts. The ceiling is the rank correlation of a listener who knows the truth of the simulation, "
        "from which raters and counts differ by chance. All factors of the test songs were drawn independently, so no "
        "score can ride on another's.",
    ]
    for name, evaluation in results["evaluations"].items():
        lines += [
            "",
            f"## {TITLES[name]}",
            "",
            f"{evaluation['num_songs']} songs, seed {evaluation['seed']}.",
            "",
            "| score | Spearman | 95 % interval | ceiling | MAE | MAE of the median | MSE | MSE of the mean |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for score, numbers in evaluation["scores"].items():
            spearman, baselines = numbers["spearman"], numbers["baselines"]
            cells = [
                f"`{score}`",
                _format(spearman["value"]),
                f"{_format(spearman['low'])} to {_format(spearman['high'])}",
                _format(numbers["spearman_ceiling"]),
                _format(numbers["mae"]["value"]),
                _format(baselines["median"]["mae"]),
                _format(numbers["mse"]["value"]),
                _format(baselines["mean"]["mse"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    missed = find_missed_targets(results)
    lines += ["", "## What falls short", ""]
    lines += [f"- {sentence}" for sentence in missed] or [
        "Every score reaches the rank correlation that was asked of it; the targets are in `results.json`."
    ]
    return "\n".join(lines) + "\n"


def _format(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
