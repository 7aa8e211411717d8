"""
CMI-RewardBench by its own rows and rules: how well a score predicts ratings and preferences of PAM, MusicEval, Music
Arena and CMI-Pref.

What comes in is the benchmark's `all_test.jsonl` and scores of its songs; what leaves are its metrics (Spearman's,
Pearson's and Kendall's correlation, or the share of pairs ordered correctly), with intervals, for one model or several
on the same rows. As in the benchmark, a tie of two scores counts as a vote for B, and a pair of which people like both
or neither as half right, whatever is predicted. Of its two questions only musicality is asked: no model here hears
the prompt.
"""

import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from modeling_apex.arena.published_results import CMI_RESULTS, CMI_SOURCE
from modeling_apex.statistics.bootstrap import Resamples, draw_resamples
from modeling_apex.statistics.metrics import compute_pearson, compute_spearman
from modeling_apex.statistics.pair_metrics import divide_or_nan
from modeling_apex.storage.cell_values import parse_number, read_text
from modeling_apex.storage.contained_paths import AudioPathError, refuse_outside
from modeling_apex.storage.table_reader import TableRow, iterate_rows

DATASETS = ("PAM", "MusicEval", "MusicArena", "CMI-Pref")
LABELS = {"PAM": "musicality", "MusicEval": "musicality"}
VOTES = {"MusicArena": "preference", "CMI-Pref": "preference-musicality"}
OUTCOMES = {"a": 1.0, "model_a": 1.0, "b": 0.0, "model_b": 0.0, "both": 0.5, "neither": 0.5}
SPLIT = "test"
MISSING = "audio is not there"
UNSCORED = "audio could not be scored"


@dataclass(frozen=True)
class BenchRow:
    """
    Hold a row of the benchmark.

    Args:
        dataset (`str`): One of `DATASETS`.
        songs (`list[str]`): The file of the rated song, or of both sides of a pair.
        value (`float`): The rating; or 1 where A is preferred, 0 where B is, 0.5 where both or neither are.
        prompt (`str`, *optional*): What rows share.
        location (`str`): Where it stands.
    """

    dataset: str
    songs: list[str]
    value: float
    prompt: str | None
    location: str


def read_bench_rows(path: str | os.PathLike, root: str | os.PathLike) -> tuple[list[BenchRow], dict[str, int]]:
    """
    Read the rows of the benchmark; fields that are not needed may be there or not.

    Args:
        path (`str` or `os.PathLike`), root (`str` or `os.PathLike`):
            `all_test.jsonl`, and the folder that its paths are relative to.

    Returns:
        `tuple[list[BenchRow], dict[str, int]]`: the rows of the test split, and how many others there are, by reason.

    Raises:
        `FileNotFoundError`: If there is no such file or folder.
        `ValueError`: If no row is of the benchmark.
    """
    file, folder = Path(os.path.expanduser(path)), Path(os.path.expanduser(root))
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. Pass data/all_test.jsonl of CMI-RewardBench.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder. Pass the folder that the paths in {file} are relative to.")
    rows, others = list[BenchRow](), Counter[str]()
    for row in iterate_rows(file):
        found = _read_row(row, folder)
        if isinstance(found, str):
            others[found] += 1
        else:
            rows.append(found)
    if not rows:
        counts = ", ".join(f"{count} {reason}" for reason, count in others.items()) or "there are none"
        raise ValueError(
            f"{file}: no row belongs to the test set of CMI-RewardBench ({counts}). Expected rows with source, split, "
            "audio-path and, as the source requires, audio2, musicality, preference or preference-musicality."
        )
    return rows, dict(others)


def _find_dataset(source: str) -> str | None:
    if "PAM" in source:
        return "PAM"
    if source in ("MusicEval", "SongEval"):
        return "MusicEval"
    if "Music Arena" in source:
        return "MusicArena"
    return "CMI-Pref" if source == "cmi-arena-annotation" else None


def _read_row(row: TableRow, folder: Path) -> BenchRow | str:
    """Return a row, or why it is none of the test."""
    cells = row.values
    if (split := read_text(cells.get("split"))) != SPLIT:
        return f"of the split {split}"
    dataset = _find_dataset(read_text(cells.get("source")) or "")
    if dataset is None:
        return "of another source"
    if dataset in LABELS:
        value = parse_number(cells.get(LABELS[dataset]))
        columns: tuple[str, ...] = ("audio-path",)
    else:
        value = OUTCOMES.get(str(cells.get(VOTES[dataset])).strip().lower())
        columns = ("audio-path", "audio2")
    if value is None:
        return f"without a label ({dataset})"
    songs = [read_text(cells.get(column)) for column in columns]
    if None in songs:
        return f"without a path ({dataset})"
    places = [os.path.normpath(os.path.join(folder, str(song))) for song in songs]
    return BenchRow(dataset, places, float(value), read_text(cells.get("prompt")), row.location)


