"""What a refusal of a token says of itself: the challenge of RFC 6750, 3."""

from __future__ import annotations

import re

from goplugins.errors import AuthenticationError
from goplugins.runtime.text import from_outside

_PARAMETER = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.){0,1000})"|([^\s,"]+))')
_SNIPPET = 200
"""Characters of each text."""


def add_challenge(error: AuthenticationError, header: str | None) -> None:
    """Adds the reason in a WWW-Authenticate header, and the scope that the token lacks.

    >>> error = AuthenticationError("HTTP 403: refused")
    >>> add_challenge(error, 'Bearer realm="api", error="insufficient_scope", scope="orders:write"')
    >>> error.message, error.details
    ("HTTP 403: refused (insufficient_scope); the token lacks a scope: it needs 'orders:write'", \
{'scope': 'orders:write'})
    """
    rest = (header or "").partition("Bearer ")[2]
    found = {
        name.lower(): from_outside(re.sub(r"\\(.)", r"\1", quoted) or plain, _SNIPPET)
        for name, quoted, plain in _PARAMETER.findall(rest[:8192])
    }
    reason, description, scope = (found.get(name, "") for name in ("error", "error_description", "scope"))
    if reason:
        error.message += f" ({reason}: {description})" if description else f" ({reason})"
    if scope and reason == "insufficient_scope":
        error.message += f"; the token lacks a scope: it needs {scope!r}"
        error.details["scope"] = scope
