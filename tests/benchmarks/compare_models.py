"""
APEX heads, the fused CNN, either of its branches alone, gradient boosting and the mean, on the same songs and splits.

    python tests/benchmarks/compare_models.py --output tests/benchmarks/results/models.json

The songs are synthetic: popularity is what one hears, how the track was released, the artist's fame and luck, in known
shares. Every model trains once a seed, with and without the features that leak the target, and is measured on new
artists of the training generators (`test`) and of generators that no training song came from (`unseen`). Intervals are
95 %, over seeds and artists drawn together, and paired: a difference is that of two models in the same draw.
"""

import argparse
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from datasets_scripts.build import main as build_dataset
from datasets_scripts.synthetic import ARENA_SYSTEMS
from datasets_scripts.synthetic.track_layout import LAYOUT, SHARES, TABLE_FILE, save_tracks_layout
from datasets_scripts.synthetic.world import CEILINGS_FILE, WorldOptions
from modeling_apex import ApexConfig, ApexModel, SpectrogramFusionModel, load_pipeline
from modeling_apex.corpus.embed import embed_songs
from modeling_apex.corpus.embedding_store import open_embedding_store
from modeling_apex.corpus.song_source import Song, open_song_source
from modeling_apex.inference.report_apex import format_table
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.statistics.hit_metrics import compute_hit_metrics
from modeling_apex.statistics.metrics import compute_mae, compute_spearman
from modeling_apex.training.arguments import build_arguments
from modeling_apex.training.evaluate import predict_split
from modeling_apex.training.fusion.data import (
    build_feature_rows,
    build_feature_specs,
    build_fusion_labels,
    open_fusion_store,
)
from modeling_apex.training.fusion.model import build_front_end_config
from modeling_apex.training.fusion.task import predict_stored_songs
from modeling_apex.training.train import train

THRESHOLD = 50.0
SPLITS = ("test", "unseen")
METRICS = ("spearman", "mae", "f1", "precision", "recall", "auc")
# As the paper reports them (arXiv 2505.07280).
PAPER = {"mae": 9.5, "f1": 0.97}
LEAKING = {"keep": "with leaking features", "drop": "without leaking features"}
FUSED, AUDIO, FEATURES, BOOSTING = "fused CNN", "CNN, audio only", "features only", "gradient boosting"
APEX, MEAN = "APEX heads (apex-tiny)", "mean of the training songs"
COMPARISONS = (
    *((f"{FUSED}, {words}", f"{FEATURES}, {words}") for words in LEAKING.values()),
    *((f"{FUSED}, {words}", AUDIO) for words in LEAKING.values()),
    *((f"{FUSED}, {words}", f"{BOOSTING}, {words}") for words in LEAKING.values()),
    (f"{FUSED}, {LEAKING['keep']}", f"{FUSED}, {LEAKING['drop']}"),
    (APEX, AUDIO),
)


@dataclass
class Predictor:
    """One trained model: its predictions `(num_songs, 2)` per split, its size, and what a song costs."""

    scores: dict[str, np.ndarray]
    num_parameters: int | None
    cpu_seconds_per_song: float | None = None


@dataclass
class Songs:
    """Everything that is shared by all models."""

    folder: Path
    dataset: Path
    stores: dict[str, Any]  # per split the `SongSplit` of its spectrograms; `train` and `validation` too
    labels: dict[str, np.ndarray]
    waveforms: list[dict[str, Any]]  # a few test songs, for timing


class LabelledSource:
    """A source of songs with the column `hit_probability`, 1 for hits and 0 for others: APEX heads learn it too."""

    def __init__(self, folder: Path):
        self._source: Any = open_song_source(folder)
        self.name, self.splits = self._source.name, self._source.splits
        self.columns = self._source.columns.append(pa.field("hit_probability", pa.float32()))

    def locate(self, split: str, start: int, stop: int) -> list[tuple[Path, int, int]]:
        return self._source.locate(split, start, stop)

    def read_columns(self, split: str, names: Sequence[str] = ()) -> pa.Table:
        table = self._source.read_columns(split, [name for name in names if name != "hit_probability"])
        if "hit_probability" not in names:
            return table
        is_hit = [float(value >= THRESHOLD) for value in table["popularity"].to_pylist()]
        return table.append_column("hit_probability", pa.array(is_hit, pa.float32()))

    def iterate(self, split: str, start: int, stop: int) -> Iterator[Song]:
        for song in self._source.iterate(split, start, stop):
            is_hit = float(song.columns["popularity"] >= THRESHOLD)
            yield dataclasses.replace(song, columns={**song.columns, "hit_probability": is_hit})


