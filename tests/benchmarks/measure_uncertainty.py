"""
Measure what apex-tiny says of its own certainty: percentiles, intervals, what it calls novel, and what a tail does.

New songs are rendered (as training's, of unseen systems), and sounds that are no songs are made: noise, silence, and
speech-like babble. Result: uncertainty.json beside the model, the source of what its card and README say of it.

    python tests/benchmarks/measure_uncertainty.py [--model M] [--songs runs/tiny-songs] [--output FILE]
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal

from modeling_apex import ApexModel
from modeling_apex.inference.novelty_apex import compute_distances
from modeling_apex.inference.song_report_apex import compute_percentile, compute_training_percentile
from modeling_apex.registration import EMBEDDED_MODEL
from modeling_apex.training.tiny.evaluation import score_songs
from modeling_apex.training.tiny.recipe import TinyRecipe
from modeling_apex.training.tiny.songs import FULL_SCALE, SAMPLING_RATE, SongTable, render_song_set

RESULT_NAME = "uncertainty.json"
FRESH_SEED = 5_000_005
NUM_FRESH_SONGS = 1200  # so many that shares are known to a hundredth
NUM_SOUNDS = 60  # of each kind that is no song, and of songs to which silence is appended
NUM_SECONDS = 20
TENTHS = np.linspace(0, 100, 11)


def render_sets(songs: Path, num_processes: int | None) -> dict[str, SongTable]:
    """Render the songs that are measured: new ones as training has them, the test's, and those of unseen systems."""
    sets = TinyRecipe().build_song_sets()
    sets["fresh"] = dataclasses.replace(sets["training"], name="fresh", num_songs=NUM_FRESH_SONGS, seed=FRESH_SEED)
    return {name: render_song_set(sets[name], songs, num_processes) for name in ("fresh", "test", "unseen")}


def make_sounds(seed: int = 0) -> dict[str, list[NDArray[np.float64]]]:
    """Make sounds that are no songs."""
    generator = np.random.default_rng(seed)
    num_samples = NUM_SECONDS * SAMPLING_RATE
    loudness = generator.uniform(0.01, 0.3, NUM_SOUNDS)
    white = [level * generator.standard_normal(num_samples) for level in loudness]
    return {
        "white noise": white,
        "pink noise": [_filter_pink(noise) for noise in white],
        "silence": [np.zeros(num_samples)],
        "silence with the noise of 16 bits": [generator.integers(-1, 2, num_samples) / FULL_SCALE for _ in loudness],
        "speech-like": [_babble(generator, num_samples) for _ in loudness],
        "a steady tone": [0.3 * np.sin(hertz * np.arange(num_samples)) for hertz in generator.uniform(0.02, 0.8, 60)],
    }


def _filter_pink(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    spectrum = np.fft.rfft(noise)
    shaped = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), len(noise))
    return shaped * np.std(noise) / np.std(shaped)


