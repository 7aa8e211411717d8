"""
The five latent aesthetic factors of a synthetic song, and the numbers that follow from them.

A factor lies in 0 to 1 and drives the rendering; its label is `1 + 4 * factor`. Factors are drawn either independently
(a test set in which no score can ride on another's) or through a shared quality, as the taste of real generators does.
Raters see the label with a bias of their own and with noise.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

FACTOR_NAMES = ("coherence", "musicality", "memorability", "clarity", "naturalness")
LABEL_MINIMUM = 1.0
LABEL_MAXIMUM = 5.0


@dataclass(frozen=True)
class Factors:
    """
    Hold the five latent factors of one song.

    Args:
        coherence (`float`): Steadiness of level, timbre, tempo and key from bar to bar, in 0 to 1.
        musicality (`float`): Tuning, consonance and notes in scale, in 0 to 1.
        memorability (`float`): A hook that stands out and comes back, in 0 to 1.
        clarity (`float`): Clarity of the song's structure: marked metre, sections and boundaries, in 0 to 1.
        naturalness (`float`): Breathing and phrasing of the voice or lead instrument, in 0 to 1.

    Raises:
        `ValueError`: If a factor lies outside 0 to 1.
    """

    coherence: float
    musicality: float
    memorability: float
    clarity: float
    naturalness: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"Factor `{name}` is {value!r}, but factors lie between 0 and 1.")

    def to_labels(self) -> dict[str, float]:
        """Return the label of every factor, between 1 and 5."""
        span = LABEL_MAXIMUM - LABEL_MINIMUM
        return {name: LABEL_MINIMUM + span * value for name, value in self.to_dict().items()}

    def to_dict(self) -> dict[str, float]:
        """Return the factors by name, in the order of `FACTOR_NAMES`."""
        return asdict(self)


def draw_independent_factors(generator: np.random.Generator) -> Factors:
    """Draw the five factors independently and uniformly."""
    return Factors(*(float(value) for value in generator.random(len(FACTOR_NAMES))))


def draw_natural_factors(
    generator: np.random.Generator, quality: float, spread: float = 0.23, offsets: Mapping[str, float] | None = None
) -> Factors:
    """
    Draw factors that hang together through the quality of a system.

    A song has a quality of its own around that of its system; each factor scatters around the song's quality.

    Args:
        generator (`np.random.Generator`), quality (`float`):
            Source of randomness, and the mean quality of the system, between 0 and 1.
        spread (`float`, defaults to 0.23):
            Standard deviation of the song's quality, and of each factor around it.
        offsets (`Mapping[str, float]`, *optional*):
            What a system is better or worse at, by factor name.

    Returns:
        `Factors`: five numbers between 0 and 1, reflected at the borders rather than heaped on them.
    """
    song_quality = quality + spread * generator.standard_normal()
    scatter = spread * generator.standard_normal(len(FACTOR_NAMES))
    shifts = np.array([(offsets or {}).get(name, 0.0) for name in FACTOR_NAMES])
    values = (song_quality + shifts + scatter) % 2.0
    values = np.where(values > 1.0, 2.0 - values, values)
    return Factors(*(float(value) for value in values))


def draw_ratings(
    generator: np.random.Generator, factors: Factors, num_raters: int = 16, noise: float = 0.6
) -> list[dict[str, float]]:
    """
    Draw what raters say about a song: the label, a rater's own leniency, and noise, rounded to half points.

    Args:
        generator (`np.random.Generator`), factors (`Factors`), num_raters (`int`, defaults to 16):
            Source of randomness, the song, and how many raters hear it.
        noise (`float`, defaults to 0.6):
            Standard deviation of one judgement, in points; a rater's leniency has half of it.

    Returns:
        `list[dict[str, float]]`: one entry per rater, five dimensions each, between 1 and 5.
    """
    labels = np.array(list(factors.to_labels().values()))
    leniency = 0.5 * noise * generator.standard_normal((num_raters, 1))
    heard = labels + leniency + noise * generator.standard_normal((num_raters, len(FACTOR_NAMES)))
    ratings = np.clip(np.round(heard * 2) / 2, LABEL_MINIMUM, LABEL_MAXIMUM)
    return [dict(zip(FACTOR_NAMES, map(float, row), strict=True)) for row in ratings]
