"""
Numbers and tables as the text of a card.
"""

import re

from hub_card.result_files import Estimate


def format_number(value: float, digits: int | None = None) -> str:
    """
    Format a number with as many digits as a reader can use.

    Args:
        value (`float`):
            The number.
        digits (`int`, *optional*):
            Digits after the point; by default none above 100, one above 10, else two.

    Returns:
        `str`: the number, a thin negative sign never alone (`-0.00` becomes `0.00`).
    """
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def format_estimate(estimate: Estimate, digits: int | None = None) -> str:
    """Format an estimate and, where there is one, its interval: `0.52 [0.47, 0.57]`; a dash where it is undefined."""
    if estimate.value is None:
        return "–"
    value = format_number(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{format_number(estimate.low, digits)}, {format_number(estimate.high, digits)}]"


def format_bytes(num_bytes: int) -> str:
    """Format a size in the unit that suits it, powers of ten as the Hub does."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def demote_headings(text: str) -> str:
    """Move the headings of a Markdown text a level down, so that it can stand inside another."""
    return re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)
