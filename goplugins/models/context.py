"""The context of a call: what its caller states about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from goplugins.errors import InvalidArgumentError
from goplugins.headers import check_headers
from goplugins.models.new_fields import with_new_fields

__all__ = ["ExecutionContext", "trusted_context"]


def _positive(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise InvalidArgumentError(f"{attribute.name}: expected seconds greater than 0, got {value!r}")


def _count(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InvalidArgumentError(f"{attribute.name}: expected an integer of 0 or more, got {value!r}")


def check_mapping(name: str, value: Any) -> None:
    """Checks that headers or metadata are a mapping.

    Raises:
        InvalidArgumentError: they are not.
    """
    if type(value) is not dict and not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name}: expected a mapping of strings, got {type(value).__name__}")


def check_texts(name: str, value: Any) -> None:
    """Checks that metadata are a mapping of strings.

    Raises:
        InvalidArgumentError: they are not.
    """
    check_mapping(name, value)
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise InvalidArgumentError(f"{name}[{key!r}]: expected strings, got {type(text).__name__}")


def _headers(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_mapping(attribute.name, value)
    if value:
        check_headers(value, attribute.name)


def _header_value(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        check_headers({attribute.name: value}, "context")


def _texts(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    check_texts(attribute.name, value)


def _text(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{attribute.name}: expected a string, got {type(value).__name__}")


def _names_only(headers: Mapping[str, str]) -> str:
    """Headers for ``repr``: their values may be credentials."""
    return repr(dict.fromkeys(headers, "***"))


class _ContextSlots:
    """The slots of a context, writable: a frozen class sets its fields at four times the cost."""

    __slots__ = (
        "__weakref__",
        "headers",
        "idempotent",
        "key",
        "max_retries",
        "metadata",
        "operation",
        "preferences",
        "priority",
        "request_id",
        "timeout",
    )


@with_new_fields
@attrs.frozen
class ExecutionContext(_ContextSlots):
    """What a caller states about one call. None, empty and 0 defer to the plugin's configuration.

    Attributes:
        request_id: identifies the call on the wire and in logs; generated when None.
        timeout: seconds for the whole call, with all attempts and waits.
        max_retries: retries after a first failed attempt.
        headers: sent with the call, on every transport.
        metadata: sent in the envelope, for the plugin's own use.
        idempotent: True if the request may take effect twice: more kinds of failures are retried then.
        key: routes calls of a consistent-hash group, and is part of the cache key.
        priority: higher is more important, where a balancer or queue chooses.
        preferences: names of group members to prefer, best first.
        operation: the operation of a plugin that has several.

    Raises:
        InvalidArgumentError: a timeout of 0 or less, negative ``max_retries``, a header with a line break, headers or
            metadata that are not mappings of strings.
    """

    request_id: str | None = attrs.field(default=None, validator=_header_value)
    timeout: float | None = attrs.field(default=None, validator=_positive)
    max_retries: int | None = attrs.field(default=None, validator=_count)
    headers: Mapping[str, str] = attrs.field(factory=dict, validator=_headers, repr=_names_only)
    metadata: Mapping[str, str] = attrs.field(factory=dict, validator=_texts)
    idempotent: bool | None = None
    key: str = ""
    priority: int = 0
    preferences: Sequence[str] = ()
    operation: str = attrs.field(default="", validator=_text)


def trusted_context(
    request_id: str,
    timeout: float,
    headers: Mapping[str, str],
    metadata: Mapping[str, str],
    idempotent: bool,
    key: str,
    priority: int,
    preferences: Sequence[str],
    operation: str,
) -> ExecutionContext:
    """A context of values that were checked before: to check them again would cost more than the call."""
    context: Any = _ContextSlots()
    context.request_id = request_id
    context.timeout = timeout
    context.max_retries = None
    context.headers = headers
    context.metadata = metadata
    context.idempotent = idempotent
    context.key = key
    context.priority = priority
    context.preferences = preferences
    context.operation = operation
    context.__class__ = ExecutionContext
    return context  # type: ignore[no-any-return]
