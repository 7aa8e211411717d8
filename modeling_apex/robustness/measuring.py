"""
Score perturbed songs, and say how far that moves their scores.

What comes in is a scorer and songs; what leaves is one report for each song and each thing that was done to it, and
from these what `robustness.json` holds. Every song is decoded once and is let go before the next one.
"""

import dataclasses
import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeling_apex.inference import decoding_apex
from modeling_apex.inference.audio_limits_apex import AudioError, AudioLimits
from modeling_apex.inference.libsndfile_apex import decode_with_soundfile
from modeling_apex.inference.scoring_apex import SONG_ERRORS, SongScorer
from modeling_apex.robustness.perturbations import Perturbation, Sound, UnfitSongError
from modeling_apex.statistics.score_changes import summarize_changes

ORIGINAL = "original"  # the song's own file
NUM_DRAWS = 1000


def name_variant(song: str, variant: str) -> str:
    """Name what is scored: a song, and what was done to it."""
    return f"{song}: {variant}"


def get_song(name: str) -> str:
    """Return the song of a name that [`name_variant`] gave; no variant has a colon in its name."""
    return name.rpartition(": ")[0]


def read_sound(song: str, limits: AudioLimits) -> Sound:
    """
    Decode a song as scoring does, but keep two channels apart.

    Args:
        song (`str`): A file.
        limits ([`AudioLimits`]): What is refused.

    Returns:
        [`Sound`]: With two channels where their mean is to the last bit what scoring hears, else with that mean.

    Raises:
        `AudioError`, `OSError`: As [`open_audio`].
    """
    with decoding_apex.open_audio(song, limits=limits) as stream:
        rate, num_channels = stream.sampling_rate, stream.num_channels
        mono = np.concatenate(list(stream.blocks))
    if num_channels == 2:
        channels = _read_channels(song, limits)
        if channels is not None and channels.shape == (len(mono), 2) and np.array_equal(channels.mean(axis=1), mono):
            return Sound(channels, rate)
    return Sound(mono[:, None], rate)


def _read_channels(song: str, limits: AudioLimits) -> NDArray[np.float32] | None:
    """Decode the plain way; `None` where a file needs more than that."""
    with ExitStack() as resources:
        handle: Any = resources.enter_context(open(os.path.expanduser(song), "rb"))
        try:
            decoded = decode_with_soundfile(handle, limits, resources)
            if decoded is None and decoding_apex.decode_container is not None:
                handle.seek(0)
                head = handle.read(512)
                handle.seek(0)
                decoded = decoding_apex.decode_container(song, handle, head, limits, resources)
            return None if decoded is None else np.concatenate(list(decoded.blocks)).astype(np.float32, copy=False)
        except (AudioError, ValueError):  # damage, or blocks that differ in their channels
            return None


def iterate_variants(
    song: str, names: Sequence[str], perturbations: Sequence[Perturbation], limits: AudioLimits, unscored: deque[Any]
) -> Iterator[dict[str, Any]]:
    """
    Yield a song and what becomes of it, one after the other, as a scorer takes them.

    Args:
        song (`str`): A file.
        names (`Sequence[str]`): What is wanted: `original`, and names of perturbations.
        perturbations (`Sequence[Perturbation]`): What the names stand for.
        limits ([`AudioLimits`]): What is refused.
        unscored (`deque`): Gets a report with `error` or `unfit` for what cannot be made.
    """
    try:
        sound = read_sound(song, limits)
    except SONG_ERRORS as error:
        unscored += [{"song": name_variant(song, name), "error": str(error)} for name in names]
        return
    if ORIGINAL in names:
        yield {"id": name_variant(song, ORIGINAL), "audio": song}
    for perturbation in perturbations:
        if perturbation.name not in names:
            continue
        name = name_variant(song, perturbation.name)
        try:
            yield {"id": name, "audio": perturbation.apply(sound)}
        except UnfitSongError as error:
            unscored.append({"song": name, "unfit": str(error)})
        except SONG_ERRORS as error:
            unscored.append({"song": name, "error": f"{name}: {error}"})