def list_bench_songs(rows: Sequence[BenchRow], root: str | os.PathLike) -> tuple[list[str], dict[str, str]]:
    """List the songs of rows that are there, and say of the others why they are not scored."""
    found: dict[str, None] = {}
    absent: dict[str, str] = {}
    for row in rows:
        for song in row.songs:
            if song in found or song in absent:
                continue
            try:
                refuse_outside(Path(song), [Path(os.path.expanduser(root))], location=row.location, flag="")
            except (ValueError, OSError) as error:  # outside, or no name that a file can have
                absent[song] = str(error) if isinstance(error, AudioPathError) else f"{row.location}: {error}."
                continue
            if os.path.isfile(song):
                found[song] = None
            else:
                absent[song] = f"{row.location}: {song}: no such file."
    return list(found), absent


def measure_bench(
    rows: Sequence[BenchRow],
    scores: Mapping[str, Mapping[str, float]],
    absent: Mapping[str, str],
    *,
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Measure models on the rows whose songs all of them scored.

    Args:
        rows (`Sequence[BenchRow]`): From [`read_bench_rows`].
        scores (`Mapping`): By model and file, the score that judges.
        absent (`Mapping[str, str]`): Files that are not there.
        num_draws (`int`, defaults to 1000), seed (`int`, defaults to 0): The bootstrap.

    Returns:
        `dict`: `datasets` and `published_source`, as the schema says. Survives JSON.
    """
    datasets = {}
    for dataset in DATASETS:
        own = [row for row in rows if row.dataset == dataset]
        if own:
            datasets[dataset] = _measure_dataset(dataset, own, scores, absent, num_draws, seed)
    return {"datasets": datasets, "published_source": CMI_SOURCE}


def _measure_dataset(
    dataset: str,
    rows: Sequence[BenchRow],
    scores: Mapping[str, Mapping[str, float]],
    absent: Mapping[str, str],
    num_draws: int,
    seed: int,
) -> dict[str, Any]:
    left_out = {
        MISSING: sum(any(song in absent for song in row.songs) for row in rows),
        UNSCORED: 0,
    }
    kept = [row for row in rows if all(song in found for found in scores.values() for song in row.songs)]
    left_out[UNSCORED] = len(rows) - len(kept) - left_out[MISSING]
    is_pair = dataset in VOTES
    result: dict[str, Any] = {
        "metric": "accuracy" if is_pair else "spearman",
        "num_rows": len(kept),
        "num_left_out": left_out,
        "results": {},
        "num_predicted_ties": {},
        "other_correlations": {},
        "differences": [],
        "published": {judge: found[dataset] for judge, found in CMI_RESULTS.items() if dataset in found},
    }
    if not kept:
        return result
    prompts = [row.prompt or f"row {number}" for number, row in enumerate(kept)]
    resamples = draw_resamples(len(kept), num_draws, seed, {"prompt": prompts}, item="row")
    values = np.array([row.value for row in kept])
    estimates, draws = {}, {}
    for name, found in scores.items():
        songs = np.array([[found[song] for song in row.songs] for row in kept])
        if is_pair:
            result["num_predicted_ties"][name] = int((songs[:, 0] == songs[:, 1]).sum())
        else:
            result["other_correlations"][name] = {
                kind: resamples.summarize(
                    float(compute(songs[:, 0], values)), compute(songs[:, 0], values, resamples.weights)
                )
                for kind, compute in (("pearson", compute_pearson), ("kendall", compute_kendall))
            }
        estimates[name], draws[name] = _measure(songs, values, resamples)
        result["results"][name] = (
            resamples.summarize_share(estimates[name], draws[name], len(kept))
            if is_pair
            else resamples.summarize(estimates[name], draws[name], method="joined")
        )
    result["resampled"] = resamples.describe()
    for first, second in itertools.combinations(scores, 2):
        difference = resamples.summarize(estimates[first] - estimates[second], draws[first] - draws[second])
        result["differences"].append({"first": first, "second": second, **difference})
    return result


def _measure(songs: NDArray, values: NDArray, resamples: Resamples) -> tuple[float, NDArray]:
    """Return a metric and its draws; `songs` is `(num_rows, 1)` of ratings and `(num_rows, 2)` of pairs."""
    if songs.shape[1] == 1:
        return float(compute_spearman(songs[:, 0], values)), compute_spearman(songs[:, 0], values, resamples.weights)
    is_right = 1.0 - np.abs((songs[:, 0] > songs[:, 1]) - values)
    return float(is_right.mean()), divide_or_nan(resamples.weights @ is_right, resamples.weights.sum(axis=1))


def compute_kendall(scores: NDArray, labels: NDArray, weights: NDArray | None = None) -> Any:
    """Compute Kendall's tau-b, of the items or of each bootstrap sample; NaN where one side does not vary."""
    if weights is None:
        return kendalltau(scores, labels).statistic
    counts = np.rint(weights).astype(int)
    return np.array([compute_kendall(np.repeat(scores, row), np.repeat(labels, row)) for row in counts])
