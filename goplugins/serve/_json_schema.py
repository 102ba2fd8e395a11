"""JSON Schemas (draft 2020-12) of request and response types, as the codec reads and writes them."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import typing
import uuid
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence, Set as AbstractSet
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import attrs
from cattrs.cols import is_namedtuple

from goplugins.models.json_fields import fields_in_json

Schema = dict[str, Any]

_SCALARS: Mapping[Any, Schema] = {
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    uuid.UUID: {"type": "string", "format": "uuid"},
    decimal.Decimal: {"type": "string"},
    pathlib.Path: {"type": "string"},
}
_LISTS = frozenset(
    {list, Sequence, MutableSequence, set, AbstractSet, frozenset, tuple, collections.deque}
)  # of a set, JSON may have a value twice
_TABLES = frozenset({dict, Mapping, MutableMapping, collections.OrderedDict, collections.defaultdict})
_WRAPPERS = frozenset({typing.Required, typing.NotRequired, typing.Final, typing.ClassVar})
_DEFINITIONS = "#/$defs/"


def json_schema(kind: Any) -> Schema:
    """The schema of a type that the codec accepts. A part of another kind is ``{}``, which admits everything.

    >>> json_schema(list[int] | None)
    {'anyOf': [{'type': 'array', 'items': {'type': 'integer'}}, {'type': 'null'}]}
    """
    writer = _Writer()
    schema = writer.of(kind)
    definitions = writer.definitions
    root = schema.get("$ref", "").removeprefix(_DEFINITIONS)
    if root and not _refers(definitions, root):
        schema = definitions.pop(root)
    return {**schema, "$defs": definitions} if definitions else schema


def _refers(part: Any, name: str) -> bool:
    """Whether a part of a schema refers to a definition."""
    if isinstance(part, list):
        return any(_refers(each, name) for each in part)
    if not isinstance(part, dict):
        return False
    return part.get("$ref") == _DEFINITIONS + name or any(_refers(each, name) for each in part.values())


class _Writer:
    """Writes one schema; classes with fields become definitions, so that they may contain themselves."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._names: dict[Any, str] = {}

    def of(self, kind: Any, variables: Mapping[Any, Any] = types.MappingProxyType({})) -> Schema:
        """The schema of a type.

        Args:
            kind: the type.
            variables: what the type variables of a generic class stand for.
        """
        kind = _plain(kind, variables)
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal:
            return _enum([each.value if isinstance(each, enum.Enum) else each for each in arguments])
        if origin is Union or origin is types.UnionType:
            return self._union([self.of(each) for each in arguments])
        return self._of_class(origin or kind, arguments)

    @staticmethod
    def _union(schemas: list[Schema]) -> Schema:
        if {} in schemas:
            return {}
        return {"anyOf": [each for index, each in enumerate(schemas) if each not in schemas[:index]]}

    def _of_class(self, cls: Any, arguments: tuple[Any, ...]) -> Schema:
        if cls in _SCALARS:
            return dict(_SCALARS[cls])
        if not isinstance(cls, type):
            return {}
        if issubclass(cls, enum.Enum):
            return {"type": "integer"} if issubclass(cls, enum.Flag) else _enum([each.value for each in cls])
        if attrs.has(cls) or dataclasses.is_dataclass(cls) or is_typeddict(cls):
            return self._reference(cls, arguments)
        return self._container(cls, arguments)

    def _container(self, cls: type, arguments: tuple[Any, ...]) -> Schema:
        if is_namedtuple(cls):
            return self._places(list(get_type_hints(cls).values()))
        if cls is tuple and arguments and arguments[-1] is not Ellipsis:
            return self._places(list(arguments))
        if cls in _LISTS:
            items = self.of(arguments[0]) if arguments else {}
            return {"type": "array", "items": items} if items else {"type": "array"}
        if cls is collections.Counter:
            return self._table(arguments[0] if arguments else str, int)
        return self._table(*(arguments or (str, Any))) if cls in _TABLES else {}

    def _places(self, kinds: list[Any]) -> Schema:
        schemas = [self.of(each) for each in kinds]
        return {"type": "array", "prefixItems": schemas, "minItems": len(kinds), "maxItems": len(kinds)}

    def _table(self, key: Any, value: Any) -> Schema:
        names, values = self.of(key), self.of(value)
        schema: Schema = {"type": "object"}
        if names not in ({}, {"type": "string"}):
            schema["propertyNames"] = names
        if values:
            schema["additionalProperties"] = values
        return schema

    def _reference(self, cls: type, arguments: tuple[Any, ...]) -> Schema:
        key = (cls, arguments)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = self._new_name(cls, arguments)
            self.definitions[name] = {}  # in this place, before those of its fields
            pairs = zip(getattr(cls, "__parameters__", ()), arguments, strict=False)
            self.definitions[name] = self._object(cls, {one: other for one, other in pairs if one is not other})
        return {"$ref": _DEFINITIONS + name}

    def _new_name(self, cls: type, arguments: tuple[Any, ...]) -> str:
        parts = [cls.__name__, *(getattr(each, "__name__", "of") for each in arguments)]
        name = wanted = "_".join(parts)
        number = 1
        while name in self._names.values():  # another class of that name
            number += 1
            name = f"{wanted}_{number}"
        return name

    def _object(self, cls: Any, variables: Mapping[Any, Any]) -> Schema:
        """A class with fields. Others are ignored by the codec, and so allowed."""
        kinds, required = _fields(cls)
        properties = {name: self.of(kind, variables) for name, kind in kinds.items()}
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        return schema


def _plain(kind: Any, variables: Mapping[Any, Any]) -> Any:
    """The type without what has no meaning in JSON: variables, aliases and annotations."""
    while True:
        parameters = getattr(kind, "__parameters__", ()) if get_origin(kind) is not None else ()
        if isinstance(kind, TypeVar):
            kind = variables.get(kind, Any)
        elif isinstance(kind, NewType):
            kind = kind.__supertype__
        elif hasattr(kind, "__value__"):  # type Name = ...
            kind = kind.__value__
        elif get_origin(kind) is Annotated or get_origin(kind) in _WRAPPERS:
            kind = get_args(kind)[0]
        elif variables and parameters:
            kind, variables = kind[tuple(variables.get(each, Any) for each in parameters)], {}
        else:
            return type(None) if kind is None else kind


def _fields(cls: Any) -> tuple[dict[str, Any], list[str]]:
    """The types of the fields that JSON has, and the names of those without a default."""
    hints = get_type_hints(cls, include_extras=True)
    if is_typeddict(cls):
        return hints, [name for name in hints if name in cls.__required_keys__]
    marked = fields_in_json(cls)
    names = marked.names if marked else {}
    if attrs.has(cls):
        of_attrs = [field for field in attrs.fields(cls) if field.init]
        return (
            {names.get(field.name, field.name): hints.get(field.name, Any) for field in of_attrs},
            [names.get(field.name, field.name) for field in of_attrs if field.default is attrs.NOTHING],
        )
    missing = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return (
        {names.get(field.name, field.name): hints[field.name] for field in fields},
        [
            names.get(field.name, field.name)
            for field in fields
            if field.default is missing and field.default_factory is missing
        ],
    )


def _enum(values: list[Any]) -> Schema:
    """Those values that JSON has, in the order of their definition."""
    return {"enum": [each for each in values if isinstance(each, str | int | float | bool | None)]}
