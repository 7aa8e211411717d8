"""
What a song's place is called wherever people and programs read it: a URL without what opens it.

A URL can hold a password before the host, and a token or a signature in its query; reports, tables, terminals and logs
are passed on. What comes in is a URL, or a text that may have some in it; what leaves names the same place.
"""

import logging
import re
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
# A password may hold a slash that nobody wrote as %2F; a port is a number.
_USER = re.compile(r"^([a-z][a-z0-9+.-]*:/*)(?:[^/?#]*|[^/?#:]*:(?!\d*/)[^?#]*)@", re.IGNORECASE)
# Names of parameters that sign a request or say who sends it: the clouds', the content networks', and common ones.
_SECRET_NAME = re.compile(
    r"tok|sig|key|auth|pass|pwd|pw$|secret|cred|sess|jwt|code|policy|hmac|hash|md5|sha\d*$|ticket|sas|bearer|otp|pin$|"
    r"nonce|hdn|access|login|user|mail|^x-(amz|goog|oss|cos)|^(e|h|s|t|se|sp|sr|sv|st|sk\w*|expires?|exp)$",
    re.IGNORECASE,
)
# A value that was drawn and not chosen: long, with letters and digits in no order. An identifier (UUID) is none.
_DRAWN = re.compile(r"(?=[^&]*\d)(?=[^&]*[A-Za-z])[\w.~%+/=-]{24,}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def name_source(source: str) -> str:
    """
    Name the place of a song without user, password, fragment and secrets of the query; a path stays as it is.

    Args:
        source (`str`):
            A URL or a path.

    Returns:
        `str`: the name; hidden values of a query stand as `***`.
    """
    if _URL.match(source) is None:
        return source
    address, _, query = _USER.sub(r"\1", source).partition("#")[0].partition("?")
    if not query:
        return address
    return f"{address}?{'&'.join(map(_hide_value, re.split('[&;]', query)))}"


def name_song_by_place(song_id: str, place: Any) -> str:
    """Name a song by its place, or by its id where the place is not known or is no text."""
    return name_source(place) if isinstance(place, str) else song_id


def hide_secrets(text: str) -> str:
    """Name every URL in a text by [`name_source`]."""
    return _URL.sub(lambda match: name_source(match[0]), text)


def _hide_value(parameter: str) -> str:
    name, separator, value = parameter.partition("=")
    if not separator:  # a bare value, such as `?4f1c...`
        name, value = "", name
    is_drawn = _DRAWN.fullmatch(value) is not None and _UUID.fullmatch(value) is None
    is_secret = is_drawn or "://" in unquote(value) or _SECRET_NAME.search(unquote(name)) is not None
    return f"{name}{separator}{HIDDEN}" if value and is_secret else parameter


class HideSecrets(logging.Filter):
    """Hide the secrets of URLs in what a library logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = hide_secrets(record.getMessage()), ()
        return "response_headers.complete" not in record.msg  # cookies, and where a redirect leads without its host
