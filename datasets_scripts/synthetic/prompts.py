"""
What a user asks for, and the words around a song: prompt, title and lyrics. Nothing of it is sung; it fills the text
columns that real sources have, and tempo, key and singer follow from the prompt.
"""

from dataclasses import dataclass

import numpy as np

GENRES = {
    "pop": (98, 124),
    "ballad": (72, 90),
    "electronic": (118, 134),
    "rock": (104, 140),
    "lo-fi": (74, 92),
    "folk": (88, 112),
}
MOODS = ("hopeful", "wistful", "restless", "sunny", "nocturnal", "tender", "defiant", "dreamy")
THINGS = ("a train", "a letter", "a lighthouse", "a promise", "an orchard", "a photograph", "a radio", "a bridge")
PLACES = ("by the sea", "under the stairs", "beyond the hills", "on the rooftop", "at the border", "in the old town")
TIMES = ("in January", "at dawn", "in the rain", "after midnight", "in late summer", "in autumn", "on a Sunday")
PEOPLE = ("with a stranger", "alone", "with my sister", "without you", "among friends", "for an old neighbour")
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


@dataclass(frozen=True)
class Prompt:
    """
    Hold what a user asks for; the songs that one prompt yields share it.

    Args:
        genre (`str`): One of `GENRES`.
        mood (`str`): One of `MOODS`.
        subject (`str`): What the song is about.
        tempo (`float`): Beats per minute.
        tonic (`int`): Pitch class of the key, 0 to 11.
        mode (`str`): `"major"` or `"minor"`.
        is_instrumental (`bool`): Whether the song has no singer.
    """

    genre: str
    mood: str
    subject: str
    tempo: float
    tonic: int
    mode: str
    is_instrumental: bool

    @property
    def text(self) -> str:
        """The prompt in words."""
        kind = f"{'instrumental ' if self.is_instrumental else ''}{self.genre} song"
        return f"A {self.mood} {kind} about {self.subject}, {self.tempo:.0f} bpm, {self.mode}"


def draw_prompt(generator: np.random.Generator, vocal_share: float = 0.7) -> Prompt:
    """Draw what a user asks for; `vocal_share` is the probability of asking for a singer."""
    genre = str(generator.choice(list(GENRES)))
    low, high = GENRES[genre]
    return Prompt(
        genre=genre,
        mood=str(generator.choice(MOODS)),
        subject=" ".join(str(generator.choice(words)) for words in (THINGS, PLACES, TIMES, PEOPLE)),
        tempo=float(generator.uniform(low, high)),
        tonic=int(generator.integers(12)),
        mode=str(generator.choice(["major", "minor"])),
        is_instrumental=bool(generator.random() >= vocal_share),
    )


def build_title(prompt: Prompt) -> str:
    """Build a title from what the prompt is about."""
    return prompt.subject.title()


def draw_lyrics(generator: np.random.Generator, prompt: Prompt) -> str:
    """Draw a verse and a chorus with marked sections, or an empty text for an instrumental song."""
    if prompt.is_instrumental:
        return ""
    verse, chorus = generator.choice(LINES, 4), generator.choice(LINES, 2)
    return "\n".join(["[Verse]", *verse, "", "[Chorus]", f"Oh, {prompt.subject}", *chorus])
