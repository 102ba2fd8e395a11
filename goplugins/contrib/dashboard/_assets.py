"""Files of the page, read from the package."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

import attrs

__all__ = ["Asset", "asset"]

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "details.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "feed.js": "text/javascript; charset=utf-8",
    "rows.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@attrs.frozen
class Asset:
    """A file: its bytes, its media type, and a tag that changes with it."""

    data: bytes
    type: str
    tag: str


@functools.cache
def asset(name: str) -> Asset:
    """The file of that name.

    Raises:
        KeyError: no such file.
    """
    kind = _TYPES[name]
    data = (resources.files("goplugins.contrib.dashboard") / "assets" / name).read_bytes()
    return Asset(data, kind, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
