"""Tables of the reports and cards that lie on disk."""

from collections.abc import Sequence


def build_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Build a Markdown table; a bar in a cell is escaped, and a line break becomes a space."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
