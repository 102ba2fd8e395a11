"""Requests and answers that stay in this process, held to the same types as over a wire.

An instance of the declared type passes as it is. Any other value goes through JSON, as to another process: it becomes
an instance, or the error that a wire would give.
"""

from __future__ import annotations

import functools
import json
import types
from collections.abc import Callable, Collection, Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from goplugins.errors import PluginError, ReplyTypeError, UnserializableRequestError

Check = Callable[[Any], bool]
"""Whether a value is an instance of one type."""

PROMOTED: dict[type, tuple[type, ...]] = {float: (float, int), bytes: (bytes, bytearray, memoryview)}
"""Classes whose instances count as those of another one."""


class TypedValues:
    """Admits the values of one pair of types.

    Args:
        request_type: of requests.
        response_type: of answers.
        write: writes any value as JSON, or raises an UnserializableRequestError.
        write_request: the same for a request, which it may refuse.
        read_request: turns parsed JSON into a request, or raises what ``explain`` turns into a text.
        read_answer: turns parsed JSON into an answer, or raises a ReplyTypeError.
        explain: the text of an exception of ``read_request``.
    """

    __slots__ = (
        "_explain",
        "_is_answer",
        "_is_request",
        "_read_answer",
        "_read_request",
        "_write",
        "_write_request",
    )

    def __init__(
        self,
        request_type: Any,
        response_type: Any,
        *,
        write: Callable[[Any], bytes],
        write_request: Callable[[Any], bytes],
        read_request: Callable[[Any], Any],
        read_answer: Callable[[Any], Any],
        explain: Callable[[Exception, Any], str],
    ) -> None:
        self._is_request = check_for(request_type)
        self._is_answer = check_for(response_type)
        self._write = write
        self._write_request = write_request
        self._read_request = read_request
        self._read_answer = read_answer
        self._explain = explain

    def admit_request(self, request: Any) -> Any:
        """The request itself, or what a plugin behind a wire would get.

        Raises:
            UnserializableRequestError: it does not fit the type.
        """
        if self._is_request(request):
            return request
        data = json.loads(self._write_request(request))
        try:
            return self._read_request(data)
        except Exception as exc:
            if isinstance(exc, PluginError):
                raise
            raise UnserializableRequestError(f"the request does not fit: {self._explain(exc, data)}") from exc

    def admit_answer(self, answer: Any) -> Any:
        """The answer itself, or what a caller over a wire would get.

        Raises:
            ReplyTypeError: it does not fit the type.
        """
        if self._is_answer(answer):
            return answer
        try:
            text = self._write(answer)
        except UnserializableRequestError as exc:
            message = f"the answer does not fit: a {type(answer).__name__}, which can't be written as JSON"
            raise ReplyTypeError(message) from exc
        return self._read_answer(json.loads(text))


def class_of(kind: Any) -> type | None:
    """The class of a type, for ``type(value) is``: None where every value passes, of no instance where it has none."""
    if kind is Any or kind is object:
        return None
    return kind if isinstance(kind, type) else _NoInstances


class _NoInstances:
    """Stands for a type that is no class: each value is checked in full."""


def check_for(kind: Any) -> Check:
    """A function that says whether a value is an instance of a type, elements of containers included.

    Fields of classes are not checked: an instance passes as it is. What can't be checked passes, such as a protocol.

    >>> check_for(list[int])([1, 2]), check_for(list[int])(["1"]), check_for(int | None)(None)
    (True, False, True)
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated or isinstance(kind, NewType):
        return check_for(arguments[0] if arguments else kind.__supertype__)
    if origin is Union or origin is types.UnionType:
        checks = [check_for(each) for each in arguments]
        return lambda value: any(check(value) for check in checks)
    if origin is Literal:
        return lambda value: any(value == each and type(value) is type(each) for each in arguments)
    if is_typeddict(kind):
        return _check_of_table(kind)
    cls = types.NoneType if kind is None else origin or kind
    if kind is Any or not isinstance(cls, type) or getattr(cls, "_is_protocol", False):  # or a type variable
        return lambda value: True
    return _check_of_class(cls, arguments)


def _check_of_table(kind: Any) -> Check:
    required = kind.__required_keys__

    @functools.cache  # made with the first value: the type may contain itself
    def checks() -> dict[str, Check]:
        return {name: check_for(hint) for name, hint in get_type_hints(kind).items()}

    return lambda value: (
        isinstance(value, dict)
        and required <= value.keys()
        and all(check(value[name]) for name, check in checks().items() if name in value)
    )


def _check_of_class(cls: type, arguments: tuple[Any, ...]) -> Check:
    accepted = PROMOTED.get(cls, (cls,))
    holds: Check | None = None
    if arguments and issubclass(cls, Mapping):
        holds = _check_of_items(check_for(arguments[0]), check_for(arguments[-1]))
    elif arguments and issubclass(cls, tuple) and arguments[-1] is not Ellipsis:
        holds = _check_of_places([check_for(each) for each in arguments])
    elif arguments and issubclass(cls, Collection):
        holds = _check_of_elements(check_for(arguments[0]))
    if holds is None:
        return lambda value: isinstance(value, accepted)
    return lambda value: isinstance(value, accepted) and holds(value)


def _check_of_items(is_key: Check, is_value: Check) -> Check:
    return lambda table: all(is_key(key) and is_value(value) for key, value in table.items())


def _check_of_places(checks: list[Check]) -> Check:
    return lambda values: (
        len(values) == len(checks) and all(check(value) for check, value in zip(checks, values, strict=True))
    )


def _check_of_elements(is_element: Check) -> Check:
    return lambda values: not isinstance(values, str | bytes) and all(is_element(value) for value in values)
