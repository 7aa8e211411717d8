"""
Kinds of errors: the reasons of songs that failed come in, how many there are of each kind leaves, for the last line of
a long run. A reason is told by the words that this program gives it, which stand in files of scores as well.
"""

import re
from collections import Counter
from collections.abc import Iterable

OTHER = "unreadable audio"
# The first one that fits counts; what fits none is about the sound itself.
ERROR_KINDS = {
    "missing file": "^No such audio file: |there is no such song in the store|the server answered (404|410) ",
    "no path in the table": "expected the path or the URI of a song",
    "address refused": "is not a public address|only http and https URLs are read|points to this machine|sets its own "
    "host|is a protocol that nothing here reads|is incomplete: expected|has a : in the name of its|a # begins",
    "missing package": "av is needed|needs a package that is not installed|also decodes M4A",
    "network": "the download (failed|takes longer)|cannot be fetched|fetching it takes longer|the server (answered|"
    "sends)|the store ends the song|changed while it was fetched|the proxy .* cannot be used",
    "decoder died": "the decoder of this .* file (died|returned nothing)|the process (that scored it )?died",
    "too large": "but the limit is ",
    "too short": r"Pass a longer song\.",
    "not accessible": r"^\[Errno|cannot be (opened|read) \(|is a folder, not a song|not a regular file",
    "model": "yields? NaN or infinity|are not finite",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in ERROR_KINDS.items()}


def find_error_kind(error: str) -> str:
    """Tell the kind of the reason why a song was not scored."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.search(error)), OTHER)


def count_error_kinds(errors: Iterable[str | None]) -> dict[str, int]:
    """Count the kinds of what went wrong, the most frequent first; songs that did not fail have no reason."""
    return dict(Counter(find_error_kind(error) for error in errors if error).most_common())