def _babble(generator: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    """Pulses at the pitch of a voice through two wandering formants, four syllables a second, with pauses."""
    num_syllables = 4 * NUM_SECONDS
    length = num_samples // num_syllables
    pitch = np.repeat(generator.uniform(90, 220) * 2 ** generator.normal(0, 0.2, num_syllables), length)
    voiced = np.diff(np.floor(np.cumsum(pitch) / SAMPLING_RATE), prepend=0) + 0.01 * generator.standard_normal(
        len(pitch)
    )
    parts = []
    for part in voiced.reshape(num_syllables, length):
        for hertz in (generator.uniform(300, 800), generator.uniform(900, 2500)):
            numerator, denominator = signal.iirpeak(hertz, 5, fs=SAMPLING_RATE)
            part = part + 2 * signal.lfilter(numerator, denominator, part)
        parts.append(part * np.hanning(length) * (generator.random() < 0.8))
    babble = np.concatenate(parts)
    return np.pad(0.3 * babble / np.abs(babble).max(), (0, num_samples - len(babble)))


def build_table(waveforms: list[NDArray[np.float64]] | NDArray[Any], labels: NDArray[Any]) -> SongTable:
    """Put sounds in [-1, 1] into a table of songs."""
    values = np.round(np.clip(np.stack(list(waveforms)), -1, 1) * FULL_SCALE).astype(np.int16)
    return SongTable(values, labels, labels, np.array([""] * len(values)))


def measure_coverage(scores: NDArray[Any], labels: NDArray[Any], reference: dict[str, Any], heads: list[Any]) -> Any:
    """Return the share of labels that lie in their interval, by head."""
    covered = {}
    for column, head in enumerate(heads):
        error = np.abs(labels[:, column] - scores[:, column])
        known = error[~np.isnan(error)]
        share = float(np.mean(known <= reference["intervals"][head["name"]]))
        covered[head["name"]] = {"share": share, "num_songs": len(known)}
    return covered


def count_tenths(scores: NDArray[Any], config: Any) -> dict[str, Any]:
    """Return the share of songs in each tenth of stated percentiles, by head: as ranks, and as inverted targets."""
    counted = {}
    for column, head in enumerate(config.heads):
        table = config.reference["percentile_tables"][head["name"]]
        stated = {"reference": [compute_training_percentile(score, table) for score in scores[:, column].tolist()]}
        if head["scale"] == "percentile":
            exponent, bounds = config.popularity_exponent, (head["minimum"], head["maximum"])
            stated["inverted target"] = [compute_percentile(score, exponent, *bounds) for score in scores[:, column]]
        counted[head["name"]] = {
            kind: [round(share, 4) for share in (np.histogram(values, TENTHS)[0] / len(values)).tolist()]
            for kind, values in stated.items()
        }
    return counted


def measure_tail(model: ApexModel, table: SongTable) -> dict[str, Any]:
    """Return what one second of appended silence does to the scores of songs, by what the tail counts."""
    songs = np.asarray(table.waveforms[:NUM_SOUNDS])
    longer = np.pad(songs, ((0, 0), (0, SAMPLING_RATE)))
    changes, tail = {}, model.config.tail
    for rule in ("full", "weighted", "drop"):
        model.config.tail = rule
        found = [score_songs(model, dataclasses.replace(table, waveforms=values))[0] for values in (songs, longer)]
        change = np.abs(found[1] - found[0])
        changes[rule] = {
            name: {"mean": float(change[:, column].mean()), "largest": float(change[:, column].max())}
            for column, name in enumerate(model.config.head_names)
        }
    model.config.tail = tail
    return {"num_songs": len(songs), "seconds_of_silence": 1, "used": tail, "changes": changes}


def measure(model: ApexModel, tables: dict[str, SongTable]) -> dict[str, Any]:
    """Measure everything; the result survives JSON."""
    config: Any = model.config
    reference, known = config.reference, config.reference["novelty"]
    scored = {name: score_songs(model, table) for name, table in tables.items()}
    titles = {"fresh": "new songs as in training", "test": "independent factors", "unseen": "systems not in training"}
    novel = {titles[name]: embeddings for name, (_, embeddings) in scored.items()}
    nothing = np.full((NUM_SOUNDS, len(config.heads)), np.nan)
    for name, waveforms in make_sounds().items():
        novel[name] = score_songs(model, build_table(waveforms, nothing[: len(waveforms)]))[1]
    distances = {name: compute_distances(embeddings, known) for name, embeddings in novel.items()}
    return {
        "reference": {name: reference[name] for name in ("name", "num_songs", "num_groups", "sha256")},
        "interval_level": reference["interval_level"],
        "interval_widths": reference["intervals"],
        "coverage": {
            titles[name]: measure_coverage(scores, tables[name].labels, reference, config.heads)
            for name, (scores, _) in scored.items()
        },
        "tenths": {"songs": titles["fresh"], "shares": count_tenths(scored["fresh"][0], config)},
        "novelty": {
            "threshold": known["threshold"],
            "level": known["level"],
            "called_novel": {
                name: {"share": float(np.mean(values > known["threshold"])), "num_sounds": len(values)}
                for name, values in distances.items()
            },
            "median_distance": {name: float(np.median(values)) for name, values in distances.items()},
        },
        "tail": measure_tail(model, tables["fresh"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(EMBEDDED_MODEL), help="folder (default: the embedded model)")
    parser.add_argument("--songs", type=Path, default=Path("runs/tiny-songs"), help="where rendered songs are kept")
    parser.add_argument("--num-processes", type=int, help="processes that render")
    parser.add_argument("--output", type=Path, help=f"where to (default: {RESULT_NAME} beside the model)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = ApexModel.from_pretrained(arguments.model).eval()
    tables = render_sets(arguments.songs, arguments.num_processes)
    command = "python tests/benchmarks/measure_uncertainty.py"
    result = {"command": command, "model": Path(arguments.model).name, **measure(model, tables)}
    output = arguments.output or Path(arguments.model) / RESULT_NAME
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
