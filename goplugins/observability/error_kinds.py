"""Kinds of errors: few, stable words to count, alert and group by."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from goplugins import errors
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    BulkheadFullError,
    CircuitBreakerOpenError,
    InvalidArgumentError,
    NoAvailablePluginsError,
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginExecutionError,
    PluginRequestError,
    RateLimitExceededError,
    SaturatedError,
    TLSError,
)

__all__ = ["code_of_error", "kind_of_code", "kind_of_error"]

_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("auth", (AuthenticationError,)),
    ("timeout", (TimeoutError,)),
    ("tls", (TLSError,)),
    ("connection", (PluginConnectionError,)),
    (
        "refused",
        (
            CircuitBreakerOpenError,
            RateLimitExceededError,
            BulkheadFullError,
            SaturatedError,
            PluginClosedError,
            NoAvailablePluginsError,
        ),
    ),
    ("rejected", (PluginExecutionError, PluginRequestError)),
    ("reply", (BadReplyError,)),
    ("argument", (InvalidArgumentError,)),
    ("plugin", (PluginError,)),
)
"""A class is of the first kind whose classes it belongs to."""


def kind_of_error(error: BaseException | None) -> str:
    """What kind of error ended a call.

    Returns:
        "ok" for none; "auth", "timeout", "tls", "connection"; "refused" for what was refused here and never sent;
        "rejected" for a plugin that said no; "reply" for a broken answer; "argument" for the caller's own mistake;
        "plugin" for every other failure of the plugin; "interrupted" for what the host threw into the call.
    """
    cls: Any = type(error)
    return "ok" if error is None else _kind_of_class(cls)


def code_of_error(error: BaseException) -> str:
    """Its code; of what is none of ours the class's name. A ``SystemExit`` has a code, too, which may be anything."""
    return error.code if isinstance(error, PluginError) else type(error).__name__


def kind_of_code(code: str) -> str:
    """The same of an error's code, as in :attr:`goplugins.PluginMetrics.errors`."""
    found = _kinds_of_codes().get(code)
    if found is None:  # an application's own error, or the name of a class
        return "plugin" if code.isupper() else "interrupted"
    return found


@functools.cache
def _kind_of_class(cls: Any) -> str:
    return next((kind for kind, classes in _KINDS if issubclass(cls, classes)), "interrupted")


@functools.cache
def _kinds_of_codes() -> Mapping[str, str]:
    classes: list[Any] = [getattr(errors, name) for name in errors.__all__]
    # A subclass without a code of its own counts as its base does.
    own = [cls for cls in classes if "code" in vars(cls)]
    return {cls.code: _kind_of_class(cls) for cls in own}
