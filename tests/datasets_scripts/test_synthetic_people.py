"""Simulated people: plays and likes follow appeal, votes follow differences, raters agree on average."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from datasets_scripts.synthetic import FACTOR_NAMES, Factors, compute_appeal, compute_battle_ceiling
from datasets_scripts.synthetic.engagement import (
    AUDIENCES,
    LIKE_WEIGHTS,
    PLAY_WEIGHTS,
    Audience,
    compute_expected_likes,
    compute_noise_ceilings,
    draw_engagement,
    draw_preference,
)
from datasets_scripts.synthetic.factors import draw_independent_factors, draw_ratings
from datasets_scripts.synthetic.random_streams import build_generator


@pytest.fixture(scope="module")
def songs():
    """1,500 songs with independent factors on one platform, as rows of a truth file."""
    generator, audience, rows = build_generator(0, "people"), AUDIENCES["synthwave-a"], []
    for _ in range(1500):
        factors = draw_independent_factors(generator)
        plays, likes = draw_engagement(generator, factors, audience)
        rows.append(
            {
                "platform": "synthwave-a",
                **factors.to_dict(),
                "play_appeal": compute_appeal(factors),
                "like_appeal": compute_expected_likes(factors, audience),
                "play_count": plays,
                "like_count": likes,
            }
        )
    return rows


def test_appeal_is_standardised_and_grows_with_every_factor(songs):
    appeals = np.array([song["play_appeal"] for song in songs])
    assert abs(appeals.mean()) < 0.1
    assert appeals.std() == pytest.approx(1.0, abs=0.06)
    assert compute_appeal(Factors(0.5, 0.5, 0.5, 0.5, 0.5)) == 0.0
    for name in FACTOR_NAMES:
        values = dict.fromkeys(FACTOR_NAMES, 0.5) | {name: 0.6}
        assert compute_appeal(Factors(**values)) > 0
    assert sum(PLAY_WEIGHTS.values()) == pytest.approx(1)
    assert sum(LIKE_WEIGHTS.values()) == pytest.approx(1)


def test_counts_are_heavy_tailed_with_some_zeros_and_likes_within_plays(songs):
    plays = np.array([song["play_count"] for song in songs])
    likes = np.array([song["like_count"] for song in songs])
    assert np.mean(plays) > 2 * np.median(plays)
    assert 0.01 < np.mean(plays == 0) < 0.08
    assert np.all(likes <= plays)


def test_chance_leaves_room_for_a_good_model_and_for_doubt(songs):
    ceilings = compute_noise_ceilings(songs)
    assert 0.65 < ceilings["score_streams"] < 0.9
    assert 0.65 < ceilings["score_likes"] < 0.95


def test_ceilings_are_spearman_per_platform_without_unplayed_songs():
    rows = [
        {"platform": platform, "play_appeal": a, "like_appeal": a, "play_count": a * scale, "like_count": 4 - a}
        for platform, scale in (("x", 1), ("y", 1000))
        for a in (1, 2, 3)
    ]
    rows.append({"platform": "x", "play_appeal": 9, "like_appeal": 9, "play_count": 0, "like_count": 0})
    assert compute_noise_ceilings(rows) == {"score_streams": pytest.approx(1.0), "score_likes": pytest.approx(-1.0)}
    assert compute_noise_ceilings([]) == {}


def test_unplayed_songs_can_be_turned_off():
    audience, factors = Audience(median_plays=500.0, zero_share=1.0), Factors(0.5, 0.5, 0.5, 0.5, 0.5)
    assert draw_engagement(build_generator(0, "x"), factors, audience) == (0, 0)
    assert draw_engagement(build_generator(0, "x"), factors, audience, has_zero_plays=False)[0] > 0


def test_votes_follow_appeal_and_prefer_the_second_side():
    generator = build_generator(0, "votes")
    even = [draw_preference(generator, 0.5, 0.5) for _ in range(4000)]
    better = [draw_preference(generator, 1.5, -0.5) for _ in range(1000)]
    bad = [draw_preference(generator, -2.0, -2.0) for _ in range(1000)]
    assert set(even) == {"A", "B", "TIE", "BOTH_BAD"}
    assert even.count("B") / (even.count("A") + even.count("B")) == pytest.approx(1 / (1 + np.exp(-0.14)), abs=0.03)
    assert better.count("A") / (better.count("A") + better.count("B")) == pytest.approx(
        1 / (1 + np.exp(-1.8 + 0.14)), abs=0.04
    )
    assert better.count("TIE") < even.count("TIE") / 4
    assert bad.count("BOTH_BAD") > 4 * better.count("BOTH_BAD")


def test_battle_ceiling_counts_decisive_battles_only():
    battles = [
        {"appeal_a": 0, "appeal_b": 1, "preference": "B"},
        {"appeal_a": 0, "appeal_b": 1, "preference": "A"},
        {"appeal_a": 1, "appeal_b": 0, "preference": "A"},
        {"appeal_a": 0, "appeal_b": 1, "preference": "TIE"},
    ]
    assert compute_battle_ceiling(battles) == {
        "pairwise_accuracy": pytest.approx(2 / 3),
        "num_decisive_battles": 3.0,
    }
    assert compute_battle_ceiling(battles[3:]) == {}


def test_raters_disagree_alone_and_agree_together():
    generator = build_generator(0, "raters")
    factors = [draw_independent_factors(generator) for _ in range(150)]
    ratings = [draw_ratings(generator, song, 16) for song in factors]
    assert {len(song) for song in ratings} == {16}
    values = np.array([[list(rating.values()) for rating in song] for song in ratings])
    assert values.min() >= 1
    assert values.max() <= 5
    assert 0.3 < values.std(axis=1).mean() < 1.0
    truth = [song.clarity for song in factors]
    column = FACTOR_NAMES.index("clarity")
    alone = float(spearmanr(truth, values[:, 0, column])[0])
    together = float(spearmanr(truth, values[..., column].mean(1))[0])
    assert alone < together
    assert together > 0.95
    rows = [
        {**song.to_dict(), **{f"{name}_rating": row.mean(0)[i] for i, name in enumerate(FACTOR_NAMES)}}
        for song, row in zip(factors, values, strict=True)
    ]
    assert compute_noise_ceilings(rows)["clarity"] == pytest.approx(together)
