"""
Words for songs that are never really sung: titles and a few rhymed lines, so that text columns are not empty.
"""

import numpy as np

from datasets_scripts.synthetic.composition import Prompt

LINES = (
    "I left the light on in the hall",
    "you said the night would never fall",
    "the radio hums our favourite tune",
    "and we were young beneath the moon",
    "the road goes on, the road goes on",
    "tomorrow comes and we are gone",
    "hold the line and let it ring",
    "every silence wants to sing",
    "count the windows, count the years",
    "nobody but the river hears",
)


def build_title(prompt: Prompt) -> str:
    """Build a title from what the prompt is about."""
    return prompt.subject.title()


def draw_lyrics(generator: np.random.Generator, prompt: Prompt) -> str:
    """
    Draw lyrics with marked sections.

    Args:
        generator (`np.random.Generator`):
            Source of randomness.
        prompt (`Prompt`):
            What the song is about.

    Returns:
        `str`: a verse and a chorus, or an empty text for an instrumental song.
    """
    if prompt.is_instrumental:
        return ""
    verse, chorus = generator.choice(LINES, 4), generator.choice(LINES, 2)
    return "\n".join(["[Verse]", *verse, "", "[Chorus]", f"Oh, {prompt.subject}", *chorus])
