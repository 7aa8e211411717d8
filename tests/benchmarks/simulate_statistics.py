"""
How often the statistics are wrong where the truth is known: false positives, power and coverage, by simulation.

What comes in is nothing but seeds; what leaves is `--output`, one JSON file. Effects of aesthetics are asked with the
functions that `apex-music arena` asks them with: on noise, where aesthetics differ by system, where pairs repeat,
where aesthetics follow popularity, and where they matter. Intervals are those of the results themselves, at a nominal
95 %. Each scenario is kept as it is finished, so an interrupted command goes on; `--quick` runs a few simulations of
each, for a test.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parent.parent))

from modeling_apex import __version__
from modeling_apex.arena.battle_resamples import draw_battle_resamples
from modeling_apex.arena.battle_table import BattleTable
from modeling_apex.arena.classifiers import cross_predict
from modeling_apex.arena.experiment import WITH_AESTHETICS, WITHOUT_AESTHETICS, build_feature_sets
from modeling_apex.arena.leaderboard import compute_leaderboard
from modeling_apex.arena.permutations import build_permutations, compute_null_differences, refit_draws
from modeling_apex.arena.predictions import measure_prediction
from modeling_apex.arena.protocols import build_folds
from modeling_apex.statistics.bootstrap import draw_resamples
from modeling_apex.statistics.calibration import compute_calibration_error, summarize_calibration
from modeling_apex.statistics.metrics import summarize_metrics
from modeling_apex.statistics.pair_metrics import compute_auc, compute_f1
from modeling_apex.statistics.significance import compute_permutation_p_values
from modeling_apex.storage.output_folder import replace_text

from simulated_battles import build_table

LEVEL = 0.025  # of each direction
NUM_DRAWS = 300
LOW, HIGH = 0.90, 0.97  # what a nominal 95 % may cover


def build_noise(seed: int, num_battles: int) -> BattleTable:
    """Build battles of eleven systems whose votes follow systems and popularity; aesthetics say nothing."""
    return build_table(num_battles, seed=seed, num_systems=11, popularity_effect=1.0, system_effect=0.5)


def build_system_level(seed: int, num_battles: int) -> BattleTable:
    """Build battles where aesthetics differ by system, and say nothing of songs or of which system is better."""
    table = build_noise(seed, num_battles)
    generator = np.random.default_rng((seed, 1))
    for name in np.unique(table.systems.astype(str)):
        table.scores[table.systems == name, 2:] += generator.normal(0.0, 0.7, size=5)
    table.scores[..., 2:] = np.clip(table.scores[..., 2:], 0.2, 6.0)
    return table


def build_repeated(seed: int, num_battles: int) -> BattleTable:
    """Build battles where each pair of songs is judged three times."""
    table = build_noise(seed, num_battles // 3)
    table = table.select(np.tile(np.arange(len(table)), 3))
    generator = np.random.default_rng((seed, 2))
    flipped = generator.random(len(table)) < 0.3
    table.preferences[flipped] = np.where(table.preferences[flipped] == "A", "B", "A")
    return table


def build_following(seed: int, num_battles: int) -> BattleTable:
    """Build battles where aesthetics are popularity with noise, so that they have nothing of their own to say."""
    table = build_noise(seed, num_battles)
    popularity = table.scores[..., :2].mean(axis=-1, keepdims=True) / 25.0
    table.scores[..., 2:] = np.clip(0.5 * table.scores[..., 2:] + 0.5 * popularity + 0.3, 0.1, 6.0)
    return table


def build_planted(effect: float) -> Callable[[int, int], BattleTable]:
    """Build battles where aesthetics matter as strongly as asked."""

    def build(seed: int, num_battles: int) -> BattleTable:
        options: dict[str, Any] = {"num_systems": 11, "popularity_effect": 1.0, "system_effect": 0.5}
        return build_table(num_battles, seed=seed, aesthetics_effect=effect, **options)

    return build


def test_effect(table: BattleTable, protocol: str, num_permutations: int, seed: int) -> tuple[float, float]:
    """Give the p-values of aesthetics helping and hurting the logistic regression."""
    features, folds = build_feature_sets(table, "symmetric"), build_folds(protocol, table, 10, seed)
    is_within = protocol == "within_system_pairs"
    keywords: dict[str, Any] = {"classifiers": ("logistic_regression",), "seed": seed, "is_within_pairs": is_within}
    found = cross_predict(table, features, folds, **keywords)
    areas = {
        name: measure_prediction(prediction, table, np.ones((0, len(table)))).estimates["auc"]
        for (_, name), prediction in found.items()
    }
    null = compute_null_differences(
        table,
        features[WITHOUT_AESTHETICS],
        folds,
        build_permutations(table, seed),
        classifier="logistic_regression",
        numbers=range(num_permutations),
        is_within_pairs=is_within,
    )
    better, worse = compute_permutation_p_values(areas[WITH_AESTHETICS] - areas[WITHOUT_AESTHETICS], null)
    return float(better or 1.0), float(worse or 1.0)


EFFECTS: dict[str, tuple[Callable[[int, int], BattleTable], int, tuple[str, ...], int]] = {
    # builder, battles, protocols, simulations; with 39 permutations the smallest p-value is the level, 1/40
    "noise, 600 battles": (build_noise, 600, ("leave_one_system_out", "random_folds", "within_system_pairs"), 60),
    "noise, 1259 battles": (build_noise, 1259, ("leave_one_system_out",), 40),
    "aesthetics differ by system": (build_system_level, 600, ("leave_one_system_out", "random_folds"), 200),
    "pairs repeat three times": (build_repeated, 600, ("leave_one_system_out", "random_folds"), 60),
    "aesthetics follow popularity": (build_following, 600, ("leave_one_system_out",), 60),
    "planted, very faint": (build_planted(0.25), 600, ("leave_one_system_out",), 40),
    "planted, faint": (build_planted(0.5), 600, ("leave_one_system_out",), 40),
    "planted, weak": (build_planted(1.5), 600, ("leave_one_system_out",), 40),
    "planted, strong": (build_planted(3.0), 600, ("leave_one_system_out",), 40),
}
NUM_PERMUTATIONS = 39


def run_effect(name: str, protocol: str, num_simulations: int, jobs: int) -> dict[str, Any]:
    """Say how often aesthetics were told to help and to hurt, at 2.5 % each."""
    build, num_battles, _, _ = EFFECTS[name]
    tasks = (
        delayed(test_effect)(build(seed, num_battles), protocol, NUM_PERMUTATIONS, seed)
        for seed in range(num_simulations)
    )
    found = np.array(Parallel(n_jobs=jobs)(tasks))
    helps, hurts = ((found <= LEVEL + 1e-12).sum(axis=0)).tolist()
    shares = {side: binomtest(count, num_simulations).proportion_ci(method="wilson") for side, count in
              (("helps", helps), ("hurts", hurts))}  # fmt: skip
    return {
        "num_simulations": num_simulations,
        "num_battles": num_battles,
        "num_permutations": NUM_PERMUTATIONS,
        "nominal_each_direction": LEVEL,
        "has_effect": name.startswith("planted"),
        "helps": {"share": helps / num_simulations, "low": shares["helps"].low, "high": shares["helps"].high},
        "hurts": {"share": hurts / num_simulations, "low": shares["hurts"].low, "high": shares["hurts"].high},
    }


def covers(summary: dict[str, Any], truth: float) -> float:
    """Say whether an interval holds the truth; NaN where there is no interval."""
    return np.nan if summary["low"] is None else float(summary["low"] <= truth <= summary["high"])


def cover_scores(num_groups: int, size: int, seed: int) -> dict[str, float]:
    """Cover Spearman, Pearson, MSE and MAE of songs whose artist makes half of the variance."""
    generator, artists = np.random.default_rng(seed), np.repeat(np.arange(num_groups), size)
    parts = [generator.normal(size=num_groups)[artists] + generator.normal(size=len(artists)) for _ in range(2)]
    labels, noise = (np.sqrt(0.5) * part for part in parts)
    pearson, spread = 0.5 / np.sqrt(1.25), np.sqrt(1.25)
    truth = {"spearman": 6 / np.pi * np.arcsin(pearson / 2), "pearson": pearson}
    truth |= {"mse": spread**2, "mae": spread * np.sqrt(2 / np.pi)}
    groups = {"artist": artists} if size > 1 else None
    found = summarize_metrics(0.5 * labels + noise, labels, num_draws=NUM_DRAWS, seed=seed, groups=groups)
    return {name: covers(found[name], value) for name, value in truth.items()}


def draw_pairs(num_users: int, size: int, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw margins and outcomes of battles whose users each have a taste of their own."""
    users = np.repeat(np.arange(num_users), size)
    tastes = generator.normal(0.8, 0.8 if size > 1 else 0.0, num_users)[users]
    margins = generator.normal(size=len(users))
    won = generator.random(len(users)) < 1 / (1 + np.exp(-tastes * margins))
    return users, margins, won.astype(np.float64)


