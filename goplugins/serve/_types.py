"""What a function takes and returns, by its annotations or by what the decorator was told."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from goplugins.errors import InvalidArgumentError
from goplugins.models.reply import Reply

__all__ = ["UNSAID", "types_of"]

UNSAID: Any = object()
"""Not None: that is a type, of functions that return nothing."""


def types_of(function: Callable[..., Any], name: str, request: Any = UNSAID, response: Any = UNSAID) -> tuple[Any, Any]:
    """The types of requests and answers; those that are given win.

    Raises:
        InvalidArgumentError: neither was given nor annotated, or an annotation can't be read.

    >>> def count(request: str) -> Reply[int] | int: ...
    >>> types_of(count, "count")
    (<class 'str'>, <class 'int'>)
    """
    hints: Mapping[str, Any] = {}
    if request is UNSAID or response is UNSAID:
        hints = _hints(function, name)
    first = next(iter(inspect.signature(function).parameters))
    if request is UNSAID:
        request = hints.get(first, UNSAID)
    if response is UNSAID:
        response = hints.get("return", UNSAID)
    if request is UNSAID:
        raise InvalidArgumentError(
            f"plugin {name!r}: its parameter {first!r} has no type, so nothing would check what callers send; annotate "
            f"it, such as {first}: YourType ({first}: Any takes all JSON), or pass request= to @serve.plugin"
        )
    if response is UNSAID:
        raise InvalidArgumentError(
            f"plugin {name!r}: it does not say what it returns; annotate it, such as -> YourType (-> Any gives all "
            "JSON), or pass response= to @serve.plugin"
        )
    return request, _value_type(response, name)


def _hints(function: Callable[..., Any], name: str) -> Mapping[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(function if inspect.isroutine(function) else type(function).__call__)
    except NameError as exc:
        raise InvalidArgumentError(
            f"plugin {name!r}: an annotation names a type that its module can't see when it runs: {exc}"
        ) from exc


def _value_type(response: Any, name: str) -> Any:
    """What travels of a response: its own type, or that within ``Reply[...]``."""
    if response is Reply:
        raise InvalidArgumentError(f"plugin {name!r}: Reply alone does not say what it returns; write Reply[YourType]")
    origin = typing.get_origin(response)
    if origin is Reply:
        return typing.get_args(response)[0]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_value_type(member, name) for member in typing.get_args(response))]  # noqa: UP007
    return response
