"""What the schemas of a specification say of JSON values: kinds, and the properties of objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from goplugins.config.openapi.document import Node, Path, kind_of, refuse

_UNIONS = ("oneOf", "anyOf")
_OBJECT_KEYS = ("properties", "additionalProperties", "patternProperties")
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_DEEPEST = 60


@attrs.frozen(eq=False)
class Shape:
    """The properties of an object.

    Attributes:
        properties: schemas by name, in their order.
        required: names of those that are always there; there may be others that are no properties.
        loosened: the object has alternatives: properties that only some of them have are optional.
        further: schema of further properties, if the specification mentions them.
        others: further schemas of a property, one for each other alternative that has it.
    """

    properties: Mapping[str, Node] = attrs.field(factory=dict)
    required: frozenset[str] = frozenset()
    loosened: bool = False
    further: Node | None = None
    others: Mapping[str, tuple[Node, ...]] = attrs.field(factory=dict)

    def with_part(self, part: Shape) -> Shape:
        """The object that is both."""
        return Shape(
            {**self.properties, **part.properties},
            self.required | part.required,
            self.loosened or part.loosened,
            part.further or self.further,
            {**self.others, **part.others},
        )

    @classmethod
    def one_of(cls, variants: list[Shape]) -> Shape:
        """The object that is any of them."""
        properties: dict[str, Node] = {}
        others: dict[str, tuple[Node, ...]] = {}
        for variant in variants:
            for name, node in variant.properties.items():
                known = (node, *variant.others.get(name, ()))
                if name in properties:
                    others[name] = (*others.get(name, ()), *known)
                else:
                    properties[name], others[name] = node, known[1:]
        required = frozenset.intersection(*(each.required for each in variants))
        further = next((each.further for each in variants if each.further), None)
        return cls(properties, required, len(variants) > 1, further, others)


def types_of(node: Node) -> list[str]:
    """The JSON types that a schema names itself, ``null`` included; none if it names none.

    Raises:
        InvalidConfigError: one of them does not exist.
    """
    value = node.value.get("type") if isinstance(node.value, dict) else None
    names = value if isinstance(value, list) else [] if value is None else [value]
    for name in names:
        if not isinstance(name, str) or name not in _TYPES:
            refuse((*node.path, "type"), "is no type of JSON", f"write one of {', '.join(sorted(_TYPES))}")
    found = [str(name) for name in names]
    if (node.value.get("nullable") is True if isinstance(node.value, dict) else False) and "null" not in found:
        found.append("null")
    return found


def schema_of(node: Node | None) -> Node | None:
    """The schema, None for one that admits everything.

    Raises:
        InvalidConfigError: it is neither an object nor a boolean.
    """
    if node is None or isinstance(node.value, bool):
        return None
    if not isinstance(node.value, dict):
        refuse(node.path, f"expected a schema, got {kind_of(node.value)}", "write an object there")
    return node


def variants_of(node: Node) -> list[Node]:
    """The alternatives of oneOf or anyOf that are schemas of their own, and not only further conditions."""
    found = [item for key in _UNIONS for item in node.items(key)]
    return [item for item in found if isinstance(item.value, dict) and _is_more_than_a_condition(item)]


def _is_more_than_a_condition(node: Node) -> bool:
    """Whether an alternative has more than conditions, such as ``{required: [name]}``."""
    return any(key in node.value for key in ("type", "enum", "const", "allOf", "items", *_UNIONS, *_OBJECT_KEYS)) or (
        not node.value
    )


def is_object(node: Node | None, depth: int = 0) -> bool:
    """Whether the schema is that of objects, and of nothing else but null."""
    if node is None or not isinstance(node.value, dict) or depth > _DEEPEST:
        return False
    kinds = set(types_of(node)) - {"null"}
    if kinds:
        return kinds == {"object"}
    if any(key in node.value for key in _OBJECT_KEYS):
        return True
    parts = [item for item in node.items("allOf") if isinstance(item.value, dict)]
    if any(is_object(item, depth + 1) for item in parts):
        return True
    variants = variants_of(node)
    return bool(variants) and all(is_object(item, depth + 1) for item in variants) and bool(parts)


def is_read_only(node: Node) -> bool:
    """Whether only the service sets a property."""
    own = node.value if isinstance(node.value, dict) else {}
    return node.beside.get("readOnly", own.get("readOnly")) is True


def shape_of(node: Node) -> Shape:
    """The properties of an object schema: its own, and those of all that it is combined with."""
    return _shape(node, ())


def _shape(node: Node, above: tuple[Path, ...]) -> Shape:
    found = Shape()
    if not isinstance(node.value, dict) or node.path in above:
        return found
    above = (*above, node.path)
    for part in node.items("allOf"):
        found = found.with_part(_shape(part, above))
    further = node.get("additionalProperties") or next(iter(node.table("patternProperties").values()), None)
    own = Shape(
        node.table("properties"),
        frozenset(item.value for item in node.items("required") if isinstance(item.value, str)),
        further=further if further is not None and further.value is not False else None,
    )
    found = found.with_part(own)
    variants = [_shape(variant, above) for variant in variants_of(node) if is_object(variant)]
    return found.with_part(Shape.one_of(variants)) if variants else found


def walk(value: Any, path: Path = ()) -> Iterator[tuple[dict[str, Any], Path]]:
    """All objects within a value, with their places."""
    stack: list[tuple[Any, Path]] = [(value, path)]
    while stack:
        item, place = stack.pop()
        if isinstance(item, dict):
            yield item, place
            stack += [(part, (*place, key)) for key, part in item.items() if isinstance(key, str)]
        elif isinstance(item, list):
            stack += [(part, (*place, index)) for index, part in enumerate(item)]
