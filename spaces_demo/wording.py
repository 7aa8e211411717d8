"""
The words of the page: what each score is called, what it means in a sentence, and how numbers are written.

What comes in are names and numbers of reports; what leaves is text for people, not yet escaped for HTML. A head that
is not known here still gets a readable title, so that a new score needs no new code.
"""

from collections.abc import Sequence
from typing import Any

SCORE_WORDS: dict[str, tuple[str, str]] = {
    "score_streams": ("Plays", "How much it is likely to be played."),
    "score_likes": ("Likes", "How much it is likely to be liked."),
    "coherence": ("Coherence", "Does the whole song hold together?"),
    "musicality": ("Musicality", "Do melody, harmony and rhythm work as music?"),
    "memorability": ("Memorability", "Would you know it again tomorrow?"),
    "clarity": ("Clarity", "Are its parts, such as verse and chorus, clearly built?"),
    "naturalness": ("Naturalness", "Does the voice breathe and phrase as a singer would?"),
}
"""Title and meaning of each score: SongEval's five questions to its raters, and popularity, in everyday words."""
GROUP_WORDS = {"popularity": "Popularity", "aesthetics": "Quality"}
"""Titles of groups of scores."""


def format_title(name: str) -> str:
    """Return the title of a score: `Plays` for `score_streams`, `New head` for an unknown `new_head`."""
    return SCORE_WORDS[name][0] if name in SCORE_WORDS else name.replace("_", " ").capitalize()


def format_meaning(name: str) -> str:
    """Return the sentence that says what a score means; empty for an unknown score."""
    return SCORE_WORDS[name][1] if name in SCORE_WORDS else ""


def format_group(name: str) -> str:
    """Return the title of a group of scores: `Quality` for `aesthetics`."""
    return GROUP_WORDS.get(name) or format_title(name)


def format_list(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def format_number(score: float, maximum: float) -> str:
    """Return a score with as many digits as its range can bear: one for 0 to 100, two for 1 to 5."""
    return f"{score:.1f}" if maximum > 10 else f"{score:.2f}"


def format_chance(probability: float) -> str:
    """Return a probability as a percentage, `63 %`, that never claims to be certain."""
    if probability > 0.99:
        return "over 99 %"
    return "under 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def format_time(seconds: float) -> str:
    """Return a position in a song, `2:24` for 144 s."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def format_length(seconds: float) -> str:
    """Return a length in words: `10 minutes`, `45 seconds`, `1 minute 30 seconds`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    parts = []
    if minutes:
        parts.append(f"{minutes:g} minute{'' if minutes == 1 else 's'}")
    if rest or not minutes:
        parts.append(f"{rest:g} second{'' if rest == 1 else 's'}")
    return " ".join(parts)


def format_count(number: int, noun: str) -> str:
    """Return a count with its noun: `1 song`, `3 songs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_model(model: dict[str, Any]) -> str:
    """Return the name of a report's model, with the commit of a Hub model."""
    revision = model.get("revision")
    return f"{model['id']} at {revision[:8]}" if revision else str(model["id"])
