"""Unions of types that JSON can be decoded to without doubt: no two members take the same JSON value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import attrs

Type: TypeAlias = "tuple[Atom, ...]"
"""The members of a union."""

_KINDS: dict[type, str] = {str: "str", int: "number", bool: "bool"}


@attrs.frozen
class Atom:
    """One member of a union.

    Attributes:
        kind: of JSON value: null, bool, number, str, list, dict, class or any.
        text: as it is written in Python.
        items: of lists and tables.
        values: of an enumeration.
        cls: of a class.
    """

    kind: str
    text: str = ""
    items: Type = ()
    values: tuple[Any, ...] = ()
    cls: ClassType | None = attrs.field(default=None, eq=False)

    def __str__(self) -> str:
        if self.kind == "list":
            return f"list[{text_of(self.items)}]"
        if self.kind == "dict":
            return f"dict[str, {text_of(self.items)}]"
        return self.text


@attrs.define(eq=False)
class ClassField:
    """A field of a class.

    Attributes:
        name: in Python.
        wire: in JSON.
        kind: its type.
        required: it has no default.
        read_only: the service sets it: requests leave it out.
        omitted: None is left out of the JSON.
    """

    name: str
    wire: str
    kind: Type
    required: bool
    read_only: bool = False
    omitted: bool = False


@attrs.define(eq=False)
class ClassType:
    """A class.

    Attributes:
        name: of the class.
        fields: in the order of the specification.
        description: of the schema.
    """

    name: str
    fields: list[ClassField] = attrs.field(factory=list)
    description: str = ""


ANY: Type = (Atom("any", "typing.Any"),)
NULL = Atom("null", "None")
_OPEN = Atom("dict", items=ANY)


def text_of(kind: Type) -> str:
    """The type as it is written in Python, None last.

    >>> text_of((NULL, Atom("str", "str"), Atom("list", items=(Atom("number", "int"),))))
    'str | list[int] | None'
    """
    return " | ".join(str(atom) for atom in sorted(kind, key=lambda atom: atom.kind == "null"))


def quoted(value: Any) -> str:
    """The value as it is written in Python, a text in double quotes.

    >>> quoted("a"), quoted(1)
    ('"a"', '1')
    """
    if not isinstance(value, str):
        return repr(value)
    return json.dumps(value, ensure_ascii=False) if value.isprintable() else ascii(value)


def literal(values: Iterable[Any]) -> Type:
    """The type of an enumeration; floats have no literals.

    >>> text_of(literal(["a", 1, None, True]))
    'typing.Literal["a"] | typing.Literal[1] | typing.Literal[True] | None'
    """
    found: dict[str, list[Any]] = {}
    rest: list[Atom] = []
    for value in values:
        kind = _KINDS.get(type(value))
        if kind:
            found.setdefault(kind, []).append(value)
        elif value is None:
            rest.append(NULL)
        else:
            rest.append(Atom("number", "float") if isinstance(value, float) else ANY[0])
    atoms = [
        Atom(
            kind, f"typing.Literal[{', '.join(map(quoted, dict.fromkeys(group)))}]", values=tuple(dict.fromkeys(group))
        )
        for kind, group in found.items()
    ]
    return tuple(dict.fromkeys([*atoms, *rest])) or ANY


def combine(atoms: Iterable[Atom]) -> Type:
    """A union of the members, each JSON value taken by one of them; :func:`settle` decides among objects.

    >>> text_of(combine([Atom("str", "str"), Atom("str", "uuid.UUID"), NULL, Atom("str", "str")]))
    'str | None'
    """
    groups: dict[str, list[Atom]] = {}
    for atom in dict.fromkeys(atoms):
        groups.setdefault(atom.kind, []).append(atom)
    if "any" in groups:
        return ANY
    found: list[Atom] = []
    for kind, group in groups.items():
        if kind in {"str", "number", "bool"}:
            found.append(_scalar(kind, group))
        elif kind in {"list", "dict"} and len(group) > 1:
            found.append(Atom(kind, items=combine(item for atom in group for item in atom.items)))
        else:
            found += group
    return tuple(found)


def _scalar(kind: str, group: list[Atom]) -> Atom:
    if len(group) == 1:
        return group[0]
    if all(atom.values for atom in group):
        return literal(value for atom in group for value in atom.values)[0]
    if kind == "number":
        return Atom("number", "float" if any(atom.text == "float" for atom in group) else "int")
    return Atom(kind, "str" if kind == "str" else "bool")


def settle(kind: Type, report: Callable[[str], None]) -> Type:
    """The type with a table of any values where a JSON object could be one of several members.

    To be called once all classes have their fields.
    """
    kind = tuple(attrs.evolve(atom, items=settle(atom.items, report)) if atom.items else atom for atom in kind)
    objects = [atom for atom in kind if atom.kind in {"class", "dict"}]
    classes = [atom.cls for atom in objects if atom.cls is not None]
    if len(objects) < 2 or (len(classes) == len(objects) and _distinct(classes)):
        return kind
    names = ", ".join(map(str, objects))
    report(f"{names} can't be distinguished, and are taken as dict[str, typing.Any]")
    return tuple(dict.fromkeys(_OPEN if atom in objects else atom for atom in kind))


def classes_in(kind: Type) -> Iterator[ClassType]:
    """The classes that a type is made of."""
    for atom in kind:
        if atom.cls is not None:
            yield atom.cls
        yield from classes_in(atom.items)


def _distinct(classes: list[ClassType]) -> bool:
    """Whether each class but one has a field of its own that is always there, or all have literals of their own."""
    literals = [{field.name: field.kind[0].values for field in cls.fields if _is_tag(field)} for cls in classes]
    for name in set.intersection(*(set(each) for each in literals)):
        values = [value for each in literals for value in each[name]]
        if len(values) == len(set(values)):
            return True
    without = 0
    for cls in classes:
        others = {field.wire for other in classes if other is not cls for field in other.fields}
        without += not any(field.required and field.wire not in others for field in cls.fields)
    return without <= 1


def _is_tag(field: ClassField) -> bool:
    return field.required and field.name == field.wire and len(field.kind) == 1 and bool(field.kind[0].values)