def cover_pairs(num_users: int, size: int, truth: dict[str, float], seed: int) -> dict[str, float]:
    """Cover AUC, F1 and accuracy of a fixed predictor of battles."""
    users, margins, won = draw_pairs(num_users, size, np.random.default_rng(seed))
    resamples = draw_resamples(len(won), NUM_DRAWS, seed, {"user": users} if size > 1 else None, item="battle")
    found = {}
    for name, compute in (("auc", compute_auc), ("f1", compute_f1)):
        draws = compute(margins, won, resamples.weights)
        found[name] = covers(resamples.summarize(float(compute(margins, won)[0]), draws), truth[name])
    right = ((margins > 0) == (won > 0)).astype(np.float64)
    draws = resamples.weights @ right / resamples.weights.sum(axis=1)
    found["accuracy"] = covers(resamples.summarize_share(float(right.mean()), draws, len(right)), truth["accuracy"])
    return found


def find_pair_truth(num_users: int, size: int) -> dict[str, float]:
    """Compute what the predictor of [`draw_pairs`] reaches on very many battles."""
    factor = max(1, 400_000 // (num_users * size))
    _, margins, won = draw_pairs(num_users * factor, size, np.random.default_rng(10**6))
    right = (margins > 0) == (won > 0)
    areas = {"auc": compute_auc(margins, won)[0], "f1": compute_f1(margins, won)[0], "accuracy": right.mean()}
    return {name: float(value) for name, value in areas.items()}


def cover_calibration(num_battles: int, slope: float, seed: int) -> dict[str, float]:
    """Cover the calibration error of a head that is too sure by `1 / slope`."""

    def draw(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        logits = generator.normal(size=count)
        return 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-slope * logits))

    chances, real = draw(400_000, np.random.default_rng(10**6))
    truth = 0.0 if slope == 1 else _compute_gap(chances, real)
    generator = np.random.default_rng(seed)
    chances, real = draw(num_battles, generator)
    won = (generator.random(num_battles) < real).astype(np.float64)
    found = summarize_calibration(chances, won, draw_resamples(num_battles, NUM_DRAWS, seed, item="battle"), seed=seed)
    assert np.isclose(found["estimate"], compute_calibration_error(chances, won)[0])
    return {"calibration_error": covers(found, truth)}


