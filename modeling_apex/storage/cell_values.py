"""
Cells of tables: values of any source come in, what they mean leaves; `None` where nothing is known.

The rule of what is unknown is stated here once and holds for every table that this package reads: an empty cell,
null, NaN, text that says one of them in the words of some program (`UNKNOWN_WORDS`), or a list of nothing else.
"""

import math
import re
from typing import Any

from modeling_apex.storage.table_reader import TableError

# Compared without regard to case and white space. What pandas, R, SQL, Spark, Excel and people write for nothing.
UNKNOWN_WORDS = frozenset(
    {"", "nan", "-nan", "null", "none", "nil", "nat", "na", "n/a", "n.a.", "<na>", "#n/a", "#na", "#n/a n/a"}
    | {"-", "--", "?", "\\n", "(null)", "(none)", "[]", "{}", "unknown", "undefined", "not available", "not known"}
)
# Longer text is something, whatever it is: told without a look at it.
MAX_WORD_LENGTH = 32
# Half a minute in milliseconds, read as seconds, is longer; the longest song of FMA is not.
MAX_DURATION_SECONDS = 6 * 3600
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# Marks that hide in text: a byte order mark, spaces of no width.
_INVISIBLE = str.maketrans("", "", "\ufeff\u200b\u200c\u200d\u2060")


def is_unknown(value: Any) -> bool:
    """Tell whether a cell says that nothing is known; 0 and `False` are known."""
    if value is None:
        return True
    if isinstance(value, str):
        text = value.strip()
        return (
            len(text) <= MAX_WORD_LENGTH and " ".join(text.translate(_INVISIBLE).split()).casefold() in UNKNOWN_WORDS
        )
    if isinstance(value, (list, tuple)):
        return all(is_unknown(item) for item in value)
    if isinstance(value, (bool, int, dict, bytes)):
        return not value and isinstance(value, (dict, bytes))
    try:
        return bool(value != value)  # NaN, NaT
    except TypeError:  # pandas.NA
        return True
    except ValueError:  # arrays
        return False


def parse_number(value: Any) -> float | int | None:
    """
    Read a number, which may stand in text; whole ones stay exact.

    Returns:
        `float`, `int`, or `None` if it is none, or not finite; a truth value is none, either.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 400 or not _NUMBER.fullmatch(text):
            return None
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return value if isinstance(value, int) else number


def read_text(value: Any) -> str | None:
    """
    Read a cell as text: `None` if it is unknown, whole numbers without decimals.

    Halves of characters that no encoding can write (`"\\ud83d"` in JSON that was cut in the middle of an emoji) become
    the replacement character.
    """
    if is_unknown(value):
        return None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def check_duration(seconds: float, field: str, location: str) -> float:
    """
    Make sure that a duration can be one in seconds; in milliseconds, a song would last for days.

    Raises:
        [`TableError`]: If it is negative, or longer than `MAX_DURATION_SECONDS`.
    """
    if seconds < 0:
        raise TableError(f"{location}: {field} is {seconds:g} seconds, expected a number that is not negative.")
    if seconds > MAX_DURATION_SECONDS:
        raise TableError(
            f"{location}: {field} is {seconds:g}, which would be {seconds / 3600:.1f} hours. Is it in milliseconds? "
            f"Durations are read in seconds; songs of more than {MAX_DURATION_SECONDS // 3600} hours are refused."
        )
    return seconds
