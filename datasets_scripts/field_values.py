"""
Values of table cells: text, numbers or nulls of any source come in, typed values leave, or an error with the place.

Empty cells mean "not known" and become `None`. A cell that is filled but makes no sense is an error, never a guess;
the message names the field, and the location where the cell stands.
"""

import math
from datetime import UTC, date, datetime
from typing import Any

from datasets_scripts.metadata_tables import TableError
from modeling_apex.storage.output_folder import TEXT_ERRORS

TRUE_WORDS = ("true", "yes", "1")
FALSE_WORDS = ("false", "no", "0")
UNKNOWN_WORDS = ("", "null", "none", "nan")


def read_text(value: Any) -> str | None:
    """Read text; empty text and null are `None`, numbers become text, and what is no text stands as an escape."""
    return None if value is None or value == "" else str(value).encode("utf-8", TEXT_ERRORS).decode("utf-8")


def read_number(value: Any, field: str, location: str) -> float | None:
    """
    Read a number, which may stand in text.

    Raises:
        `TableError`: If it is no finite number.
    """
    if _is_empty(value):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TableError(f"{location}: {field} is {value!r}, expected a number.")
    return number


def read_count(value: Any, field: str, location: str) -> int | None:
    """
    Read a count of plays or likes, which may stand in text.

    Raises:
        `TableError`: If it is no whole number, or a negative one.
    """
    number = read_number(value, field, location)
    if number is None:
        return None
    if number < 0 or number != int(number):
        raise TableError(f"{location}: {field} is {value!r}, expected a whole number that is not negative.")
    return int(number)


def read_time(value: Any, field: str, location: str) -> datetime | None:
    """
    Read a moment from ISO 8601 text or a `datetime`; without a time zone it is taken as UTC.

    Raises:
        `TableError`: If it is no moment.
    """
    if _is_empty(value):
        return None
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError as error:
            raise TableError(
                f"{location}: {field} is {value!r}, expected a time such as 2026-01-31T12:00:00Z."
            ) from error
    elif isinstance(value, date) and not isinstance(value, datetime):
        moment = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(moment, datetime):
        raise TableError(f"{location}: {field} is {value!r}, expected a time such as 2026-01-31T12:00:00Z.")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_flag(value: Any, field: str, location: str) -> bool | None:
    """
    Read a yes or no from a bool or from text such as `"true"` or `"no"`.

    Raises:
        `TableError`: If it is neither.
    """
    if isinstance(value, bool):
        return value
    if _is_empty(value):
        return None
    word = str(value).strip().casefold()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise TableError(
        f"{location}: {field} is {value!r}, expected one of {', '.join((*TRUE_WORDS, *FALSE_WORDS))} or nothing."
    )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().casefold() in UNKNOWN_WORDS)
