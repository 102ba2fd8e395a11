"""Validation of header names and values, the same for every transport."""

from __future__ import annotations

import re
from collections.abc import Mapping

from goplugins.errors import InvalidHeaderError

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2: a token

CONNECTION_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade"}
)
"""Headers, in lower case, of the framing and of the connection: another value would desynchronise both sides."""

CONNECTION_PREFIX = "proxy-"
"""Further headers of the connection begin like this."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def check_headers(headers: Mapping[str, str], where: str = "headers") -> None:
    """Checks header names and values: strings without line breaks and control characters.

    Raises:
        InvalidHeaderError: one is not valid; the message has its name but not its value, which may be a secret.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidHeaderError(f"{where}: {name!r} is not a valid header name")
        if not isinstance(value, str):
            raise InvalidHeaderError(f"{where}[{name!r}]: expected a string, got {type(value).__name__}")
        if _CONTROL.search(value):
            raise InvalidHeaderError(f"{where}[{name!r}]: the value contains a line break or a control character")


def is_of_connection(name: str) -> bool:
    """Whether a header belongs to the connection, and to no caller.

    >>> is_of_connection("Proxy-Authorization"), is_of_connection("Authorization")
    (True, False)
    """
    lower = name.lower()
    return lower in CONNECTION_HEADERS or lower.startswith(CONNECTION_PREFIX)


def check_latin_1(headers: Mapping[str, str], where: str = "headers") -> None:
    """Checks that values can be written in the encoding of HTTP's headers.

    Raises:
        InvalidHeaderError: one has other characters.
    """
    for name, value in headers.items():
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise InvalidHeaderError(f"{where}[{name!r}]: the value has characters outside Latin-1") from None
