"""Kinds of errors in metrics, spans and log lines: few, stable words to count, alert and group by."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from goplugins import errors
from goplugins.errors import PluginError

CAUSED_BY_CALLER = frozenset({"rejected", "argument", "interrupted"})
"""The plugin answered no, the caller made a mistake, or the host interrupted the call."""


def kind_of_error(error: BaseException | None) -> str:
    """The kind of error that ended a call.

    Returns:
        "ok" for none; :attr:`goplugins.PluginError.kind` of a plugin error: "auth", "timeout", "tls", "connection",
        "refused" (by a policy on this side, never sent), "rejected" (the plugin answered no), "reply" (the reply is
        not valid), "argument" (the caller's mistake) or "plugin" (any other failure); "interrupted" for an exception
        that the host raised in the call.
    """
    if isinstance(error, PluginError):
        return error.kind
    if error is None:
        return "ok"
    return "timeout" if isinstance(error, TimeoutError) else "interrupted"


def code_of_error(error: BaseException) -> str:
    """The code of a plugin error; of any other exception the class name (``SystemExit.code`` may be anything)."""
    return error.code if isinstance(error, PluginError) else type(error).__name__


def kind_of_code(code: str) -> str:
    """The kind for a code as in :attr:`goplugins.PluginMetrics.errors`."""
    found = _kinds_by_code().get(code)
    if found is None:  # an application's own error, or a class name
        return "plugin" if code.isupper() else "interrupted"
    return found


def is_failure(code: str) -> bool:
    """Whether an error with this code is a failure of the plugin or of its policies, and not caused by the caller.

    >>> is_failure("PLUGIN_1205"), is_failure("PLUGIN_1203")
    (True, False)
    """
    return kind_of_code(code) not in CAUSED_BY_CALLER


@functools.cache
def _kinds_by_code() -> Mapping[str, str]:
    classes = (getattr(errors, name) for name in errors.__all__)
    # A subclass without a code of its own is counted under the code, and the kind, of its base.
    return {cls.code: cls.kind for cls in classes if "code" in vars(cls)}
