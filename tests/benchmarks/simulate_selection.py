"""
Choose among takes, and learn a listener's taste, where the truth is known: on the synthetic world.

Of each prompt eight takes are rendered; the best by apex-tiny's scores gains true appeal over a take by chance. Then
listeners with tastes of their own rate 150 songs, and a personal head is held against the scores of everyone on songs
that they did not rate. Result: results/selection.json.

    python tests/benchmarks/simulate_selection.py [--prompts N] [--songs N] [--listeners N] [--output FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from datasets_scripts.synthetic.composition import SongSpec
from datasets_scripts.synthetic.engagement import compute_appeal
from datasets_scripts.synthetic.factors import FACTOR_NAMES
from datasets_scripts.synthetic.prompts import draw_prompt
from datasets_scripts.synthetic.random_streams import build_generator, build_identifier
from datasets_scripts.synthetic.song import render_song
from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, PLATFORMS
from datasets_scripts.synthetic.world import WorldOptions, build_spec
from modeling_apex import load_scorer
from modeling_apex.arena.preference import load_preference_head
from modeling_apex.arena.selection import Candidate, build_key, choose_best
from modeling_apex.personal.fitting import NUM_FOLDS, PENALTIES, TasteData, choose_penalty, fit_taste
from modeling_apex.statistics.bootstrap import draw_resamples

SEED = 7_000_007
NUM_TAKES, NUM_RATINGS, NUM_DRAWS = 8, 150, 1000
SECONDS = 10.0
RATING_NOISE = 0.6  # points, as of the raters whose means apex-tiny learnt


def plan_takes(num_prompts: int) -> list[SongSpec]:
    """Plan eight takes of each prompt by one system, of systems that apex-tiny never heard."""
    specs = []
    for number in range(num_prompts):
        prompt = draw_prompt(build_generator(SEED, "takes", str(number)))
        system = ARENA_SYSTEMS[number % len(ARENA_SYSTEMS)].name
        for take in range(NUM_TAKES):
            song_id = build_identifier(SEED, "takes", str(number), str(take))
            specs.append(build_spec(WorldOptions(seed=SEED, seconds=SECONDS), song_id, system, prompt, "natural"))
    return specs


def plan_rated(num_songs: int) -> list[SongSpec]:
    """Plan songs whose factors do not hang together, so that tastes can part."""
    options, specs = WorldOptions(seed=SEED, seconds=SECONDS), []
    for number in range(num_songs):
        prompt = draw_prompt(build_generator(SEED, "rated", str(number)))
        song_id = build_identifier(SEED, "rated", str(number))
        system = PLATFORMS[number % len(PLATFORMS)].name
        specs.append(build_spec(options, song_id, system, prompt, "independent"))
    return specs


def score_specs(scorer: Any, specs: list[SongSpec]) -> list[dict[str, Any]]:
    """Render songs and score them."""
    songs = ({"array": render_song(spec), "sampling_rate": spec.sampling_rate} for spec in specs)
    return list(scorer.score(songs, return_embedding=True, return_percentiles=False))


def measure_selection(specs: list[SongSpec], reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Measure the true appeal of the best of eight, above the mean of the eight, by each way of choosing."""
    names, head = list(reports[0]["scores"]), load_preference_head()
    candidates = [
        Candidate(spec.song_id, str(row // NUM_TAKES), report["scores"], report)
        for row, (spec, report) in enumerate(zip(specs, reports, strict=True))
    ]
    appeal = {spec.song_id: compute_appeal(spec.factors) for spec in specs}
    grouped = np.array(list(appeal.values())).reshape(-1, NUM_TAKES)
    ways = {"all scores": build_key(names)} | {name: build_key([name]) for name in names}
    if head is not None:
        ways["preference head"] = build_key(names, strength=head.compute_strength)
    gains = {"the truth": grouped.max(axis=1) - grouped.mean(axis=1)}
    for way, key in ways.items():
        chosen = [choice.chosen[0][0].song for choice in choose_best(candidates, key)]
        gains[way] = np.array([appeal[song] for song in chosen]) - grouped.mean(axis=1)
    best = "all scores"
    return {
        "num_prompts": len(grouped),
        "num_takes": NUM_TAKES,
        "over_chance": {way: summarize(values, "prompt") for way, values in gains.items()},
        "all_scores_over": {
            way: summarize(gains[best] - values, "prompt") for way, values in gains.items() if way != best
        },
    }


def measure_personal(specs: list[SongSpec], reports: list[dict[str, Any]], num_listeners: int) -> dict[str, Any]:
    """Measure how well tastes are told on songs that their listeners did not rate."""
    factors = np.array([list(spec.factors.to_dict().values()) for spec in specs]) - 0.5
    model = load_scorer().model
    with torch.no_grad():
        embeddings = torch.tensor([report["embedding"] for report in reports])
        features = model.shared(embeddings).double().numpy()
    names = list(reports[0]["scores"])
    scores = np.array([[report["scores"][name] for name in names] for report in reports])
    told: dict[str, list[float]] = {name: [] for name in ("personal", *names)}
    for listener in range(num_listeners):
        generator = np.random.default_rng([SEED, listener])
        weights = generator.normal(size=len(FACTOR_NAMES))  # some like what others cannot stand
        taste = factors @ weights / np.sqrt((weights**2).sum() / 12)
        order = generator.permutation(len(specs))
        rated, others = order[:NUM_RATINGS], order[NUM_RATINGS:]
        heard = 3 + taste[rated] + RATING_NOISE * generator.standard_normal(NUM_RATINGS)
        ratings = np.clip(np.round(2 * heard) / 2, 1, 5)
        rows = rated[:, None]
        data = TasteData(features, rows, ratings, rows)
        fitted, _ = fit_taste(data, np.array([choose_penalty(data, PENALTIES, NUM_FOLDS, listener)]))
        told["personal"].append(spearmanr(features[others] @ fitted[0], taste[others]).statistic)
        for column, name in enumerate(names):
            told[name].append(spearmanr(scores[others, column], taste[others]).statistic)
    found = {name: np.array(values) for name, values in told.items()}
    # The harshest comparison: the score that happens to suit the listener best, which nobody knows beforehand.
    best = np.max([found[name] for name in names], axis=0)
    return {
        "num_listeners": num_listeners,
        "num_ratings": NUM_RATINGS,
        "num_other_songs": len(specs) - NUM_RATINGS,
        "correlation": {name: summarize(values, "listener") for name, values in found.items()},
        "personal_over": {name: summarize(found["personal"] - found[name], "listener") for name in names}
        | {"the best for each listener": summarize(found["personal"] - best, "listener")},
        "share_of_listeners_better_than_their_best": float(np.mean(found["personal"] > best)),
    }


def summarize(values: NDArray[np.float64], unit: str) -> dict[str, Any]:
    """Give the mean with its interval."""
    resamples = draw_resamples(len(values), NUM_DRAWS, 0, item=unit)
    draws = resamples.weights @ values / resamples.weights.sum(axis=1)
    return resamples.summarize(float(values.mean()), draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=44, metavar="N", help="prompts of eight takes (44)")
    parser.add_argument("--songs", type=int, default=350, metavar="N", help="songs of listeners (350)")
    parser.add_argument("--listeners", type=int, default=100, metavar="N", help="listeners (100)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "selection.json")
    arguments = parser.parse_args()
    scorer = load_scorer()
    takes, rated = plan_takes(arguments.prompts), plan_rated(arguments.songs)
    result = {
        "model": scorer.model_id,
        "song_seconds": SECONDS,
        "best_of_takes": measure_selection(takes, score_specs(scorer, takes)),
        "personal": measure_personal(rated, score_specs(scorer, rated), arguments.listeners),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
