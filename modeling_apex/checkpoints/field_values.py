"""
Checks of single values of a config: whole numbers, lists of them, numbers, choices, texts.

Each takes the name of a field and a value, and returns what the config keeps, or says what is wrong. A value is shown
cut short: it may be as long as its file. No torch and no transformers.
"""

import math
from collections.abc import Sequence
from typing import Any

MAX_WIDTHS = 64
MAX_TEXT = 10_000


def check_int(
    name: str, value: Any, minimum: int | None = None, maximum: int = 2**53, is_optional: bool = False
) -> Any:
    if value is None and is_optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer, got {value!r:.80}.")
    if minimum is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")
    if abs(value) > maximum:
        raise ValueError(f"`{name}` must be at most {maximum}, got a larger number.")
    return value


def check_ints(name: str, values: Any, minimum: int | None = None, maximum: int = 2**53) -> list[int]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"`{name}` must be a list of integers, got {values!r:.80}.")
    if not values:
        raise ValueError(f"`{name}` is empty; it needs at least one entry.")
    if len(values) > MAX_WIDTHS:
        raise ValueError(f"`{name}` has {len(values)} entries, but at most {MAX_WIDTHS} are accepted.")
    return [check_int(name, value, minimum, maximum) for value in values]


def check_float(
    name: str,
    value: Any,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    is_optional: bool = False,
) -> Any:
    if value is None and is_optional:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number, got {value!r:.80}.")
    if abs(value) > 1e300 or not math.isfinite(value):  # the first also spares the second an integer beyond floats
        raise ValueError(f"`{name}` must be finite and of a plausible size, got {value!r:.40}.")
    if minimum is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")
    if above is not None and value <= above:
        raise ValueError(f"`{name}` must be above {above}, got {value}.")
    if below is not None and value >= below:
        raise ValueError(f"`{name}` must be below {below}, got {value}.")
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r:.80}.")
    return str(value)


def check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be true or false, got {value!r:.80}.")
    return value


def check_text(name: str, value: Any, is_optional: bool = False) -> Any:
    if value is None and is_optional:
        return None
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string, got {value!r:.80}.")
    if len(value) > MAX_TEXT or not value.replace("\n", "").isprintable():
        raise ValueError(f"`{name}` must be at most {MAX_TEXT:,} characters without control codes, got {value!r:.80}.")
    return value
