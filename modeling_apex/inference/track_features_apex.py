"""
The structured features of a track: names, kinds, meaning, and which give the answer away; and what they predict.

Plain data and two pure functions, standard library only: builders name their columns by it, training finds its
features in it, and a model's config encodes a song's features with it. The names are those of Spotify's tables.

A feature *leaks* when it is computed from the track's success: a play count is the outcome itself, and an artist's
popularity is an average over the popularity of the artist's tracks, this one included. A model that is to judge a song
before it is published cannot have them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

FEATURE_KINDS = ("numeric", "categorical")
# `log1p` for counts, which spread over orders of magnitude.
TRANSFORMS = ("identity", "log1p")
# How a categorical value is stored in a row of numbers; a missing value of either kind is NaN.
UNSEEN_CATEGORY = -1.0


def _describe(
    name: str, meaning: str, *, kind: str = "numeric", transform: str = "identity", leaks: bool = False
) -> Any:
    return {"name": name, "kind": kind, "transform": transform, "is_leaking": leaks, "meaning": meaning}


TRACK_FEATURES: tuple[dict[str, Any], ...] = (
    _describe("genre", "genre, as the table names it", kind="categorical"),
    _describe("album_type", "album, single or compilation", kind="categorical"),
    _describe("release_year", "year of the release"),
    _describe("release_month", "month of the release, 1 to 12"),
    _describe("num_markets", "countries in which the track can be heard", transform="log1p"),
    _describe("explicit", "1 when the lyrics are marked as explicit"),
    _describe("duration", "length of the track, in seconds", transform="log1p"),
    _describe("danceability", "how well one can dance to it, 0 to 1"),
    _describe("energy", "intensity, 0 to 1"),
    _describe("valence", "how positive it sounds, 0 to 1"),
    _describe("speechiness", "share of spoken words, 0 to 1"),
    _describe("acousticness", "confidence that it is acoustic, 0 to 1"),
    _describe("instrumentalness", "confidence that nobody sings, 0 to 1"),
    _describe("liveness", "confidence that an audience is there, 0 to 1"),
    _describe("loudness", "mean loudness, in decibels"),
    _describe("tempo", "beats per minute"),
    _describe("mode", "1 for major, 0 for minor"),
    _describe("key", "pitch class of the key, 0 to 11", kind="categorical"),
    _describe("time_signature", "beats of a bar", kind="categorical"),
    _describe(
        "artist_popularity", "popularity of the artist, 0 to 100, computed from the artist's tracks", leaks=True
    ),
    _describe("artist_followers", "people who follow the artist", transform="log1p", leaks=True),
    _describe("play_count", "plays of the track", transform="log1p", leaks=True),
    _describe("like_count", "likes of the track", transform="log1p", leaks=True),
)
CATEGORICAL_NAMES = tuple(feature["name"] for feature in TRACK_FEATURES if feature["kind"] == "categorical")
LEAKING_NAMES = tuple(feature["name"] for feature in TRACK_FEATURES if feature["is_leaking"])

# The outputs of the spectrogram-fusion model (after arXiv 2505.07280): popularity as the table states it, which is no
# percentile, and the probability that it reaches the threshold of a hit.
FUSION_HEADS: tuple[dict[str, Any], ...] = (
    {"name": "popularity", "minimum": 0.0, "maximum": 100.0, "group": "popularity", "scale": "rating"},
    {"name": "hit_probability", "minimum": 0.0, "maximum": 1.0, "group": "hit", "scale": "probability"},
)


def is_missing(value: Any) -> bool:
    """Tell whether a value says that nothing is known: `None`, NaN or empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def encode_features(values: Mapping[str, Any], features: Sequence[Mapping[str, Any]]) -> list[float]:
    """
    Turn the named features of one song into a row of numbers.

    Args:
        values (`dict`):
            Values by feature name; a name that is absent, `None`, NaN or empty text is missing.
        features (`Sequence[dict]`):
            `config.features` of a model: what there is, and in which order.

    Returns:
        `list[float]` of length `num_features`: numeric values in their own units, the index of categorical ones
        (`UNSEEN_CATEGORY` for one that training never saw), NaN for what is missing.

    Raises:
        `TypeError`: If the values are not a mapping, or one of them has the wrong kind.
        `ValueError`: If a name is unknown, or a number is infinite or below the range of its transform.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"track features are a dict from name to value, got {type(values).__name__}.")
    names = [feature["name"] for feature in features]
    unknown = [str(name) for name in values if name not in names]
    if unknown:
        raise ValueError(
            f"unknown track features {', '.join(unknown)}; this model knows {', '.join(names) or 'none'}. Leave the "
            "others out."
        )
    return [_encode(values.get(feature["name"]), feature) for feature in features]


def _encode(value: Any, feature: Mapping[str, Any]) -> float:
    if is_missing(value):
        return math.nan
    name = feature["name"]
    if feature["kind"] == "categorical":
        text = _name_category(value)
        return float(feature["categories"].index(text)) if text in feature["categories"] else UNSEEN_CATEGORY
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise TypeError(f"the track feature `{name}` is {value!r}, expected a number.")
    if math.isinf(number) or (feature["transform"] == "log1p" and number < 0):
        raise ValueError(f"the track feature `{name}` is {value!r}, expected a finite number that its unit allows.")
    return number


def _name_category(value: Any) -> str:
    """Write a category as text; a whole number has no decimals, so that 4 and 4.0 are one category."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)
