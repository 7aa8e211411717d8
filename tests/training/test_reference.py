"""What a model knows of a reference set: ranks that are ranks, what is novel, and what training leaves in a config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_apex import ApexModel, load_scorer
from modeling_apex.inference.novelty_apex import compute_distances, measure_novelty
from modeling_apex.inference.song_report_apex import compute_percentile, compute_training_percentile
from modeling_apex.training.reference import build_reference, fit_novelty
from modeling_apex.training.train import train

from song_folders import HEAD_NAMES, write_embeddings


def make_reference(num_songs: int = 300, width: int = 12, **options: Any) -> dict[str, Any]:
    generator = np.random.default_rng(num_songs)
    scores = generator.uniform(1, 5, (num_songs, 2)).astype(np.float32)
    return build_reference(
        scores,
        ["coherence", "clarity"],
        name="made songs",
        song_ids=[f"song-{row}" for row in range(num_songs)],
        labels=scores + generator.normal(size=scores.shape).astype(np.float32),
        embeddings=generator.normal(size=(num_songs, width)).astype(np.float32),
        **options,
    )


def test_each_tenth_of_stated_percentiles_holds_its_tenth_of_new_songs() -> None:
    """Scores that shrink towards the mean, as those of any regression: ranks do not mind, inverted targets do."""
    generator = np.random.default_rng(5)

    def draw_scores(num_songs: int) -> np.ndarray:
        rank = generator.uniform(size=num_songs)
        return 100 * (0.6 * rank**3.1 + 0.4 / 4.1)  # the mean of rank**3.1 is 1 / 4.1

    reference = build_reference(
        draw_scores(2000)[:, None].astype(np.float32), ["score_streams"], name="a", song_ids=["x"] * 2000
    )
    table, new = reference["percentile_tables"]["score_streams"], draw_scores(4000)

    def count_tenths(stated: list[float]) -> np.ndarray:
        return np.histogram(stated, np.linspace(0, 100, 11))[0] / len(new)

    spread = np.sqrt(0.1 * 0.9 * (1 / 4000 + 1 / 2000))
    assert np.abs(count_tenths([compute_training_percentile(score, table) for score in new]) - 0.1).max() < 4 * spread
    assert count_tenths([compute_percentile(score, 3.1) for score in new])[0] == 0.0


def test_reference_is_plain_and_says_of_what_it_is() -> None:
    reference = make_reference(groups=[f"artist-{row // 3}" for row in range(300)])
    assert json.loads(json.dumps(reference)) == reference
    assert (reference["num_songs"], reference["num_groups"]) == (300, 100)
    assert reference["intervals"]["coherence"] == pytest.approx(1.64, abs=0.3)
    assert len(reference["percentile_tables"]["clarity"]) == 101
    assert reference["sha256"] != make_reference(299)["sha256"]


def test_reference_needs_songs_and_finite_scores() -> None:
    with pytest.raises(ValueError, match="made songs: 19 songs are too few to compute ranks; give at least 20"):
        make_reference(19)
    with pytest.raises(ValueError, match="b: a score is NaN or infinite"):
        build_reference(np.full((20, 1), np.nan, np.float32), ["coherence"], name="b", song_ids=[""] * 20)
    small = make_reference(20)
    assert small["novelty"] == {}
    assert build_reference(np.ones((20, 1), np.float32), ["a"], name="c", song_ids=[""] * 20)["intervals"] == {}


@pytest.mark.parametrize(("num_songs", "width"), [(120, 16), (400, 64), (150, 300)])
def test_one_in_a_hundred_known_songs_is_called_novel_and_what_is_far_always(num_songs: int, width: int) -> None:
    generator = np.random.default_rng(width)
    mixing = generator.normal(size=(5, width))

    def draw(number: int) -> np.ndarray:
        return (3 * generator.normal(size=(number, 5)) @ mixing + generator.normal(size=(number, width))).astype("f4")

    known = fit_novelty(draw(num_songs))
    false_alarms = np.mean(compute_distances(draw(4000), known) > known["threshold"])
    assert false_alarms < 0.01 + 4 * np.sqrt(0.01 / num_songs)
    far = draw(200) + 4 * generator.normal(size=width)
    assert np.mean(compute_distances(far, known) > known["threshold"]) > 0.99


def test_distances_are_those_of_the_covariance_that_is_described() -> None:
    generator = np.random.default_rng(1)
    known = fit_novelty(generator.normal(size=(200, 12)).astype(np.float32) * np.arange(1, 13))
    directions, variances = np.array(known["directions"]), np.array(known["variances"])
    rest = np.eye(12) - directions.T @ directions
    covariance = directions.T @ np.diag(variances) @ directions + known["residual_variance"] * rest
    song = generator.normal(size=12)
    offset = song - np.array(known["mean"])
    expected = np.sqrt(offset @ np.linalg.solve(covariance, offset) / 12)
    assert compute_distances([song], known)[0] == pytest.approx(expected, rel=1e-3)


def test_songs_that_are_all_alike_make_no_division_by_zero() -> None:
    known = fit_novelty(np.ones((100, 4), np.float32))
    assert np.isfinite(compute_distances(np.ones((1, 4)), known)).all()
    assert compute_distances(np.zeros((1, 4)), known)[0] > known["threshold"] >= 0


def test_a_reference_of_another_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="describes embeddings of 12 numbers, but this model's have 3"):
        measure_novelty([0.0, 1.0, 2.0], make_reference())


def test_training_leaves_a_reference_of_its_validation_songs(
    tmp_path: Path, tiny_model: ApexModel, identity: dict, quick: Callable, song_file: Callable
) -> None:
    groups = {"validation": [f"artist-{song // 2}" for song in range(120)]}
    folder = write_embeddings(tmp_path / "suno", {"train": 40, "validation": 120}, identity, groups=groups)
    best = train(folder, tmp_path / "run", quick("improved"), model=tiny_model).best
    reference = ApexModel.from_pretrained(best).config.reference
    assert (reference["name"], reference["num_songs"], reference["num_groups"]) == (
        "the validation songs of suno",
        120,
        60,
    )
    assert set(reference["percentile_tables"]) == set(reference["intervals"]) == set(HEAD_NAMES)
    report = next(iter(load_scorer(best).score([str(song_file(seconds=0.25))])))
    assert report["percentile_basis"].endswith("among 120: the validation songs of suno")
    assert set(report["intervals"]) == set(HEAD_NAMES)
    assert report["novelty"]["threshold"] == reference["novelty"]["threshold"]


def test_few_validation_songs_leave_no_reference(
    tmp_path: Path, tiny_model: ApexModel, identity: dict, quick: Callable
) -> None:
    folder = write_embeddings(tmp_path / "few", {"train": 20, "validation": 19}, identity)
    best = train(folder, tmp_path / "run", quick(), model=tiny_model).best
    assert ApexModel.from_pretrained(best).config.reference == {}