def make_songs(folder: Path, num_songs: int, num_unseen: int, seconds: float, seed: int) -> Songs:
    """Render both worlds, build their datasets, and compute the spectrograms."""
    unseen = tuple(system.name for system in ARENA_SYSTEMS)
    worlds = {
        "known": (WorldOptions(num_songs=num_songs, seconds=seconds, seed=seed), "60:15:25"),
        "unseen": (WorldOptions(num_songs=num_unseen, seconds=seconds, seed=seed + 1, systems=unseen), "0:0:100"),
    }
    stores: dict[str, Any] = {}
    for name, (options, ratios) in worlds.items():
        world, dataset = folder / f"{name}-world", folder / f"{name}-tracks"
        save_tracks_layout(world, options)
        words = ["spotify", "--tracks", str(world / TABLE_FILE), "--audio", str(world / "audio"), "--splits", ratios]
        if build_dataset([*words, "--split-method", "quota", "--output", str(dataset)]):
            raise RuntimeError(f"{dataset} could not be built; the reason stands above.")
        config = build_front_end_config(build_arguments("fusion", branches="audio", segment_seconds=seconds))
        store = open_fusion_store(open_song_source(dataset), folder / "cache", config)
        stores |= {"unseen" if name == "unseen" else split: songs for split, songs in store.splits.items()}
    dataset = folder / "known-tracks"
    test = [song.audio for song in open_song_source(dataset).iterate("test", 0, 24)]
    labels = {name: build_fusion_labels(split, "popularity", THRESHOLD) for name, split in stores.items()}
    return Songs(folder, dataset, stores, labels, test)


def train_fused(songs: Songs, branches: str, leaking: str, seed: int, *, is_timed: bool) -> Predictor:
    """Train a spectrogram-fusion model and score both splits."""
    seconds = json.loads((songs.folder / "known-world" / "world.json").read_text())["options"]["seconds"]
    arguments = build_arguments(
        "fusion",
        branches=branches,
        leaking_features=leaking,
        hit_threshold=THRESHOLD,
        segment_seconds=seconds,
        seed=seed,
        report_to="none",
        **({"num_epochs": 30} if branches == "features" else {}),
    )
    run = songs.folder / "runs" / f"{branches}-{leaking}-{seed}"
    best = run / "best"
    if not best.is_dir():
        train(songs.dataset, run, arguments, cache_dir=songs.folder / "cache", resume=run.is_dir())
    model: Any = SpectrogramFusionModel.from_pretrained(best).eval()
    scores = {}
    for name in SPLITS:
        split = songs.stores[name]
        scores[name] = predict_stored_songs(model, split, build_feature_rows(split, model.config.features))
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return Predictor(scores, num_parameters, measure_song(model, songs) if is_timed else None)


def train_apex(songs: Songs, seed: int, *, is_timed: bool) -> Predictor:
    """Train APEX heads for popularity and hits on embeddings of the embedded model, which is not trained further."""
    base = build_apex_base()
    known, unseen = (LabelledSource(songs.folder / f"{name}-tracks") for name in ("known", "unseen"))
    for name, source in (("known", known), ("unseen", unseen)):
        embed_songs(source, songs.folder / f"{name}-embeddings", base)
    embeddings = songs.folder / "known-embeddings"
    # New heads rank songs epochs before their scores are calibrated, so the epoch is chosen by the validation loss.
    arguments = build_arguments("improved", loss="equal", selection="loss", batch_size=64, seed=seed, report_to="none")
    run = songs.folder / "runs" / f"apex-{seed}"
    best = run / "best"
    if not best.is_dir():
        train(embeddings, run, arguments, model=base, resume=run.is_dir(), songs=known)
    model: Any = ApexModel.from_pretrained(best).eval()
    stores = {
        "test": open_embedding_store(embeddings, songs=known),
        "unseen": open_embedding_store(songs.folder / "unseen-embeddings", songs=unseen),
    }
    scores = {name: predict_split(model, store.get_split("test")) for name, store in stores.items()}
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return Predictor(scores, num_parameters, measure_song(model, songs) if is_timed else None)


def build_apex_base() -> ApexModel:
    """Build apex-tiny with the two heads of this comparison in place of its own."""
    tiny: Any = ApexModel.from_pretrained(EMBEDDED_MODEL)
    heads = [
        {"name": "popularity", "minimum": 0.0, "maximum": 100.0, "group": "popularity"},
        {"name": "hit_probability", "minimum": 0.0, "maximum": 1.0, "group": "popularity"},
    ]
    described = tiny.config.to_dict() | {"heads": heads, "percentile_tables": {}, "reference": {}, "provenance": {}}
    base = ApexModel(ApexConfig.from_dict(described))
    base.encoder.load_state_dict(tiny.encoder.state_dict())
    base.aggregator.load_state_dict(tiny.aggregator.state_dict())
    return base