def score_variants(
    scorer: SongScorer,
    wanted: Mapping[str, Sequence[str]],
    perturbations: Sequence[Perturbation],
    limits: AudioLimits,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """
    Score songs and what becomes of them.

    Args:
        scorer ([`SongScorer`]): Holds the model.
        wanted (`dict[str, Sequence[str]]`): By song, what is to be scored: `original`, and names of perturbations.
        perturbations (`Sequence[Perturbation]`): What the names stand for.
        limits ([`AudioLimits`]): What is refused.
        **options: Options of [`SongScorer.score`].

    Returns:
        `Iterator[dict]`: One report each, in about the order of `wanted`: `song`, as [`name_variant`] names it, and
        `scores`, or `error`, or `unfit` with the reason why the song has no such variant.
    """
    unscored: deque[dict[str, Any]] = deque()
    inputs = (
        variant
        for song, names in wanted.items()
        for variant in iterate_variants(song, names, perturbations, limits, unscored)
    )
    # The songs are held to the limits as they are decoded; what is made of them may be longer or larger.
    rate = max(48_000, limits.max_sampling_rate)
    unlimited = dataclasses.replace(
        limits, max_seconds=math.inf, max_bytes=2**62, max_samples_per_byte=math.inf, max_sampling_rate=rate
    )
    reports = scorer.score(
        inputs, on_error="report", return_percentiles=False, read_ahead=True, limits=unlimited, **options
    )
    for report in reports:
        yield {name: report[name] for name in ("song", "error" if "error" in report else "scores")}
        while unscored:
            yield unscored.popleft()
    yield from unscored


def build_results(
    reports: Sequence[Mapping[str, Any]],
    songs: Sequence[str],
    perturbations: Sequence[Perturbation],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Compare the scores of perturbed songs with those of the songs.

    Args:
        reports (`Sequence[dict]`), songs (`Sequence[str]`), perturbations (`Sequence[Perturbation]`):
            From [`score_variants`]; the songs, and what was done to them.
        num_draws (`int`, defaults to 1000), seed (`int`, defaults to 0): Of the bootstrap over songs.

    Returns:
        `dict`: `num_songs`, `num_failed_songs`, `num_draws`, `seed`, `scores` (mean and standard deviation over the
        songs as they are) and `perturbations`. Survives JSON.

    Raises:
        `ValueError`: If fewer than two songs could be scored as they are.
    """
    found = {report["song"]: report for report in reports}
    scored = [song for song in songs if "scores" in found[name_variant(song, ORIGINAL)]]
    if len(scored) < 2:
        raise ValueError(
            f"{len(scored)} of {len(songs)} songs could be scored, but at least two are needed to compare changes "
            "with the differences between songs. Pass more songs."
        )
    before = {song: found[name_variant(song, ORIGINAL)]["scores"] for song in scored}
    names = list(before[scored[0]])
    columns = {name: np.array([before[song][name] for song in scored]) for name in names}
    return {
        "num_songs": len(scored),
        "num_failed_songs": len(songs) - len(scored),
        "num_draws": num_draws,
        "seed": seed,
        "scores": {
            name: {"mean": float(column.mean()), "standard_deviation": float(column.std(ddof=1))}
            for name, column in columns.items()
        },
        "perturbations": [
            _compare_variant(perturbation, before, found, num_draws=num_draws, seed=seed)
            for perturbation in perturbations
        ],
    }


def _compare_variant(
    perturbation: Perturbation,
    before: Mapping[str, Mapping[str, float]],
    found: Mapping[str, Mapping[str, Any]],
    **options: int,
) -> dict[str, Any]:
    after = {song: found[name_variant(song, perturbation.name)] for song in before}
    songs = [song for song, report in after.items() if "scores" in report]
    changes = {}
    for name in next(iter(before.values())) if songs else ():
        old, new = (np.array([scores[song][name] for song in songs]) for scores in (before, _get_scores(after)))
        changes[name] = summarize_changes(old, new, **options)
        changes[name]["largest_song"] = os.path.basename(songs[changes[name].pop("largest_index")])
    return {
        **perturbation.to_json(),
        "num_songs": len(songs),
        "unfit": dict(Counter(report["unfit"] for report in after.values() if "unfit" in report)),
        "num_failed_songs": sum("error" in report for report in after.values()),
        "changes": changes,
    }


def _get_scores(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, float]]:
    return {song: report["scores"] for song, report in reports.items() if "scores" in report}
