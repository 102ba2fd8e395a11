"""Reading, writing, merging and comparing configuration classes by their fields."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs

from goplugins.config.masking import Masked

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

_SCALARS = frozenset({int, float, bool, str, type(None)})


class Unset(enum.Enum):
    """The type of :data:`UNSET`."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Value of a field that is left out, where None is a value."""


@attrs.frozen
class Field:
    """One field: name, annotation without ``| None``, default, and how its secrets are masked."""

    name: str
    kind: Any
    default: Any
    masked: Masked | None

    @property
    def section(self) -> type[Any] | None:
        """The configuration class of the field's value, if it is one."""
        return self.kind if isinstance(self.kind, type) and attrs.has(self.kind) else None

    @property
    def table(self) -> type[Any] | None:
        """The configuration class of the values, if the field is a table of them."""
        kind = get_args(self.kind)[1] if get_origin(self.kind) is Mapping else None
        return kind if isinstance(kind, type) and attrs.has(kind) else None

    @property
    def item(self) -> Any:
        """The annotation of the items, if the field is a list."""
        kind = getattr(self.kind, "__origin__", self.kind) if hasattr(self.kind, "__metadata__") else self.kind
        return get_args(kind)[0] if get_origin(kind) is tuple else None


_fields: dict[type[Any], tuple[Field, ...]] = {}


def fields_of(cls: type[Any]) -> tuple[Field, ...]:
    """The fields of a configuration class, in order."""
    found = _fields.get(cls)
    if found is None:
        hints = get_type_hints(cls, include_extras=True)
        found = _fields[cls] = tuple(_field(attribute, hints[attribute.name]) for attribute in attrs.fields(cls))
    return found


def _field(attribute: attrs.Attribute[Any], hint: Any) -> Field:
    kind = hint
    if get_origin(hint) in {Union, types.UnionType}:
        kept = [part for part in get_args(hint) if part not in {type(None), Unset}]
        kind = kept[0] if len(kept) == 1 else hint
    default = attribute.default
    if default is not None and hasattr(default, "factory"):
        default = default.factory()
    masked = next((extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Masked)), None)
    return Field(attribute.name, kind, default, masked)


def as_mapping(instance: Any) -> dict[str, Any]:
    """The fields of an instance that are not left out, one level deep."""
    values = ((field, getattr(instance, field.name)) for field in fields_of(type(instance)))
    return {
        field.name: value
        for field, value in values
        if value is not UNSET and (value is not None or field.default is not None)
    }


def as_mappings(value: Any) -> Any:
    """Plain containers with mappings in place of configuration classes, at any depth; other objects stay."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, Section):
        value = as_mapping(value)
    if isinstance(value, Mapping):
        return {key: as_mappings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_mappings(item) for item in value]
    return value


def as_tuple(value: Iterable[T]) -> tuple[T, ...]:
    """A tuple of an iterable; a string or any other object stays, for ``validate`` to report."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return cast("tuple[T, ...]", value)
    return tuple(value)


def as_texts(value: Iterable[str]) -> tuple[str, ...]:
    """:func:`as_tuple` for strings."""
    return as_tuple(value)


# Two functions instead of one with a type variable, which mypy can't infer in an attrs converter.
def as_table(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy of a mapping; any other object stays, for ``validate`` to report."""
    return dict(value) if type(value) is dict or isinstance(value, Mapping) else value


def as_text_table(value: Mapping[str, str]) -> Mapping[str, str]:
    """:func:`as_table` for strings."""
    return as_table(value)


def as_member(kind: type[E], value: E | str | int | None) -> E | None:
    """The member of an enum with this value; any other object stays, for ``validate`` to report."""
    try:
        return None if value is None else kind(value)
    except ValueError:
        return cast(E, value)


def merge(section: T | None, base: T) -> T:
    """``section`` with the values of ``base`` for fields that are None; ``base`` if there is no section."""
    if section is None:
        return base
    values: dict[str, Any] = {}
    gap = False
    for field in fields_of(type(section)):
        value = getattr(section, field.name)
        if value is None:
            gap = True
            value = getattr(base, field.name)
        values[field.name] = value
    # Three times as fast as attrs.evolve(); this runs five times for every plugin.
    return type(section)(**values) if gap else section


def same_value(old: Any, new: Any) -> bool:
    """Whether two values are equal and of the same type, at any depth: 1 is neither True nor 1.0.

    >>> same_value({"a": [1]}, {"a": (1,)}), same_value({"a": 1}, {"a": True})
    (True, False)
    """
    if old is new:
        return True
    if attrs.has(type(old)) and type(old) is type(new):
        return all(same_value(getattr(old, field.name), getattr(new, field.name)) for field in fields_of(type(old)))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(same_value(value, new[key]) for key, value in old.items())
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(same_value, old, new))
    if isinstance(old, str) and isinstance(new, str):
        return str(old) == str(new)
    return type(old) is type(new) and bool(old == new)


def shown(instance: Any, *, secrets: bool = False) -> dict[str, Any]:
    """The instance as plain values, without fields that are left out; secrets are masked unless ``secrets``."""
    result: dict[str, Any] = {}
    for field in fields_of(type(instance)):
        value = getattr(instance, field.name)
        if value is UNSET or (value == field.default and (value is None or value in ("", (), {}))):
            continue
        if field.masked is not None and not secrets:
            value = field.masked.mask(value)
        result[field.name] = plain(value, secrets=secrets)
    write_fields = getattr(type(instance), "_write_fields", None)  # the counterpart of _read_fields
    return result if write_fields is None else cast("dict[str, Any]", write_fields(result))


def plain(value: Any, *, secrets: bool = False) -> Any:
    """A field's value as plain values; secrets in it are masked unless ``secrets``."""
    if attrs.has(type(value)):
        return shown(value, secrets=secrets)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(item, secrets=secrets) for item in value]
    if isinstance(value, dict):
        return {key: plain(item, secrets=secrets) for key, item in value.items()}
    return value


class Section:
    """Base of the configuration classes. ``repr`` has the fields that differ from their defaults, secrets masked."""

    __slots__ = ()

    def __repr__(self) -> str:
        parts = []
        for field in fields_of(type(self)):
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name}={(field.masked.mask(value) if field.masked else value)!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    if not TYPE_CHECKING:  # type checkers would accept any name

        def __getattr__(self, name: str) -> Any:
            """The default of a field that an earlier release, which pickled this value, did not have."""
            for field in fields_of(type(self)):
                if field.name == name:
                    return field.default
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
