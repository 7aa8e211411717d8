"""Tables of the reports and cards that lie on disk."""

from collections.abc import Sequence


def build_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Build a Markdown table; a bar in a cell is escaped."""
    lines = [list(header), ["---"] * len(header), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
