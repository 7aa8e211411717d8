"""
What `config.reference` may say: a check of all that a report reads from it.

What comes in is the value of the field, which a stranger may have written; what leaves is the same, or an error that
names what is wrong and the command that makes it anew. No torch and no transformers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

NUM_QUANTILES = 101  # 0, 1, ... 100 percent
MAX_DIRECTIONS = 1000
FIELDS = ("name", "num_songs", "num_groups", "sha256", "percentile_tables", "interval_level", "intervals", "novelty")
NOVELTY_FIELDS = ("mean", "directions", "variances", "residual_variance", "level", "threshold")


def check_reference(name: str, reference: Any, head_names: Sequence[str]) -> dict[str, Any]:
    """
    Check what a model knows of its reference set.

    Args:
        name (`str`), reference (`dict`, *optional*):
            The name of the field, and its value; empty where a model was never calibrated.
        head_names (`Sequence[str]`):
            The model's heads.

    Returns:
        `dict`: the same.

    Raises:
        `TypeError`: If it is no dict.
        `ValueError`: If a field is missing or unknown, is of other heads, or holds what no calibration makes.
    """
    if reference is not None and not isinstance(reference, Mapping):
        raise TypeError(f"`{name}` must be a dict, got {type(reference).__name__}.")
    if not reference:
        return {}
    _check_names(name, reference, FIELDS)
    if not isinstance(reference["name"], str) or type(reference["num_songs"]) is not int:
        _refuse(name, "`name` must be text and `num_songs` a whole number")
    if not _is_number(reference["interval_level"]) or not 0 < reference["interval_level"] < 1:
        _refuse(f"{name}.interval_level", "must be between 0 and 1")
    tables, widths, novelty = (reference[part] for part in ("percentile_tables", "intervals", "novelty"))
    if not all(isinstance(part, Mapping) for part in (tables, widths, novelty)):
        _refuse(name, "`percentile_tables`, `intervals` and `novelty` must be dicts")
    if set(tables) != set(head_names) or not set(widths) <= set(head_names):
        _refuse(name, f"must have a percentile table for each of the heads {', '.join(head_names)}, and no others")
    for head, table in tables.items():
        _check_numbers(f"{name}.percentile_tables[{head!r}]", table, NUM_QUANTILES)
        if list(table) != sorted(table):
            _refuse(f"{name}.percentile_tables[{head!r}]", "must not descend")
    for head, width in widths.items():
        if not _is_number(width) or width < 0:
            _refuse(f"{name}.intervals[{head!r}]", "must be a width of at least 0")
    if novelty:
        _check_novelty(f"{name}.novelty", novelty)
    return dict(reference)


def _check_novelty(name: str, novelty: Mapping[str, Any]) -> None:
    _check_names(name, novelty, NOVELTY_FIELDS)
    directions = novelty["directions"]
    if not isinstance(directions, list) or len(directions) > MAX_DIRECTIONS:
        _refuse(f"{name}.directions", f"must be a list of at most {MAX_DIRECTIONS} directions")
    _check_numbers(f"{name}.mean", novelty["mean"])
    _check_numbers(f"{name}.variances", novelty["variances"], len(directions))
    for direction in directions:
        _check_numbers(f"{name}.directions", direction, len(novelty["mean"]))
    numbers = [*novelty["variances"], *(novelty[part] for part in ("residual_variance", "level", "threshold"))]
    if not all(_is_number(number) and number > 0 for number in numbers):
        _refuse(name, "variances, `level` and `threshold` must be above 0")


def _check_names(name: str, found: Mapping[str, Any], expected: Sequence[str]) -> None:
    if set(found) != set(expected):
        _refuse(name, f"must have exactly {', '.join(expected)}, got {', '.join(map(str, found))}")


def _check_numbers(name: str, values: Any, number: int | None = None) -> None:
    if not isinstance(values, list) or not all(map(_is_number, values)) or len(values) != (number or len(values)):
        _refuse(name, f"must be a list of {'' if number is None else f'{number} '}finite numbers")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _refuse(name: str, problem: str) -> None:
    raise ValueError(f"`{name}` {problem}. Make it again: apex-music calibrate MODEL SONGS")
