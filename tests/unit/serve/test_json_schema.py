"""JSON Schemas agree with the codec: what one admits, the other does."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Required, TypedDict, TypeVar

import attrs
import pytest

from goplugins import json_fields
from goplugins.serve._json_schema import json_schema
from goplugins.transports.json_codec import structurer_for

T = TypeVar("T")
Sku = NewType("Sku", str)


class Colour(enum.Enum):
    RED = "red"
    DARK = ("dark", "red")


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    label: str = ""


class Options(TypedDict):
    limit: int
    after: NotRequired[str]


class Loose(Options, total=False):
    other: list[int]
    page: Required[Literal["a"]]


@attrs.frozen
class Node:
    name: str
    children: list[Node] = attrs.field(factory=list)
    _private: int = 0
    renamed: int = attrs.field(default=0, alias="other")
    derived: int = attrs.field(init=False, default=7)


@attrs.frozen
class Page(Generic[T]):
    items: list[T]
    by_name: dict[str, T | None] = attrs.field(factory=dict)


@json_fields({"kind": "@kind"}, omit_none=True)
@attrs.frozen
class Tagged:
    kind: str
    note: str | None = None


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    point: Point
    node: Node | None = None
    at: datetime.datetime | None = None
    tags: set[str] = dataclasses.field(default_factory=set)
    page: Page[Node] | None = None


TYPES: list[Any] = [
    Any,
    None,
    bool,
    int,
    float,
    str,
    bytes,
    datetime.datetime,
    datetime.date,
    uuid.UUID,
    decimal.Decimal,
    Colour,
    Level,
    Rights,
    Literal["a", 1] | None,
    Literal[Colour.RED],
    Sku,
    list,
    list[int],
    Sequence[str],
    set[int],
    frozenset[str],
    tuple[int, ...],
    tuple[int, str],
    deque[int],
    dict,
    dict[str, int],
    dict[Colour, int],
    dict[int, int],
    Mapping[uuid.UUID, Any],
    OrderedDict[str, str],
    Counter[str],
    int | str,
    str | None,
    Node | None,
    list[Node] | None,
    Point,
    Options,
    Loose,
    Annotated[int, "positive"],
    list[Annotated[Node, "a", "b"]],
    Node,
    Tagged,
    Node | list[Node],
    Page[int],
    Page[Page[str]],
    Order,
    list[Order],
]
UUID = "12345678-1234-5678-1234-567812345678"
NODE = {"name": "n", "children": [{"name": "m"}]}
VALUES: list[Any] = [
    None,
    True,
    0,
    1,
    1.5,
    "",
    "a",
    "red",
    "YQ==",
    "2024-02-29",
    "2024-02-29T01:02:03+00:00",
    UUID,
    "0.10",
    [],
    [1],
    ["a"],
    [1, "a"],
    [1, "a", 2],
    [None],
    [[1]],
    {},
    {"a": 1},
    {"a": "b"},
    {"red": 1},
    {"1": 1},
    {UUID: 1},
    {"limit": 1},
    {"limit": 1, "after": "x", "other": []},
    {"limit": "1"},
    {"limit": 1, "page": "a"},
    {"limit": 1, "page": "b"},
    {"limit": 1, "page": "a", "other": [1]},
    {"limit": 1, "after": 2},
    NODE,
    [NODE],
    {"name": 1},
    {"name": "n", "children": {}},
    {"name": "n", "children": [{"name": None}]},
    {"name": "n", "_private": "x"},
    {"name": "n", "renamed": "x"},
    {"name": "n", "other": "x", "derived": "x", "private": "x"},
    {"@kind": "a"},
    {"@kind": 1},
    {"kind": "a"},
    {"@kind": "a", "note": 1},
    {"items": [1]},
    {"items": [{"items": ["a"]}]},
    {"items": [1], "by_name": {"a": None, "b": 2}},
    {"items": ["a"], "by_name": {"a": "b"}},
    {"id": UUID, "point": [1, "a"]},
    {"id": UUID, "point": [1]},
    {"id": UUID, "point": [1, "a"], "node": NODE, "at": None, "tags": ["a", "a"], "page": {"items": [NODE]}},
    {"id": UUID, "point": [1, "a"], "page": {"items": [NODE, 1]}},
    {"id": 1, "point": [1, "a"]},
]

_KINDS: dict[str, Any] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "string": str,
    "array": list,
    "object": dict,
}
_FORMATS: dict[str, Any] = {
    "date-time": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "uuid": uuid.UUID,
}


def is_of(kind: str, value: Any) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def admits(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> bool:
    """A validator for the keywords that are used, written from the specification; formats count."""
    known = {"type", "format", "contentEncoding", "enum", "anyOf", "items", "prefixItems", "minItems", "maxItems"}
    known |= {"properties", "required", "additionalProperties", "propertyNames", "$ref", "$defs"}
    assert schema.keys() <= known, schema

    def all_of(part: Any, values: Any) -> bool:
        return all(admits(part, each, root) for each in values)

    if "$ref" in schema and not admits(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, root):
        return False
    if "type" in schema and not is_of(schema["type"], value):
        return False
    if "enum" in schema and not any(value == each and type(value) is type(each) for each in schema["enum"]):
        return False
    if "anyOf" in schema and not any(admits(each, value, root) for each in schema["anyOf"]):
        return False
    if isinstance(value, str) and "format" in schema:
        try:
            _FORMATS[schema["format"]](value)
        except ValueError:
            return False
    if isinstance(value, list):
        places = schema.get("prefixItems", [])
        return (
            schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
            and all(admits(part, each, root) for part, each in zip(places, value, strict=False))
            and all_of(schema.get("items", {}), value[len(places) :])
        )
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        return (
            all(name in value for name in schema.get("required", []))
            and all(admits(part, value[name], root) for name, part in properties.items() if name in value)
            and all_of(schema.get("propertyNames", {}), value)
            and all_of(
                schema.get("additionalProperties", {}), [each for name, each in value.items() if name not in properties]
            )
        )
    return True


NOT_BASE64 = ["", "a", "red", "0.10", "2024-02-29", "2024-02-29T01:02:03+00:00", UUID]
EXCEPTIONS: list[tuple[Any, list[Any]]] = [
    # JSON Schema asserts neither base64 nor decimals.
    (bytes, NOT_BASE64),
    (decimal.Decimal, [*NOT_BASE64, "YQ=="]),
    # The codec takes true for 1, and any iterable for a deque.
    (Rights, [True]),
    (Literal["a", 1] | None, [True]),
    (int | str, [True]),
    (deque[int], ["", {}]),
]


def is_exception(kind: Any, value: Any) -> bool:
    values = next((values for each, values in EXCEPTIONS if each == kind), [])
    return any(value == each and type(value) is type(each) for each in values)


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_schema_admits_what_the_codec_reads(kind):
    read = structurer_for(kind)
    schema = json_schema(kind)
    json.dumps(schema)
    different = []
    for value in VALUES:
        try:
            read(value, None)
            readable = True
        except Exception:
            readable = False
        if admits(schema, value, schema) != readable and not is_exception(kind, value):
            different.append((value, readable))
    assert different == []


def test_a_class_is_inline_unless_it_contains_itself():
    structurer_for(Options)
    assert json_schema(Options) == {
        "type": "object",
        "properties": {"limit": {"type": "integer"}, "after": {"type": "string"}},
        "required": ["limit"],
    }
    schema = json_schema(Node)
    assert schema["$ref"] == "#/$defs/Node"
    assert schema["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}


def test_classes_of_one_name_have_two_definitions():
    def another() -> Any:
        @attrs.frozen
        class Node:
            other: int

        return Node

    schema = json_schema(tuple[Node, another()])
    assert schema["prefixItems"] == [{"$ref": "#/$defs/Node"}, {"$ref": "#/$defs/Node_2"}]
    assert list(schema["$defs"]) == ["Node", "Node_2"]
    assert list(json_schema(tuple[Page[int], Page[str]])["$defs"]) == ["Page_int", "Page_str"]


def test_what_is_unknown_admits_everything():
    assert json_schema(object) == json_schema(T) == json_schema(int | Any) == {}
