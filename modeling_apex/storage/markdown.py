"""Tables and words of the reports and cards that lie on disk."""

import re
from collections.abc import Sequence
from typing import Any

# What Markdown, or the HTML inside it, gives a meaning to.
MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def escape_markdown(text: Any) -> str:
    """
    Make words from outside, such as the name of a system, stand in Markdown as they are.

    Returns:
        `str`: one line, without links, pictures, HTML and emphasis; characters that cannot be shown stand as escapes
        such as `\\x1b`.
    """
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )
    return MARKUP.sub(r"\\\1", shown)


def build_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    Build a Markdown table.

    Cells are Markdown, and words from outside have gone through `escape_markdown`. A bar in a cell is escaped, and a
    line break becomes a space.
    """
    lines = [header, ["---"] * len(header), *rows]
    cells = (
        [re.sub(r"(?<!\\)((?:\\\\)*)\|", r"\1\\|", " ".join(cell.splitlines())) for cell in line] for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
