"""Validation of header names and values, the same for every transport."""

from __future__ import annotations

import re
from collections.abc import Mapping

from goplugins.errors import InvalidHeaderError

__all__ = ["check_headers"]

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2: a token


_BREAKS_A_LINE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def check_headers(headers: Mapping[str, str], where: str = "headers") -> None:
    """Refuses header names and values that are not text or would break out of their line.

    Raises:
        InvalidHeaderError: names the header; never its value, which may be a secret.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidHeaderError(f"{where}: {name!r} is not a header name")
        if not isinstance(value, str):
            raise InvalidHeaderError(f"{where}[{name!r}]: expected a string, got {type(value).__name__}")
        if _BREAKS_A_LINE.search(value):
            raise InvalidHeaderError(f"{where}[{name!r}]: the value holds a line break or control character")
