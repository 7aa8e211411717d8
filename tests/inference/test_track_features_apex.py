"""Track features: names, leaks, and how a song's values become a row of numbers."""

import math

import pytest

from modeling_apex.inference.track_features_apex import (
    CATEGORICAL_NAMES,
    FEATURE_KINDS,
    LEAKING_NAMES,
    TRACK_FEATURES,
    TRANSFORMS,
    UNSEEN_CATEGORY,
    encode_features,
    is_missing,
)

FEATURES = [
    {"name": "genre", "kind": "categorical", "categories": ["folk", "pop"], "is_leaking": False},
    {"name": "key", "kind": "categorical", "categories": ["0", "4"], "is_leaking": False},
    {"name": "tempo", "kind": "numeric", "transform": "identity", "mean": 0.0, "std": 1.0, "is_leaking": False},
    {"name": "play_count", "kind": "numeric", "transform": "log1p", "mean": 0.0, "std": 1.0, "is_leaking": True},
]


def test_the_contract_is_consistent() -> None:
    names = [feature["name"] for feature in TRACK_FEATURES]
    assert len(set(names)) == len(names)
    assert {feature["kind"] for feature in TRACK_FEATURES} == set(FEATURE_KINDS)
    assert {feature["transform"] for feature in TRACK_FEATURES} == set(TRANSFORMS)
    assert set(LEAKING_NAMES) == {"artist_popularity", "artist_followers", "play_count", "like_count"}
    assert {"genre", "key"} <= set(CATEGORICAL_NAMES)


def test_values_become_a_row() -> None:
    row = encode_features({"genre": "pop", "key": 4.0, "tempo": True, "play_count": 10}, FEATURES)
    assert row == [1.0, 1.0, 1.0, 10.0]


@pytest.mark.parametrize("nothing", [None, math.nan, ""])
def test_missing_values_are_nan_whether_named_or_not(nothing: object) -> None:
    assert is_missing(nothing)
    row = encode_features({"genre": nothing, "tempo": nothing}, FEATURES)
    assert all(math.isnan(value) for value in row)


def test_an_unseen_category_is_not_a_missing_one() -> None:
    assert encode_features({"genre": "polka"}, FEATURES)[0] == UNSEEN_CATEGORY


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"tmpo": 1}, ValueError, "unknown track features tmpo; this model knows genre, key, tempo, play_count"),
        (["pop"], TypeError, "track features are a dict from name to value, got list"),
        ({"tempo": "fast"}, TypeError, "`tempo` is 'fast', expected a number"),
        ({"tempo": [1, 2]}, TypeError, r"`tempo` is \[1, 2\], expected a number"),
        ({"tempo": math.inf}, ValueError, "`tempo` is inf, expected a finite number"),
        ({"play_count": -1}, ValueError, "`play_count` is -1, expected a finite number that its unit allows"),
    ],
)
def test_refusals(values: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        encode_features(values, FEATURES)  # type: ignore[arg-type]