def train_boosting(songs: Songs, leaking: str, seed: int, *, is_timed: bool) -> Predictor:
    """Fit gradient boosting on the same features that the feature branch gets: popularity, and whether it is a hit."""
    features = build_feature_specs(songs.stores["train"], leaking, "popularity")
    rows = {name: build_feature_rows(split, features) for name, split in songs.stores.items()}
    options = {
        "learning_rate": 0.05,
        "early_stopping": True,
        "random_state": seed,
        "categorical_features": [feature["kind"] == "categorical" for feature in features],
    }
    popularity, is_hit = songs.labels["train"].T
    # An unseen category (-1) is missing to it: scikit-learn takes no other negative category.
    regressor = HistGradientBoostingRegressor(**options).fit(hide_unseen(rows["train"]), popularity)
    classifier = HistGradientBoostingClassifier(**options).fit(hide_unseen(rows["train"]), is_hit)

    def predict(values: np.ndarray) -> np.ndarray:
        hidden = hide_unseen(values)
        return np.stack([regressor.predict(hidden).clip(0, 100), classifier.predict_proba(hidden)[:, 1]], axis=1)

    start, few = time.process_time(), rows["test"][:100]
    for row in range(len(few)):
        predict(few[row : row + 1])
    cost = (time.process_time() - start) / len(few)
    return Predictor({name: predict(rows[name]) for name in SPLITS}, None, cost if is_timed else None)


def hide_unseen(rows: np.ndarray) -> np.ndarray:
    return np.where(rows == -1.0, np.nan, rows)


def predict_mean(songs: Songs) -> Predictor:
    """Predict the means of the training songs for every song."""
    mean = songs.labels["train"].mean(0)
    return Predictor({name: np.tile(mean, (len(songs.labels[name]), 1)) for name in SPLITS}, 2, 0.0)


def measure_song(model: Any, songs: Songs) -> float:
    """Return CPU seconds a song from encoded audio to report, in one thread; features do not change it."""
    scorer = load_pipeline(model)
    scorer(songs.waveforms[0])
    start = time.process_time()
    for song in songs.waveforms:
        scorer(song)
    return (time.process_time() - start) / len(songs.waveforms)


