"""
The scores of the published model: names, ranges, groups, scales, meaning, and the exponent of popularity.

Plain data, standard library only: the config takes its defaults from here, reports their words, and whoever builds
data or cards the names, without loading a model.
"""

import math
from typing import Any

# The 80th percentile scores 50: 100 * 0.8 ** exponent = 50 (arXiv 2605.03395, section on targets).
POPULARITY_EXPONENT = math.log(0.5) / math.log(0.8)

# What kind of number a score is, by its group where a head does not say. A "percentile" is a power of the percentile
# rank, stretched to the range of its head, so the rank can be computed from it.
GROUP_SCALES = {"popularity": "percentile", "aesthetics": "rating", "hit": "probability"}
HEAD_SCALES = ("percentile", "rating", "probability")
DEFAULT_HEADS: tuple[dict[str, Any], ...] = (
    {"name": "score_streams", "minimum": 0.0, "maximum": 100.0, "group": "popularity", "scale": "percentile"},
    {"name": "score_likes", "minimum": 0.0, "maximum": 100.0, "group": "popularity", "scale": "percentile"},
    {"name": "coherence", "minimum": 1.0, "maximum": 5.0, "group": "aesthetics", "scale": "rating"},
    {"name": "musicality", "minimum": 1.0, "maximum": 5.0, "group": "aesthetics", "scale": "rating"},
    {"name": "memorability", "minimum": 1.0, "maximum": 5.0, "group": "aesthetics", "scale": "rating"},
    {"name": "clarity", "minimum": 1.0, "maximum": 5.0, "group": "aesthetics", "scale": "rating"},
    {"name": "naturalness", "minimum": 1.0, "maximum": 5.0, "group": "aesthetics", "scale": "rating"},
)

# The outputs of the spectrogram-fusion model (after arXiv 2505.07280): popularity as the table states it, which is no
# percentile, and the probability that it reaches the threshold of a hit.
FUSION_HEADS: tuple[dict[str, Any], ...] = (
    {"name": "popularity", "minimum": 0.0, "maximum": 100.0, "group": "popularity", "scale": "rating"},
    {"name": "hit_probability", "minimum": 0.0, "maximum": 1.0, "group": "hit", "scale": "probability"},
)

# What SongEval asked its raters (arXiv 2505.10793), in a few words; popularity as in arXiv 2605.03395.
SCORE_MEANINGS = {
    "popularity": "popularity of the track",
    "hit_probability": "probability that the popularity reaches the threshold of a hit",
    "score_streams": "engagement by plays",
    "score_likes": "engagement by likes",
    "coherence": "overall coherence",
    "musicality": "overall musicality",
    "memorability": "memorability",
    "clarity": "clarity of song structure",
    "naturalness": "naturalness of vocal breathing and phrasing",
}
