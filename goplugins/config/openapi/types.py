"""Types of Python for schemas: classes for objects, literals for enumerations, and what they are combined to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from goplugins.config.openapi.document import Node, Path, place
from goplugins.config.openapi.names import MODULES, class_name, field_name, unique
from goplugins.config.openapi.schemas import (
    Shape,
    is_object,
    is_read_only,
    schema_of,
    shape_of,
    types_of,
    variants_of,
    walk,
)
from goplugins.config.openapi.unions import (
    ANY,
    NULL,
    Atom,
    ClassField,
    ClassType,
    Type,
    classes_in,
    combine,
    literal,
    settle,
)

Warn = Callable[[str, str], None]

_FORMATS = {
    "binary": "goplugins.File | bytes",
    "byte": "bytes",
    "base64": "bytes",
    "base64url": "str",
    "date": "datetime.date",
    "date-time": "datetime.datetime",
    "decimal": "decimal.Decimal",
    "uuid": "uuid.UUID",
}
_SCALARS = {
    "boolean": Atom("bool", "bool"),
    "integer": Atom("number", "int"),
    "null": NULL,
    "number": Atom("number", "float"),
}
_COMPONENTS = ("components", "schemas")
_LONGEST_LITERAL = 60


@attrs.define(eq=False)
class Alias:
    """A name for an enumeration."""

    name: str
    values: Atom


class Types:
    """Makes the types of a document's schemas, each class once.

    Args:
        root: the document.
        warn: takes a schema's place, and what could not be expressed.
        taken: names that no class can have.
    """

    def __init__(self, root: Node, warn: Warn, taken: Iterator[str] | tuple[str, ...] = ()) -> None:
        self._warn = warn
        self._taken = {*MODULES, *taken}
        self._classes: dict[Path, ClassType] = {}
        self._aliases: dict[Path, Alias] = {}
        self._open: list[Path] = []
        self._tags = _discriminators(root)

    @property
    def classes(self) -> list[ClassType]:
        return list(self._classes.values())

    @property
    def aliases(self) -> list[Alias]:
        return list(self._aliases.values())

    def name(self, text: str) -> str:
        """A class name that is not taken yet."""
        found = unique(class_name(text), self._taken)
        self._taken.add(found)
        return found

    def of(self, node: Node | None, hint: str, *, files: bool = False) -> Type:
        """The type of a schema's values.

        Args:
            node: the schema; None admits everything.
            hint: name for a class without a name of its own.
            files: format binary is a file, not a text.
        """
        schema = schema_of(node)
        if schema is None:
            return ANY
        if schema.path in self._open and not self._is_class(schema):
            self._warn(place(schema.path), "contains itself without an object in between: taken as any value")
            return ANY
        self._open.append(schema.path)
        try:
            kind = self._of_schema(schema, hint, files=files)
        finally:
            self._open.pop()
        beside = schema.beside
        if beside.get("nullable") is True or (isinstance(beside.get("type"), list) and "null" in beside["type"]):
            kind = combine([*kind, NULL])
        return kind

    def _is_class(self, schema: Node) -> bool:
        return schema.path in self._classes

    def _of_schema(self, schema: Node, hint: str, *, files: bool) -> Type:
        kinds = types_of(schema)
        value = schema.value
        parts = [part for part in schema.items("allOf") if isinstance(part.value, dict) and part.value]
        found: Iterable[Atom]
        if "const" in value:
            found = literal([value["const"]])
        elif "enum" in value:
            found = self._enumeration(schema, hint)
        elif is_object(schema):
            found = self._of_object(schema, hint, files=files)
        elif parts:
            found = self._narrowest(parts, hint, files=files)
        elif variants := variants_of(schema):
            found = [atom for index, each in enumerate(variants) for atom in self._of_variant(each, hint, index, files)]
        elif kinds:
            found = [atom for kind in kinds for atom in self._of_kind(kind, schema, hint, files=files)]
        else:
            found = ANY
        return combine([*found, NULL] if "null" in kinds else found)

    def _narrowest(self, parts: list[Node], hint: str, *, files: bool) -> Type:
        """Of allOf without objects: the type of the part that says most."""
        found = [self.of(part, hint, files=files) for part in parts]
        known = [kind for kind in found if kind != ANY]
        return min(known, key=lambda kind: (not any(atom.values for atom in kind), len(kind)), default=ANY)

    def _of_variant(self, node: Node, hint: str, index: int, files: bool) -> Type:
        title = node.value.get("title") if isinstance(node.value, dict) else None
        return self.of(
            node, title if isinstance(title, str) and class_name(title, "") else f"{hint}{index or ''}", files=files
        )

    def _of_kind(self, kind: str, schema: Node, hint: str, *, files: bool) -> Type:
        if kind == "array":
            return (Atom("list", items=self.of(schema.get("items"), f"{hint}Item", files=files)),)
        if kind == "object":
            return self._of_object(schema, hint, files=files)
        return (_text_atom(schema, files=files) if kind == "string" else _SCALARS[kind],)

    # --- enumerations ----------------------------------------------------------------------------------------------

    def _enumeration(self, schema: Node, hint: str) -> Type:
        values = schema.value["enum"]
        kind = literal(values if isinstance(values, list) else [])
        texts = [atom for atom in kind if atom.values]
        named = schema.path[:2] == _COMPONENTS and len(schema.path) == 3
        if len(texts) != 1 or not (named or len(texts[0].text) > _LONGEST_LITERAL):
            return kind
        alias = self._aliases.get(schema.path)
        if alias is None:
            alias = self._aliases[schema.path] = Alias(self.name(str(schema.path[-1]) if named else hint), texts[0])
        return tuple(attrs.evolve(atom, text=alias.name) if atom is texts[0] else atom for atom in kind)

    # --- objects ---------------------------------------------------------------------------------------------------

    def _of_object(self, schema: Node, hint: str, *, files: bool) -> Type:
        merged = self._only_part(schema)
        if merged is not None:
            return self.of(merged, hint, files=files)
        known = self._classes.get(schema.path)
        if known is not None:
            return (Atom("class", known.name, cls=known),)
        shape = shape_of(schema)
        if not shape.properties:
            item = ANY if shape.further is None else self.of(shape.further, f"{hint}Value", files=files)
            return (Atom("dict", items=item),)
        named = schema.path[:2] == _COMPONENTS and len(schema.path) == 3
        made = ClassType(self.name(str(schema.path[-1]) if named else hint), description=schema.text("description"))
        self._classes[schema.path] = made
        self.fill(made, schema, files=files)
        return (Atom("class", made.name, cls=made),)

    def _only_part(self, schema: Node) -> Node | None:
        """The schema that ``allOf: [X]`` stands for, where nothing is added to it."""
        if any(key in schema.value for key in ("properties", "additionalProperties", "oneOf", "anyOf", "required")):
            return None
        parts = [part for part in schema.items("allOf") if isinstance(part.value, dict) and part.value]
        return parts[0] if len(parts) == 1 and parts[0].path != schema.path else None

    def fill(self, made: ClassType, schema: Node, *, files: bool = False, request: bool = False) -> None:
        """Adds the properties of an object schema to a class; to that of a ``request`` only those that it sets."""
        shape = shape_of(schema)
        if shape.loosened:
            self._warn(place(schema.path), "has alternatives: the properties that only some of them have are optional")
        if shape.further is not None:
            self._warn(place(schema.path), f"further properties are left out of class {made.name}")
        tag = self._tags.get(schema.path)
        outside, self._open = self._open, []  # a class may contain itself
        try:
            self._add_fields(made, shape, tag, files=files, request=request)
        finally:
            self._open = outside

    def _add_fields(
        self, made: ClassType, shape: Shape, tag: tuple[str, str] | None, *, files: bool, request: bool
    ) -> None:
        taken = [field.name for field in made.fields]
        for wire, node in shape.properties.items():
            flags = {**(node.value if isinstance(node.value, dict) else {}), **node.beside}
            if request and is_read_only(node):
                continue
            hint = f"{made.name}{class_name(wire)}"
            kind = self.of(node, hint, files=files)
            for other in shape.others.get(wire, ()):
                kind = combine([*kind, *self.of(other, hint, files=files)])
            required = wire in shape.required and (request or flags.get("writeOnly") is not True)
            if tag is not None and tag[0] == wire:
                kind, required = literal([tag[1]]), True
            name = field_name(wire, taken)
            taken.append(name)
            made.fields.append(ClassField(name, wire, kind, required, is_read_only(node)))

    def finish(self, sent: list[Type], own: list[ClassType]) -> None:
        """Completes the classes, once all have been made.

        Args:
            sent: the types of requests, and of their fields.
            own: the classes of requests, which no schema has.
        """
        for made in [*self.classes, *own]:
            for field in made.fields:
                field.kind = self.settled(field.kind, f"class {made.name}, field {field.name}")
                if field.name in self._taken:
                    field.name = unique(f"{field.name}_", [each.name for each in made.fields])
        done = {*map(id, own)}
        todo = [made for kind in sent for made in classes_in(kind)]
        while todo:
            made = todo.pop()
            if id(made) in done:
                continue
            done.add(id(made))
            todo += [each for field in made.fields for each in classes_in(field.kind)]
            for field in made.fields:
                field.required = field.required and not field.read_only
                field.omitted = not field.required

    def settled(self, kind: Type, where: str) -> Type:
        """The type with no doubt in its unions, once all classes have their fields."""
        return settle(kind, lambda text: self._warn(where, text))


def _text_atom(schema: Node, *, files: bool) -> Atom:
    form = schema.value.get("format")
    encoding = schema.value.get("contentEncoding")
    if files and not form and not encoding and "contentMediaType" in schema.value:
        form = "binary"
    if form == "binary" and not files:
        form = ""
    if isinstance(encoding, str):
        form = encoding.lower()
    return Atom("str", _FORMATS.get(form, "str") if isinstance(form, str) else "str")


def _discriminators(root: Node) -> dict[Path, tuple[str, str]]:
    """The property and the value by which each variant of a union is known, by the variant's place."""
    found: dict[Path, set[tuple[str, str]]] = {}
    for value, path in walk(root.value):
        discriminator = value.get("discriminator")
        variants = value.get("oneOf") or value.get("anyOf")
        if not isinstance(discriminator, dict) or not isinstance(variants, list):
            continue
        name, mapping = discriminator.get("propertyName"), discriminator.get("mapping")
        known = {str(target): key for key, target in mapping.items()} if isinstance(mapping, dict) else {}
        for variant in variants:
            reference = variant.get("$ref") if isinstance(variant, dict) else None
            if isinstance(reference, str) and isinstance(name, str):
                short = reference.rpartition("/")[2]
                tag = known.get(reference, known.get(short, short))
                found.setdefault(root.document.resolve(variant, path).path, set()).add((name, tag))
    return {path: next(iter(tags)) for path, tags in found.items() if len(tags) == 1}
