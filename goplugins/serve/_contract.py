"""What a served function takes, returns and raises."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from goplugins.errors import InvalidArgumentError
from goplugins.models.reply import Reply

_MAX_RETRY_AFTER = 86_400.0

UNSET: Any = object()
"""Default of a type argument. None won't do: it is the type of functions that return nothing."""


# --- exceptions ----------------------------------------------------------------------------------------------------


class Rejected(Exception):  # noqa: N818 - a decision about the request, not a failure of the plugin
    """The plugin understood the request and rejects it: a business error, which the caller gets with this text.

    Args:
        message: for the caller; sent as it is, so no secrets.
        code: an error code of the plugin's own; sent as ``error_code`` in the metadata.
        metadata: further facts for the caller.

    >>> Rejected("wrong password", code="AUTH_FAILED").metadata
    {'error_code': 'AUTH_FAILED'}
    """

    def __init__(self, message: str, *, code: str = "", metadata: Mapping[str, str] | None = None) -> None:
        # Never empty: an empty error in the reply means success.
        self.message = str(message) or code or "rejected"
        super().__init__(self.message)
        self.code = code
        self.metadata = {str(name): str(value) for name, value in (metadata or {}).items()}
        if code:
            self.metadata["error_code"] = code


class Unavailable(Exception):  # noqa: N818 - a temporary state, not a failure of the plugin
    """The plugin can't execute the request now and has done nothing: the caller may retry, as its policy allows.

    Args:
        message: for the caller; sent as it is, so no secrets.
        retry_after: seconds after which a retry makes sense, a day at most. Given, it makes a retry safe for any call.

    Raises:
        InvalidArgumentError: ``retry_after`` is no finite number of 0 or more.
    """

    def __init__(self, message: str = "unavailable", *, retry_after: float | None = None) -> None:
        if retry_after is not None:
            if not isinstance(retry_after, int | float) or not 0 <= retry_after < math.inf:
                raise InvalidArgumentError(f"retry_after: expected finite seconds of 0 or more, got {retry_after!r}")
            retry_after = min(retry_after, _MAX_RETRY_AFTER)
        self.message = str(message) or "unavailable"
        super().__init__(self.message)
        self.retry_after = retry_after


# --- types ---------------------------------------------------------------------------------------------------------


def types_of(function: Callable[..., Any], where: str, request: Any = UNSET, response: Any = UNSET) -> tuple[Any, Any]:
    """The types of requests and responses: those given, else the annotations.

    Raises:
        InvalidArgumentError: a type is neither given nor annotated, or an annotation can't be resolved.

    >>> def count(request: str) -> Reply[int] | int: ...
    >>> types_of(count, "plugin 'count'")
    (<class 'str'>, <class 'int'>)
    """
    hints: Mapping[str, Any] = {}
    if request is UNSET or response is UNSET:
        hints = _hints(function, where)
    first = next(iter(inspect.signature(function).parameters))
    if request is UNSET:
        request = hints.get(first, UNSET)
    if response is UNSET:
        response = hints.get("return", UNSET)
    if request is UNSET:
        raise InvalidArgumentError(
            f"{where}: its parameter {first!r} has no type, so requests would not be checked; annotate it, "
            f"such as {first}: YourType ({first}: Any accepts all JSON), or pass request= to the decorator"
        )
    if response is UNSET:
        raise InvalidArgumentError(
            f"{where}: its return value has no type; annotate it, such as -> YourType (-> Any allows all "
            "JSON), or pass response= to the decorator"
        )
    return request, _value_type(response, where)


def _hints(function: Callable[..., Any], where: str) -> Mapping[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(function if inspect.isroutine(function) else type(function).__call__)
    except NameError as exc:
        raise InvalidArgumentError(
            f"{where}: an annotation names a type that is not defined in its module at run time: {exc}"
        ) from exc


def _value_type(response: Any, where: str) -> Any:
    """The type of the value in a response: its own type, or that within ``Reply[...]``."""
    if response is Reply:
        raise InvalidArgumentError(f"{where}: Reply alone has no value type; write Reply[YourType]")
    origin = typing.get_origin(response)
    if origin is Reply:
        return typing.get_args(response)[0]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_value_type(member, where) for member in typing.get_args(response))]  # noqa: UP007
    return response
