"""How the fields of a class are written in JSON, where it differs from the class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import attrs

from goplugins.errors import InvalidArgumentError

__all__ = ["JSONFields", "fields_in_json", "json_fields"]

T = TypeVar("T")
_ATTRIBUTE = "__json_fields__"


@attrs.frozen
class JSONFields:
    """What :func:`json_fields` says of a class.

    Attributes:
        names: names in JSON by names of fields, where they differ.
        omit_none: fields that are left out where they are None.
    """

    names: Mapping[str, str]
    omit_none: frozenset[str]


def json_fields(
    names: Mapping[str, str] | None = None, *, omit_none: bool | Collection[str] = False
) -> Callable[[type[T]], type[T]]:
    """A decorator for attrs classes and dataclasses whose fields have other names in JSON, or can be left out.

    It stands above the decorator that makes the class, and applies to its subclasses, too.

    Args:
        names: names in JSON by names of fields: for those that Python does not admit, such as ``class`` or ``@type``.
        omit_none: fields that are left out of the JSON where they are None, which is otherwise null; True for all
            whose default is None.

    Raises:
        InvalidArgumentError: the class has no such field, two of the same name in JSON, or another default than None
            for one that is left out.

    >>> @json_fields({"type_": "@type"}, omit_none=True)
    ... @attrs.frozen
    ... class Item:
    ...     type_: str
    ...     note: str | None = None
    >>> from goplugins.transports.json_codec import JSONCodec
    >>> JSONCodec(Item, Item).encode(Item("book"))
    b'{"@type":"book"}'
    """

    def mark(cls: type[T]) -> type[T]:
        known = _defaults(cls)
        base = fields_in_json(cls)
        merged = {**(base.names if base else {}), **(names or {})}
        omitted = (
            {name for name, default in known.items() if default is None} if omit_none is True else {*(omit_none or ())}
        )
        unknown = [name for name in (*merged, *omitted) if name not in known]
        if unknown:
            raise InvalidArgumentError(
                f"json_fields: {cls.__qualname__} has no field {unknown[0]!r}, only {', '.join(known) or 'none'}"
            )
        other = [name for name in omitted if known[name] is not None]
        if other:
            raise InvalidArgumentError(
                f"json_fields: {other[0]} of {cls.__qualname__} has not the default None, which a left out field gets"
            )
        written = [merged.get(name, name) for name in known]
        twice = [name for name in written if written.count(name) > 1]
        if twice:
            raise InvalidArgumentError(f"json_fields: two fields of {cls.__qualname__} are {twice[0]!r} in JSON")
        setattr(cls, _ATTRIBUTE, JSONFields(merged, frozenset(omitted | (base.omit_none if base else set()))))
        return cls

    return mark


def fields_in_json(cls: Any) -> JSONFields | None:
    """What :func:`json_fields` said of a class or its bases; None for nothing."""
    found = getattr(cls, _ATTRIBUTE, None)
    return found if isinstance(found, JSONFields) else None


def _defaults(cls: type) -> dict[str, Any]:
    """The fields of a class with their defaults."""
    if attrs.has(cls):
        return {field.name: field.default for field in attrs.fields(cls)}
    if dataclasses.is_dataclass(cls):
        return {field.name: field.default for field in dataclasses.fields(cls)}
    raise InvalidArgumentError(
        f"json_fields: {cls.__qualname__} is neither an attrs class nor a dataclass: write @json_fields above the "
        "decorator that makes it one"
    )
