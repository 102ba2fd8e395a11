"""Masking of secrets in texts that may be shown: one function for each kind of field."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

MASK = "***"

_USER_INFO = re.compile(r"(?<=//)[^/?#]*@|^[^/?#]*@(?=[^/?#])")
_SECRET_NAME = re.compile(r"pass|secret|token|credential|api.?key|private", re.IGNORECASE)


@attrs.frozen
class Masked:
    """Marks a field that contains secrets, in its annotation; ``mask`` returns the value that may be shown."""

    mask: Callable[[Any], Any]


def mask_text(value: object) -> object:
    """The whole value, unless it is empty."""
    return MASK if value else value


def mask_values(value: object) -> object:
    """The values of a mapping, not its keys."""
    return {key: mask_text(item) for key, item in value.items()} if isinstance(value, Mapping) else mask_text(value)


def mask_environment(value: object) -> object:
    """The right sides of ``NAME=value`` items."""
    if not isinstance(value, list | tuple):
        return mask_text(value)
    return tuple(
        f"{item.partition('=')[0]}={MASK}" if isinstance(item, str) and "=" in item else MASK for item in value
    )


def mask_url(value: object) -> object:
    """User info and query of a URL; an abstract socket (``@name``) and a path are not changed.

    >>> mask_url("https://me:pw@host/path?key=1")
    'https://***@host/path?***'
    """
    if not isinstance(value, str):
        return value
    text = _USER_INFO.sub(f"{MASK}@", value, count=1)
    head, mark, query = text.partition("?")
    return f"{head}?{MASK}" if mark and query else text


def mask_urls(value: object) -> object:
    """:func:`mask_url` of each item."""
    return tuple(mask_url(item) for item in value) if isinstance(value, list | tuple) else mask_url(value)


def mask_options(value: object) -> object:
    """Options with names such as ``password`` or ``token``, and user info in URLs, at any depth."""
    if isinstance(value, Mapping):
        return {
            key: mask_text(item) if isinstance(key, str) and _SECRET_NAME.search(key) else mask_options(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_options(item) for item in value]
    return mask_url(value) if isinstance(value, str) and "://" in value else value
