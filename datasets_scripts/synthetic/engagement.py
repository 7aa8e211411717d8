"""
How people answer to a song: appeal, plays, likes and votes, and how much of it a perfect listener could predict.

Appeal is a fixed weighting of the factors. Plays follow appeal, the platform and chance; likes follow plays, a second
weighting and chance. Votes follow the difference in appeal by Bradley-Terry, with a preference for the second side.
What a model could reach at best is not 1: the ceilings, computed from the same tables, say how far chance goes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets_scripts.synthetic.factors import FACTOR_NAMES, Factors

# What listeners play, and what they like once they listen. Each row sums to one.
PLAY_WEIGHTS = dict(zip(FACTOR_NAMES, (0.15, 0.25, 0.30, 0.15, 0.15), strict=True))
LIKE_WEIGHTS = dict(zip(FACTOR_NAMES, (0.20, 0.30, 0.15, 0.10, 0.25), strict=True))


@dataclass(frozen=True)
class Audience:
    """
    Describe how a platform's listeners behave.

    Args:
        median_plays (`float`): Plays of a song of middling appeal.
        reach (`float`): Growth of the logarithm of plays per standard deviation of appeal.
        chance (`float`): Standard deviation of luck, in standard deviations of appeal.
        like_rate (`float`): Likes per play of a song of middling appeal.
        zero_share (`float`): Share of songs that nobody ever finds.
    """

    median_plays: float
    reach: float = 1.2
    chance: float = 0.75
    like_rate: float = 0.12
    zero_share: float = 0.03


AUDIENCES = {
    "synthwave-a": Audience(median_plays=220.0),
    "synthwave-b": Audience(median_plays=60.0, reach=1.0, like_rate=0.2),
}
DEFAULT_AUDIENCE = Audience(median_plays=120.0)


def compute_appeal(factors: Factors, weights: Mapping[str, float] = PLAY_WEIGHTS) -> float:
    """Compute the appeal of a song; over independent, uniform factors its mean is 0 and its standard deviation 1."""
    total = sum(weights[name] * (value - 0.5) for name, value in factors.to_dict().items())
    return float(total / np.sqrt(sum(weight**2 for weight in weights.values()) / 12.0))


def draw_engagement(
    generator: np.random.Generator, factors: Factors, audience: Audience, *, has_zero_plays: bool = True
) -> tuple[int, int]:
    """
    Draw the plays and likes of a song.

    Args:
        generator (`np.random.Generator`), factors (`Factors`), audience (`Audience`):
            Source of chance, the song, and who listens.
        has_zero_plays (`bool`, defaults to `True`):
            Whether some songs are never found.

    Returns:
        `tuple[int, int]`: plays (heavy-tailed) and likes (never more than plays).
    """
    luck, taste, found = generator.standard_normal(), generator.standard_normal(), generator.random()
    log_plays = np.log(audience.median_plays) + audience.reach * (
        compute_appeal(factors) + audience.chance * float(luck)
    )
    plays = int(generator.poisson(min(np.exp(log_plays), 1e8)))
    log_rate = np.log(audience.like_rate) + 0.4 * (compute_appeal(factors, LIKE_WEIGHTS) + 0.75 * float(taste))
    likes = int(generator.binomial(plays, min(np.exp(log_rate), 0.95)))
    if has_zero_plays and found < audience.zero_share:
        return 0, 0
    return plays, likes


def compute_expected_likes(factors: Factors, audience: Audience) -> float:
    """Compute the logarithm of the likes that a song earns without luck, up to a constant of its audience."""
    return audience.reach * compute_appeal(factors) + 0.4 * compute_appeal(factors, LIKE_WEIGHTS)


def draw_preference(
    generator: np.random.Generator,
    appeal_a: float,
    appeal_b: float,
    *,
    slope: float = 0.9,
    position_bias: float = 0.14,
) -> str:
    """
    Draw the vote of a battle.

    Args:
        generator (`np.random.Generator`), appeal_a, appeal_b (`float`):
            Source of chance, and the appeal of both sides.
        slope (`float`, defaults to 0.9):
            Log odds per unit of appeal.
        position_bias (`float`, defaults to 0.14):
            Log odds that side B has for coming second.

    Returns:
        `str`: `"A"`, `"B"`, `"TIE"` or `"BOTH_BAD"`.
    """
    chance_bad, chance_tie, chance_win = generator.random(3)
    if chance_bad < 0.25 / (1.0 + np.exp(2.0 * (max(appeal_a, appeal_b) + 0.8))):
        return "BOTH_BAD"
    if chance_tie < 0.14 * np.exp(-abs(appeal_a - appeal_b)):
        return "TIE"
    return "B" if chance_win < 1.0 / (1.0 + np.exp(-slope * (appeal_b - appeal_a) - position_bias)) else "A"


def compute_noise_ceilings(songs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """
    Compute what a listener who knows the true factors reaches, as Spearman correlations.

    Args:
        songs (`Iterable[Mapping[str, Any]]`):
            Rows of a truth file. `play_count` and `like_count` with `play_appeal` and `like_appeal` give the ceilings
            of popularity, per `platform` and averaged by number of songs, songs without plays left out as the
            training filter does. `<factor>_rating` with the factor gives the ceilings of raters' means.

    Returns:
        `dict[str, float]`: `score_streams` and `score_likes`, and a factor's name for every rated factor. Empty when
        nothing can be computed.
    """
    rows = list(songs)
    ceilings: dict[str, float] = {}
    for score, truth, count in (
        ("score_streams", "play_appeal", "play_count"),
        ("score_likes", "like_appeal", "like_count"),
    ):
        played = [row for row in rows if row.get("play_count", 0) > 0]
        platforms = sorted({row["platform"] for row in played})
        groups = [[row for row in played if row["platform"] == platform] for platform in platforms]
        groups = [group for group in groups if len(group) > 2]
        if groups:
            values = [_spearman([row[truth] for row in group], [row[count] for row in group]) for group in groups]
            ceilings[score] = float(np.average(values, weights=[len(group) for group in groups]))
    for name in FACTOR_NAMES:
        rated = [row for row in rows if f"{name}_rating" in row]
        if len(rated) > 2:
            ceilings[name] = _spearman([row[name] for row in rated], [row[f"{name}_rating"] for row in rated])
    return ceilings


def compute_battle_ceiling(battles: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """
    Compute how often the side of higher true appeal wins a decisive battle.

    Args:
        battles (`Iterable[Mapping[str, Any]]`):
            Rows with `appeal_a`, `appeal_b` and `preference`.

    Returns:
        `dict[str, float]`: `pairwise_accuracy` and `num_decisive_battles`. Empty without a decisive battle.
    """
    decisive = [row for row in battles if row["preference"] in ("A", "B")]
    if not decisive:
        return {}
    right = [(row["appeal_b"] > row["appeal_a"]) == (row["preference"] == "B") for row in decisive]
    return {"pairwise_accuracy": float(np.mean(right)), "num_decisive_battles": float(len(decisive))}


def _spearman(truth: Sequence[float], observed: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(truth, observed)[0])