def _compute_gap(chances: np.ndarray, real: np.ndarray) -> float:
    bins = np.minimum((chances * 10).astype(int), 9)
    return float(np.abs(np.bincount(bins, chances - real)).sum() / len(chances))


def cover_leaderboard(num_systems: int, num_battles: int, correlation: float, seed: int) -> dict[str, float]:
    """Cover arena scores, and the rank correlation of the boards of people and of a predictor."""
    generator = np.random.default_rng(seed)
    strengths = 0.7 * generator.normal(size=num_systems)
    predicted = correlation * strengths + np.sqrt(1 - correlation**2) * 0.7 * generator.normal(size=num_systems)
    table = build_table(num_battles, seed=seed, num_systems=num_systems)
    indices = np.array([[int(name.split("-")[1]) for name in row] for row in table.systems])
    gaps = strengths[indices[:, 0]] - strengths[indices[:, 1]]
    table.preferences[:] = np.where(generator.random(num_battles) < 1 / (1 + np.exp(-gaps)), "A", "B")
    margins = predicted[indices[:, 0]] - predicted[indices[:, 1]] + generator.logistic(size=num_battles)
    board = compute_leaderboard(table, {"rule": margins}, num_draws=NUM_DRAWS, seed=seed, resample="battle")
    true_scores = 1000 + 400 / np.log(10) * (strengths - strengths.mean())
    listed = [int(entry["system"].split("-")[1]) for entry in board["systems"]]
    scores = np.mean([covers(e["human"], true_scores[i]) for i, e in zip(listed, board["systems"], strict=True)])
    ranks = (np.argsort(np.argsort(values[listed])) for values in (strengths, predicted))
    truth = float(np.corrcoef(*ranks)[0, 1])
    return {"leaderboard": float(scores), "rank_correlation": covers(board["rank_correlations"]["rule"], truth)}