def compute_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute what the table shows, of one model and one set of songs."""
    popularity, chance = scores.astype(np.float64).T
    hits = compute_hit_metrics(chance.clip(0, 1), labels[:, 1])
    spearman = compute_spearman(popularity, labels[:, 0])
    return {
        "spearman": 0.0 if np.isnan(spearman) else spearman,  # one score for all songs ranks nothing
        "mae": compute_mae(popularity, labels[:, 0]),
        **{name: float(hits[name][0]) for name in ("f1", "precision", "recall", "auc")},
    }


def draw_metrics(
    models: dict[str, list[Predictor]], labels: np.ndarray, artists: np.ndarray, split: str, num_draws: int
) -> dict[str, dict[str, np.ndarray]]:
    """
    Draw seeds and artists with replacement, the same for all models.

    Returns:
        `dict[str, dict[str, np.ndarray]]`: per model and metric the means over seeds: first as they are, then drawn.
    """
    generator = np.random.default_rng(0)
    names, artist_of_song = np.unique(artists, return_inverse=True)
    songs_of_artist = [np.flatnonzero(artist_of_song == artist) for artist in range(len(names))]
    values: dict[str, dict[str, list[float]]] = {name: {metric: [] for metric in METRICS} for name in models}
    for draw in range(num_draws + 1):
        rows = np.arange(len(labels))
        if draw:
            drawn = generator.integers(len(names), size=len(names))
            rows = np.concatenate([songs_of_artist[artist] for artist in drawn])
        position = generator.random(max(len(runs) for runs in models.values()))
        for name, runs in models.items():
            seeds = (position * len(runs)).astype(int) if draw else np.arange(len(runs))
            measured = {seed: compute_metrics(runs[seed].scores[split][rows], labels[rows]) for seed in set(seeds)}
            for metric in METRICS:
                values[name][metric].append(float(np.mean([measured[seed][metric] for seed in seeds])))
    return {name: {metric: np.array(drawn) for metric, drawn in metrics.items()} for name, metrics in values.items()}


def summarize(values: np.ndarray) -> dict[str, float | None]:
    """Return the value and its 95 % interval; none where it is not defined (nobody was called a hit)."""
    draws = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(draws):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def compare(songs: Songs, num_seeds: int, num_draws: int) -> dict[str, Any]:
    """Train all models with all seeds, and measure them."""
    builders: dict[str, Callable[[int, bool], Predictor]] = {
        APEX: lambda seed, is_timed: train_apex(songs, seed, is_timed=is_timed),
        AUDIO: lambda seed, is_timed: train_fused(songs, "audio", "drop", seed, is_timed=is_timed),
    }
    for leaking, words in LEAKING.items():
        builders |= {
            f"{FUSED}, {words}": lambda seed, is_timed, leaking=leaking: train_fused(
                songs, "fused", leaking, seed, is_timed=is_timed
            ),
            f"{FEATURES}, {words}": lambda seed, is_timed, leaking=leaking: train_fused(
                songs, "features", leaking, seed, is_timed=is_timed
            ),
            f"{BOOSTING}, {words}": lambda seed, is_timed, leaking=leaking: train_boosting(
                songs, leaking, seed, is_timed=is_timed
            ),
        }
    models = {name: [build(seed, seed == 0) for seed in range(num_seeds)] for name, build in builders.items()}
    models[MEAN] = [predict_mean(songs)]
    table: dict[str, Any] = {
        name: {"num_parameters": runs[0].num_parameters, "cpu_seconds_per_song": runs[0].cpu_seconds_per_song}
        for name, runs in models.items()
    }
    differences: dict[str, Any] = {f"{first} minus {second}": {} for first, second in COMPARISONS}
    hits: dict[str, Any] = {}
    for split in SPLITS:
        labels = songs.labels[split]
        artists = np.array(songs.stores[split].list_values("creator"))
        drawn = draw_metrics(models, labels, artists, split, num_draws)
        for name, metrics in drawn.items():
            table[name][split] = {metric: summarize(values) for metric, values in metrics.items()}
        for first, second in COMPARISONS:
            differences[f"{first} minus {second}"][split] = {
                metric: summarize(drawn[first][metric] - drawn[second][metric]) for metric in METRICS
            }
        share = float(labels[:, 1].mean())
        hits[split] = {
            "num_songs": len(labels),
            "num_artists": len(set(artists)),
            "hit_share": share,
            "f1_of_majority_class": 0.0 if share < 0.5 else 2 * share / (1 + share),
            "f1_of_calling_all_hits": 2 * share / (1 + share),
        }
    return {"models": table, "differences": differences, "songs": hits}


def format_comparison(result: dict[str, Any]) -> str:
    """Return the table for a terminal."""
    rows = []
    for name, model in result["models"].items():
        values = [model[split][metric]["value"] for split in SPLITS for metric in METRICS]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        rows.append([name, *cells, str(model["num_parameters"]), f"{model['cpu_seconds_per_song']:.4f}"])
    columns = [f"{metric} ({split})" for split in SPLITS for metric in METRICS]
    header = ["model", *columns, "parameters", "CPU s / song"]
    differences = [
        f"{name}: Spearman {parts['test']['spearman']['value']:+.3f} "
        f"[{parts['test']['spearman']['low']:+.3f}, {parts['test']['spearman']['high']:+.3f}]"
        for name, parts in result["differences"].items()
    ]
    return "\n".join([format_table(header, rows), "", *differences])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=1600, help="songs of the training generators (default: 1600)")
    parser.add_argument("--unseen", type=int, default=400, help="songs of unseen generators (default: 400)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each song (default: 10)")
    parser.add_argument("--seeds", type=int, default=5, help="how often each model trains (default: 5)")
    parser.add_argument("--draws", type=int, default=500, help="bootstrap samples (default: 500)")
    parser.add_argument("--seed", type=int, default=11, help="seed of the worlds (default: 11)")
    parser.add_argument("--work", type=Path, default=Path("runs/compare-models"), help="songs and runs; used again")
    parser.add_argument("--output", help="write the result as JSON")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    songs = make_songs(arguments.work, arguments.songs, arguments.unseen, arguments.seconds, arguments.seed)
    result = {
        "command": "python tests/benchmarks/compare_models.py",
        "num_songs": {name: split.num_songs for name, split in songs.stores.items()},
        "song_seconds": arguments.seconds,
        "num_seeds": arguments.seeds,
        "num_draws": arguments.draws,
        "hit_threshold": THRESHOLD,
        "paper": PAPER,
        "shares_of_variance": SHARES,
        "layout": LAYOUT,
        "ceilings": json.loads((arguments.work / "known-world" / CEILINGS_FILE).read_text()),
        **compare(songs, arguments.seeds, arguments.draws),
    }
    print(format_comparison(result))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
