"""Unions whose members are different kinds of JSON value, such as ``Item | list[Item] | datetime``."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import types
import uuid
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence, Set as AbstractSet
from typing import Any, Literal, Union, get_args, get_origin, is_typeddict

import attrs
from cattrs import Converter

_NULL = type(None)
_BY_CLASS: dict[Any, type] = {
    **dict.fromkeys((dict, Mapping, MutableMapping), dict),
    **dict.fromkeys((list, tuple, set, frozenset, Sequence, MutableSequence, AbstractSet), list),
    **dict.fromkeys((str, bytes, datetime.datetime, datetime.date, datetime.time, decimal.Decimal, uuid.UUID), str),
    int: int,
    float: float,
    bool: bool,
    _NULL: _NULL,
}
_NATIVE = frozenset({str, int, float, bool, _NULL})


def _kinds(member: Any) -> frozenset[type]:
    """The types of the parsed JSON that a member of a union takes; none if they are not known."""
    origin = get_origin(member) or member
    if origin is Literal:
        return frozenset(type(value) for value in get_args(member) if not isinstance(value, enum.Enum))
    if not isinstance(origin, type):
        return frozenset()
    if issubclass(origin, enum.Enum):
        return frozenset(type(each.value) for each in origin)
    if attrs.has(origin) or dataclasses.is_dataclass(origin) or is_typeddict(member):
        return frozenset({dict})
    found = _BY_CLASS.get(origin)
    return frozenset() if found is None else frozenset({found})


def _groups(target: Any) -> dict[frozenset[type], list[Any]] | None:
    """The members by kinds of JSON value; None for a type that is left to cattrs."""
    if get_origin(target) not in {Union, types.UnionType}:
        return None
    found: dict[frozenset[type], list[Any]] = {}
    for member in get_args(target):
        found.setdefault(_kinds(member), []).append(member)
    seen: set[type] = set()
    for kinds, members in found.items():
        if not kinds or kinds & seen or (len(members) > 1 and kinds != {dict}):
            return None
        seen |= kinds
    if len(found.keys() - {frozenset({_NULL})}) < 2:
        return None  # classes alone, or one type and None
    return found


def is_mixed_union(target: Any) -> bool:
    """Whether each JSON value says by its kind which members it can be, and cattrs has no rule for the union."""
    groups = _groups(target)
    return groups is not None and any(member not in _NATIVE for group in groups.values() for member in group)


def mixed_union_factory(target: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """A hook that picks the member by the kind of the JSON value."""
    hooks: dict[type, tuple[Callable[[Any, Any], Any], Any]] = {}
    for kinds, members in (_groups(target) or {}).items():
        member = members[0] if len(members) == 1 else Union[tuple(members)]  # noqa: UP007 - of a list
        hooks.update(dict.fromkeys(kinds, (converter.get_structure_hook(member), member)))
    if float in hooks:
        hooks.setdefault(int, hooks[float])
    names = ", ".join(sorted(kind.__name__ for kind in hooks if kind is not _NULL))

    def structure(value: Any, _: Any) -> Any:
        found = hooks.get(type(value))
        if found is None:
            raise TypeError(f"a JSON {type(value).__name__} is none of {names}")
        return found[0](value, found[1])

    return structure
