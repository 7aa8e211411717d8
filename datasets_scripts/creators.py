"""
Who made a song: a cell that names one or several people comes in, their names leave, one by one.

Sources name several artists as a list, as text that was a list once (`['A', 'B']`), or in a credit line: `A, B`,
`A; B`, `A feat. B`, `A & B`, `A and B`, `A x B`. All of these are taken apart, also where they are the name of one act
(`Earth, Wind & Fire`): such a name is taken apart in the same way wherever it stands, so its songs still share their
names, while an act that is not taken apart would let an artist's songs lie in two splits.
"""

import re
from collections.abc import Mapping
from typing import Any

from modeling_apex.storage.cell_values import read_text

_GUESTS = re.compile(r"[(\[]\s*(?:feat|ft|featuring|with|w/)\b\.?\s*([^)\]]*)[)\]]", re.IGNORECASE)
_SEPARATORS = re.compile(
    r"\s*[;|]\s*|\s*,(?!\d)\s*|\s+(?:[/&+×]|x)\s+|\s+(?:feat|ft|featuring|with|vs|and)\b\.?\s+", re.IGNORECASE
)
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'(?=\s*[,\]\s])|\"((?:[^\"\\]|\\.)*)\"(?=\s*[,\]\s])")
# Nobody in particular: songs that share these share nothing.
_NOBODY = {"various artists", "various", "unknown artist"}


def split_creators(value: Any) -> list[str]:
    """
    Take a cell apart into names.

    Args:
        value (`Any`):
            A name, a list of names, a list of objects with `id` or `name`, or text that names several people.

    Returns:
        `list[str]`: each name once, in order; none where nobody is known.
    """
    names = (
        name.strip(" '\"") for item in _list_items(value) for name in _SEPARATORS.split(_GUESTS.sub(r"; \1", item))
    )
    return list(dict.fromkeys(name for name in names if name and name.casefold() not in _NOBODY))


def _list_items(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [item for entry in value for item in _list_items(entry)]
    if isinstance(value, Mapping):  # the web API's artist objects
        value = read_text(value.get("id")) or value.get("name")
    text = (read_text(value) or "").strip()
    if text.startswith("[") and text.endswith("]"):
        quoted = [first or second for first, second in _QUOTED.findall(text)]
        return [item.replace("\\", "") for item in quoted] or [text[1:-1]]
    return [text] if text else []