def cover_trained_predictor(num_battles: int, protocol: str, seed: int) -> dict[str, float]:
    """Say whether the interval of the AUC of a regression trained on noise holds a half."""
    table = build_table(num_battles, seed=seed, num_systems=11)
    features, folds = build_feature_sets(table, "symmetric")[WITH_AESTHETICS], build_folds(protocol, table, 10, seed)
    (prediction,) = cross_predict(
        table, {"all": features}, folds, classifiers=("logistic_regression",), seed=seed
    ).values()
    resamples = draw_battle_resamples(table, 200, seed, "battle")
    again = refit_draws(table, features, folds, resamples.weights)
    measured = measure_prediction(prediction, table, resamples.weights, refitted=again, metrics=("auc",))
    return {"auc_of_a_regression_on_noise": covers(measured.summarize(resamples)["auc"], 0.5)}


COVERAGE: dict[str, tuple[Callable[..., dict[str, float]], tuple[Any, ...], int]] = {
    "40 artists of 10 songs": (cover_scores, (40, 10), 400),
    "20 artists of 20 songs": (cover_scores, (20, 20), 400),
    "200 songs": (cover_scores, (200, 1), 400),
    "600 battles": (cover_pairs, (600, 1), 400),
    "60 users of 10 battles": (cover_pairs, (60, 10), 400),
    "a calibrated head on 252 battles": (cover_calibration, (252, 1.0), 400),
    "a head too sure by 1.4 on 600 battles": (cover_calibration, (600, 0.7), 400),
    "11 systems, 1259 battles, correlation 0.5": (cover_leaderboard, (11, 1259, 0.5), 1000),
    "11 systems, 600 battles, correlation 0.95": (cover_leaderboard, (11, 600, 0.95), 1000),
    "a regression on noise, 600 battles, leave_one_system_out": (
        cover_trained_predictor,
        (600, "leave_one_system_out"),
        100,
    ),
    "a regression on noise, 600 battles, random_folds": (cover_trained_predictor, (600, "random_folds"), 100),
}


def run_coverage(name: str, num_simulations: int, jobs: int) -> dict[str, Any]:
    """Say how often the intervals of a scenario held the truth."""
    compute, words, _ = COVERAGE[name]
    if compute is cover_pairs:
        words = (*words, find_pair_truth(*words))
    rows = Parallel(n_jobs=jobs)(delayed(compute)(*words, seed) for seed in range(num_simulations))
    coverage = {}
    for metric in rows[0]:
        values = np.array([row[metric] for row in rows])
        defined = values[np.isfinite(values)]
        share = float(defined.mean())
        interval = binomtest(round(defined.sum()), len(defined)).proportion_ci(method="wilson")
        coverage[metric] = {"share": share, "low": interval.low, "high": interval.high, "num_defined": len(defined)}
    return {"num_simulations": num_simulations, "nominal": 0.95, "coverage": coverage}


def list_scenarios(is_quick: bool) -> dict[str, Callable[[int], dict[str, Any]]]:
    """List every scenario as what runs it, with a number of processes."""
    scenarios: dict[str, Callable[[int], dict[str, Any]]] = {}
    for name, (_, _, count) in COVERAGE.items():
        number = 3 if is_quick else count
        scenarios[f"coverage: {name}"] = lambda jobs, n=name, c=number: run_coverage(n, c, jobs)
    for name, (_, _, protocols, count) in EFFECTS.items():
        for protocol in protocols:
            number = 2 if is_quick else count
            scenarios[f"effect: {name}, {protocol}"] = lambda jobs, n=name, p=protocol, c=number: run_effect(
                n, p, c, jobs
            )
    return scenarios


def main(words: list[str] | None = None) -> int:
    """Run the simulations and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("--quick", action="store_true", help="few simulations of each, to see that it runs")
    parser.add_argument("--only", metavar="TEXT", help="scenarios whose name holds this")
    arguments = parser.parse_args(words)
    setting = {"code_version": __version__, "is_quick": arguments.quick, "level_each_direction": LEVEL}
    results: dict[str, Any] = {**setting, "scenarios": {}}
    if arguments.output.is_file():
        before = json.loads(arguments.output.read_text())
        if {name: before.get(name) for name in setting} == setting:
            results = before
    for name, run in list_scenarios(arguments.quick).items():
        if name in results["scenarios"] or (arguments.only or "") not in name:
            continue
        started = time.perf_counter()
        results["scenarios"][name] = run(arguments.jobs)
        replace_text(arguments.output, json.dumps(results, indent=2) + "\n")
        print(f"{time.perf_counter() - started:6.1f} s  {name}", flush=True)
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
