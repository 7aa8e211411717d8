"""
Can the five factors of the synthetic world be heard? Render songs with independent factors, describe each by plain
spectral statistics, fit small regressors, and write the held-out Spearman correlation per factor as JSON.

    python tests/benchmarks/probe_synthetic_world.py --num-songs 600 --output probe.json

Two descriptions are tried: `song` statistics over the whole song, and `local` ones, which see no further than 1.5 s
and are averaged over the song, as a small model with a short reach would. Songs of unseen systems are tested, too.
"""

import argparse
import itertools
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.factors import FACTOR_NAMES, draw_independent_factors
from datasets_scripts.synthetic.prompts import draw_prompt
from datasets_scripts.synthetic.random_streams import build_generator
from datasets_scripts.synthetic.song import render_song
from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, PLATFORMS

HOP = 240  # 10 ms at 24 kHz
NUM_BANDS = 40
MODULATION_EDGES = (0.5, 1, 2, 3, 4, 6, 8, 12, 20, 35, 50)


def build_spec(seed: int, number: int, systems: tuple[str, ...], seconds: float) -> SongSpec:
    """Build a song with independent factors, from one of the given systems in turn."""
    name = f"probe-{number}"
    generator = build_generator(seed, name)
    return SongSpec(
        song_id=name,
        seed=seed,
        system=systems[number % len(systems)],
        factors=draw_independent_factors(generator),
        prompt=draw_prompt(generator),
        seconds=seconds,
    )


def compute_log_mel(waveform: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log energies in `NUM_BANDS` bands of shape `(num_frames, NUM_BANDS)`, and each band's spectral crest."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 1024)[::HOP] * np.hanning(1024).astype(np.float32)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 + 1e-8
    top = 2595 * np.log10(1 + 11500 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, NUM_BANDS + 1) / 2595) - 1)
    bins = np.maximum.accumulate(np.round(edges / sampling_rate * 1024).astype(int))
    bins = np.maximum(bins, np.arange(NUM_BANDS + 1))
    energy = np.add.reduceat(power, bins[:-1], axis=1)
    peak = np.maximum.reduceat(power, bins[:-1], axis=1)
    return np.log10(energy), np.log10(peak / energy)


def compute_statistics(log_mel: np.ndarray, crest: np.ndarray) -> np.ndarray:
    """Return means, spreads, changes and modulation energies of a stretch of song."""
    parts = [log_mel.mean(0), log_mel.std(0), crest.mean(0), crest.std(0)]
    parts += [np.abs(log_mel[lag:] - log_mel[:-lag]).mean(0) for lag in (1, 4, 15)]
    parts += [np.percentile(log_mel, (5, 95), axis=0).ravel()]
    broad = log_mel.reshape(len(log_mel), 8, -1).mean(2)
    spectrum = np.abs(np.fft.rfft((broad - broad.mean(0)) * np.hanning(len(broad))[:, None], axis=0)) ** 2
    rates = np.fft.rfftfreq(len(broad), 0.01)
    for low, high in itertools.pairwise(MODULATION_EDGES):
        inside = (rates >= low) & (rates < high)
        parts.append(np.log10(spectrum[inside].mean(0) + 1e-6) if inside.any() else np.zeros(8))
    return np.concatenate(parts)


def describe(task: tuple[int, int, tuple[str, ...], float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render one song and return its song-level statistics, its averaged local statistics, and its factors."""
    spec = build_spec(*task)
    log_mel, crest = compute_log_mel(render_song(spec), spec.sampling_rate)
    local = [compute_statistics(log_mel[i : i + 150], crest[i : i + 150]) for i in range(0, len(log_mel) - 150, 150)]
    return compute_statistics(log_mel, crest), np.mean(local, 0), np.array(list(spec.factors.to_dict().values()))


def score(features: np.ndarray, factors: np.ndarray, num_train: int, num_test: int, seed: int) -> dict[str, dict]:
    """Fit on the first rows; return held-out Spearman per factor on the next rows and on the unseen systems' rows."""
    results: dict[str, dict] = {}
    regressors = {
        "ridge": lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 4, 9))),
        "boosting": lambda: HistGradientBoostingRegressor(max_iter=150, learning_rate=0.08, random_state=seed),
    }
    for kind, build in regressors.items():
        for column, name in enumerate(FACTOR_NAMES):
            model = build().fit(features[:num_train], factors[:num_train, column])
            predicted = model.predict(features[num_train:])
            truth = factors[num_train:, column]
            results.setdefault(kind, {})[name] = {
                "same_systems": round(float(spearmanr(predicted[:num_test], truth[:num_test])[0]), 3),
                "unseen_systems": round(float(spearmanr(predicted[num_test:], truth[num_test:])[0]), 3),
            }
    return results


def main() -> None:
    """Run the probe and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num-songs", type=int, default=600, help="songs of the training platforms (a fifth is held out)"
    )
    parser.add_argument("--num-unseen", type=int, default=132, help="songs of the unseen systems")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("probe_synthetic_world.json"))
    options = parser.parse_args()
    platforms = tuple(system.name for system in PLATFORMS)
    unseen = tuple(system.name for system in ARENA_SYSTEMS)
    tasks = [(options.seed, number, platforms, options.seconds) for number in range(options.num_songs)]
    tasks += [(options.seed + 1, number, unseen, options.seconds) for number in range(options.num_unseen)]
    start = time.perf_counter()
    with ProcessPoolExecutor(options.processes) as pool:
        song, local, factors = (np.stack(parts) for parts in zip(*pool.map(describe, tasks, chunksize=8), strict=True))
    num_test = options.num_songs // 5
    num_train = options.num_songs - num_test
    result = {
        "num_train": num_train,
        "num_test": num_test,
        "num_unseen": options.num_unseen,
        "seconds_per_song": options.seconds,
        "seed": options.seed,
        "song": score(song, factors, num_train, num_test, options.seed),
        "local": score(local, factors, num_train, num_test, options.seed),
        "render_and_describe_seconds": round(time.perf_counter() - start, 1),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for view in ("song", "local"):
        for kind, scores in result[view].items():
            print(view, kind, {name: tuple(value.values()) for name, value in scores.items()})


if __name__ == "__main__":
    main()
