"""
Values of table cells: text, numbers or nulls of any source come in, typed values leave, or an error with the place.

Cells that say nothing (see `cell_values`) become `None`. A cell that is filled but makes no sense, or is outside
what its unit allows, is an error, never a guess; the message names the field, and the location where the cell stands.
"""

from datetime import UTC, date, datetime
from typing import Any

from modeling_apex.storage.cell_values import check_duration, is_unknown, parse_number
from modeling_apex.storage.table_reader import TableError

TRUE_WORDS = ("true", "yes", "1")
FALSE_WORDS = ("false", "no", "0")
# What a column of whole numbers can hold.
MAX_COUNT = 2**63 - 1
EARLIEST_YEAR, LATEST_YEAR = 1000, 2200


def read_number(
    value: Any, field: str, location: str, *, minimum: float | None = None, maximum: float | None = None
) -> float | int | None:
    """
    Read a number, which may stand in text.

    Raises:
        `TableError`: If it is no finite number, or outside of `minimum` to `maximum`.
    """
    if is_unknown(value):
        return None
    number, shown = parse_number(value), repr(value)[:80]
    if number is None:
        hint = " with a point for decimals and nothing between thousands" if "," in shown else ""
        raise TableError(f"{location}: {field} is {shown}, expected a number{hint}.")
    below, above = minimum is not None and number < minimum, maximum is not None and number > maximum
    if below or above:
        wanted = f"from {minimum:g} to {maximum:g}" if maximum is not None else f"of at least {minimum:g}"
        hint = " Is it in percent?" if above and maximum == 1 else ""
        raise TableError(f"{location}: {field} is {shown}, expected a number {wanted}.{hint}")
    return number


def read_count(value: Any, field: str, location: str) -> int | None:
    """
    Read a count of plays or likes, which may stand in text.

    Raises:
        `TableError`: If it is no whole number, a negative one, or larger than any column can hold.
    """
    number = read_number(value, field, location)
    if number is None:
        return None
    if number < 0 or number != int(number):
        raise TableError(f"{location}: {field} is {value!r}, expected a whole number that is not negative.")
    if number > MAX_COUNT:
        raise TableError(f"{location}: {field} is {repr(value)[:80]}, expected a count of at most {MAX_COUNT}.")
    return int(number)


def read_duration(value: Any, field: str, location: str, *, is_in_milliseconds: bool = False) -> float | None:
    """
    Read a duration and return it in seconds.

    Raises:
        `TableError`: If it is no number, negative, or so long or short that it seems to be in another unit.
    """
    number = read_number(value, field, location)
    if number is None:
        return None
    if not is_in_milliseconds:
        return check_duration(number, field, location)
    if 0 < number < 1000:
        raise TableError(
            f"{location}: {field} is {number:g} milliseconds, less than a second. Is it in seconds? Then name the "
            "column with --column duration_seconds=NAME."
        )
    return check_duration(number / 1000, field, location)


def read_time(value: Any, field: str, location: str) -> datetime | None:
    """
    Read a moment from ISO 8601 text or a `datetime`; without a time zone it is taken as UTC.

    Raises:
        `TableError`: If it is no moment, or none of the years 1000 to 2200.
    """
    if is_unknown(value):
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
    if not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        raise TableError(
            f"{location}: {field} is {value!r}, expected a year from {EARLIEST_YEAR} to {LATEST_YEAR}. Leave the cell "
            "empty where the time is not known."
        )
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_flag(value: Any, field: str, location: str) -> bool | None:
    """
    Read a yes or no from a bool or from text such as `"true"` or `"no"`.

    Raises:
        `TableError`: If it is neither.
    """
    if isinstance(value, bool):
        return value
    if is_unknown(value):
        return None
    word = str(value).strip().casefold().removesuffix(".0")
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise TableError(
        f"{location}: {field} is {value!r}, expected one of {', '.join((*TRUE_WORDS, *FALSE_WORDS))} or nothing."
    )
