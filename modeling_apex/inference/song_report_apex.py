"""
Room 10: the score report of a song.

What comes in are scores in native units; what leaves is a plain dict that survives JSON, which `report_apex` lays out
as rows and as text. Standard library only, so that reports can be made where no model runs.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict, cast

INVERTED_TARGET = (
    "the inverted target: a score is an expected value, so low songs get too high a percentile and high songs too low "
    "a one; `apex-music calibrate` makes a table of ranks"
)


class SongReport(TypedDict, total=False):
    """What is said of a song; one that was not scored has `song`, `model` and `error` alone."""

    song: Required[str | None]
    scores: dict[str, float]
    percentiles: dict[str, float]
    target_percentiles: dict[str, float]
    reference_percentiles: dict[str, float]
    percentile_basis: str
    training_percentiles: dict[str, float]
    interval_level: float
    intervals: dict[str, list[float]]
    ranges: dict[str, list[float]]
    groups: dict[str, str]
    scales: dict[str, str]
    duration_seconds: float
    num_segments: int
    model: Required[dict[str, str | None]]
    warnings: list[str]
    features: dict[str, list[str]]
    novelty: dict[str, Any]
    segments: list[dict[str, Any]]
    embedding: list[float]
    error: str


def compute_percentile(score: float, exponent: float, minimum: float = 0.0, maximum: float = 100.0) -> float:
    """
    Turn a score on the scale "percentile" into the percentile rank that it stands for, 0 to 100.

    The inverse of `score = minimum + (maximum - minimum) * (percentile / 100) ** exponent` (arXiv 2605.03395, whose
    popularity runs from 0 to 100).

    Raises:
        `ValueError`: If the score is outside its range or the exponent is not positive.
    """
    share = (score - minimum) / (maximum - minimum)
    if not -1e-6 <= share <= 1 + 1e-6:  # a float32 score may miss a bound by its rounding
        raise ValueError(f"a score of this head runs from {minimum:g} to {maximum:g}, got {score}.")
    if not exponent > 0:
        raise ValueError(f"`exponent` must be positive, got {exponent}.")
    return 100.0 * float(min(max(share, 0.0), 1.0) ** (1.0 / exponent))


def compute_training_percentile(score: float, quantiles: Sequence[float]) -> float:
    """
    Tell what percent of the training songs have a lower score, interpolated between quantiles.

    A score that many training songs share lies in the middle of them.

    Args:
        score (`float`): Score in native units.
        quantiles (`Sequence[float]`):
            An entry of `config.percentile_tables`: the ascending quantiles of the model's scores on its training
            songs, evenly spaced from 0 to 100 percent.
    """
    step = 100.0 / (len(quantiles) - 1)
    below, above = bisect.bisect_left(quantiles, score), bisect.bisect_right(quantiles, score)
    if below < above:  # the score is one of the quantiles, or several
        return step * (below + above - 1) / 2
    if below in (0, len(quantiles)):
        return 0.0 if below == 0 else 100.0
    lower, upper = quantiles[below - 1], quantiles[below]
    return step * (below - 1 + (score - lower) / (upper - lower))


def build_report(
    song: str | None,
    scores: Sequence[float],
    heads: Sequence[Mapping[str, Any]],
    *,
    popularity_exponent: float | None,
    duration_seconds: float,
    num_segments: int,
    model_id: str,
    model_revision: str | None = None,
    warnings: Sequence[str] = (),
    segments: Sequence[Mapping[str, Any]] | None = None,
    embedding: Sequence[float] | None = None,
    with_percentiles: bool = True,
    percentile_tables: Mapping[str, Sequence[float]] | None = None,
    reference: Mapping[str, Any] | None = None,
    novelty: Mapping[str, Any] | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
) -> SongReport:
    """
    Assemble the report of one song.

    Args:
        song (`str`, *optional*): Path, URL or other name of the song.
        scores (`Sequence[float]` of length `num_heads`): Scores in native units, in the order of `heads`.
        heads (`Sequence[dict]`), popularity_exponent (`float`, *optional*), percentile_tables (`dict`, *optional*),
            reference (`dict`, *optional*): The fields of the model's config. Without an exponent, no score is a
            transformed percentile.
        novelty (`dict`, *optional*): How far the song is from those of the reference set.
        duration_seconds (`float`), num_segments (`int`): Length of the audio that was scored, and its segments.
        model_id (`str`), model_revision (`str`, *optional*): The model's name or path, and its commit on the Hub.
        warnings (`Sequence[str]`): What the reader must know about this song, such as a truncated file.
        segments (`Sequence[dict]`, *optional*): The timeline: `start_seconds`, `end_seconds` and `scores` of each.
        embedding (`Sequence[float]`, *optional*): The song embedding.
        with_percentiles (`bool`, defaults to `True`): Whether to give percentiles too.
        features (`dict[str, list[str]]`, *optional*): Names of the track features `given`, `missing` and `leaking`.

    Returns:
        `dict`: a report that survives `json.dumps` and `json.loads` unchanged.

    Raises:
        `ValueError`: If a score is not finite or the number of scores is wrong.
    """
    named = _name_scores(song, scores, heads)
    report: dict[str, Any] = {"song": song, "scores": named}
    if with_percentiles:
        report |= _rank_scores(named, heads, popularity_exponent, reference or {})
    if with_percentiles and percentile_tables:
        report["training_percentiles"] = {
            name: compute_training_percentile(named[name], table) for name, table in percentile_tables.items()
        }
    if reference and reference["intervals"]:
        report |= _surround_scores(named, heads, reference)
    report["ranges"] = {head["name"]: [head["minimum"], head["maximum"]] for head in heads}
    report |= {f"{kind}s": {head["name"]: head[kind] for head in heads} for kind in ("group", "scale")}
    report |= {"duration_seconds": float(duration_seconds), "num_segments": int(num_segments)}
    report["model"] = {"id": model_id, "revision": model_revision}
    report["warnings"] = list(warnings)
    lists = {"features": features, "novelty": novelty, "segments": segments, "embedding": embedding}
    return cast(SongReport, report | {name: value for name, value in lists.items() if value is not None})


def _rank_scores(
    named: Mapping[str, float],
    heads: Sequence[Mapping[str, Any]],
    exponent: float | None,
    reference: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the percentiles of a report: ranks among the songs of the reference set, or else inverted targets."""
    targets = {
        head["name"]: compute_percentile(named[head["name"]], exponent, head["minimum"], head["maximum"])
        for head in heads
        if head["scale"] == "percentile" and exponent is not None
    }
    tables = reference.get("percentile_tables", {})
    ranks = {name: compute_training_percentile(named[name], table) for name, table in tables.items()}
    percentiles: dict[str, Any] = {"percentiles": {name: ranks.get(name, target) for name, target in targets.items()}}
    percentiles["target_percentiles"] = targets
    if ranks:
        basis = f"share of songs with a lower score among {reference['num_songs']}: {reference['name']}"
        return {**percentiles, "reference_percentiles": ranks, "percentile_basis": basis}
    return {**percentiles, "percentile_basis": INVERTED_TARGET} if targets else percentiles


def _surround_scores(
    named: Mapping[str, float], heads: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the intervals of a report, cut off at the range of each head, and what share of labels they hold."""
    intervals = {}
    for head in heads:
        score, width = named[head["name"]], reference["intervals"].get(head["name"])
        if width is not None:
            intervals[head["name"]] = [max(score - width, head["minimum"]), min(score + width, head["maximum"])]
    return {"interval_level": reference["interval_level"], "intervals": intervals}


def _name_scores(song: str | None, scores: Sequence[float], heads: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    if len(scores) != len(heads):
        raise ValueError(f"{len(scores)} scores for {len(heads)} heads.")
    named = {head["name"]: float(score) for head, score in zip(heads, scores, strict=True)}
    damaged = [name for name, score in named.items() if not math.isfinite(score)]
    if damaged:
        raise ValueError(f"{song}: scores {damaged} are not finite.")
    return named


def build_error_report(
    song: str | None, error: str, *, model_id: str, model_revision: str | None = None
) -> SongReport:
    """Assemble the report of a song that could not be scored: the same key fields, and `error` in place of scores."""
    return {"song": song, "error": error, "model": {"id": model_id, "revision": model_revision}}
