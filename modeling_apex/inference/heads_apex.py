"""
The scores of the published model: names, ranges, groups, scales, and the exponent of popularity.

Plain data, standard library only: the config takes its defaults from here, and whoever builds data or cards the names.
"""

import math
from typing import Any

# The 80th percentile scores 50: 100 * 0.8 ** exponent = 50 (arXiv 2605.03395, section on targets).
POPULARITY_EXPONENT = math.log(0.5) / math.log(0.8)

# What kind of number a score is, by its group where a head does not say. A "percentile" is a power of the percentile
# rank, stretched to the range of its head, so the rank can be computed from it.
GROUP_SCALES = {"popularity": "percentile", "aesthetics": "rating", "hit": "probability", "personal": "rating"}
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
