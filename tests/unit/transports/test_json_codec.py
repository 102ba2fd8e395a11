"""Encoding and decoding of JSON, stricter than cattrs: a reply of a login service must not be converted to True."""

import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional, Protocol, TypedDict

import attrs
import pytest

from goplugins.errors import InvalidArgumentError, ReplyTypeError, UnserializableRequestError
from goplugins.transports.json_codec import codec_for


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Movie(TypedDict):
    title: str
    year: int


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


@attrs.define
class Everything:
    flag: bool
    count: int
    name: str
    blob: bytes
    when: datetime.datetime
    colour: Colour
    level: Level
    mode: Literal["a", "b"]
    point: Point
    movie: Movie
    tags: list[str]
    pairs: dict[str, int]
    fixed: tuple[int, str]
    many: tuple[int, ...]
    chosen: frozenset[str]
    seq: Sequence[int]
    table: Mapping[str, list[int]]
    maybe: str | None
    either: int | str
    ident: uuid.UUID
    amount: decimal.Decimal
    any: Any = None


SAMPLE = Everything(
    flag=True,
    count=2**53 + 1,
    name='\u2028 <a&b> "é" \x00 \ud800',
    blob=b"\x00\xff",
    when=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    colour=Colour.RED,
    level=Level.LOW,
    mode="b",
    point=Point(1.5),
    movie={"title": "x", "year": 1999},
    tags=["a"],
    pairs={"a": 1},
    fixed=(1, "b"),
    many=(1, 2, 3),
    chosen=frozenset({"x"}),
    seq=[1],
    table={"k": [1]},
    maybe=None,
    either="three",
    ident=uuid.UUID(int=7),
    amount=decimal.Decimal("1.10"),
    any={"free": [1, None, {"form": 1.5}]},
)


def test_every_kind_of_field_makes_the_round_trip():
    codec = codec_for(Everything, Everything)
    line = codec.encode(SAMPLE)
    assert b"\n" not in line
    assert codec.decode(json.loads(line)) == SAMPLE
    assert json.loads(line)["blob"] == "AP8="  # base64, as Go does it


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flag", "false"), ("flag", 0), ("flag", None), ("count", "3"), ("count", True), ("count", 1.5), ("name", 3),
        ("blob", "!!"), ("blob", 3), ("when", "yesterday"), ("colour", "blue"), ("level", 9), ("mode", "c"),
        ("point", []), ("movie", "x"), ("tags", "abc"), ("tags", [1]), ("tags", {"a": 1}), ("pairs", [1]),
        ("pairs", {"a": "1"}), ("many", "12"), ("chosen", "ab"), ("seq", "12"), ("maybe", 3), ("ident", "7"),
        ("ident", 7), ("amount", 1.1),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_rejected_with_its_field(field, value):
    codec = codec_for(Everything, Everything)
    data = json.loads(codec.encode(SAMPLE)) | {field: value}
    with pytest.raises(ReplyTypeError, match=rf"the reply is not an Everything: .*data\.{field}"):
        codec.decode(data)


def test_the_path_leads_into_nested_values():
    data = json.loads(codec_for().encode(SAMPLE))
    data["table"]["k"].append("one")
    with pytest.raises(ReplyTypeError, match=r"data\.table\['k'\]\[1\]"):
        codec_for(Any, Everything).decode(data)


@pytest.mark.parametrize("data", [None, [], "flag", 3, {}])
def test_a_reply_of_another_type_is_rejected(data):
    with pytest.raises(ReplyTypeError):
        codec_for(Any, Everything).decode(data)


def test_missing_data_is_null_where_the_type_admits_it():
    assert codec_for(Any, Point | None).decode(None) is None
    assert codec_for(Any, Any).decode(None) is None
    with pytest.raises(ReplyTypeError, match="data is missing or null"):
        codec_for(Any, Point).decode(None)


def test_unknown_fields_of_a_newer_plugin_are_ignored():
    assert codec_for(Any, Point).decode({"x": 1, "z": "new"}) == Point(1.0)


def test_plain_json_is_unchanged():
    value = {"n": 12345678901234567890, "f": 1.5e-7, "list": [1, None, True], "s": "\ud800\u2028"}
    assert json.loads(codec_for().encode(value)) == value
    assert codec_for().decode(value) is value


def test_untyped_requests_may_hold_typed_values():
    assert codec_for().encode({"p": Point(1.0), "d": [attrs.asdict]}.get("p")) == b'{"x":1.0,"y":0.0}'
    assert codec_for().encode({"p": [Point(1.0)], "t": (1, 2)}) == b'{"p":[{"x":1.0,"y":0.0}],"t":[1,2]}'


@pytest.mark.parametrize("value", [object(), {"x": object()}, float("nan"), [float("inf")], {"f": len}, {("t",): 1}])
def test_values_without_a_json_form_are_rejected(value):
    with pytest.raises(UnserializableRequestError, match="can't be written as JSON"):
        codec_for().encode(value)


def test_circular_values_are_rejected():
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnserializableRequestError):
        codec_for().encode(value)


def test_the_error_for_a_request_of_another_type_names_both_types():
    with pytest.raises(UnserializableRequestError, match="expected a Point, got a dict"):
        codec_for(Point, Any).encode({"x": 1})


def test_a_response_type_that_can_not_be_decoded_is_rejected_at_once():
    with pytest.raises(InvalidArgumentError, match="can't be decoded from JSON"):
        codec_for(Any, type(len))


def test_codecs_are_cached():
    assert codec_for(Point, Movie) is codec_for(Point, Movie)


@attrs.define
class Node:
    value: int
    next: Optional["Node"] = None
    rest: list["Node"] = attrs.field(factory=list)


@dataclasses.dataclass
class Branch:
    leaves: "dict[str, Node]"
    child: Optional["Branch"] = None


class Pair(NamedTuple):
    left: Optional["Node"]
    right: str


@attrs.define
class Lost:
    other: Optional["Nowhere"] = None  # type: ignore[name-defined]  # noqa: F821


@attrs.define
class AllDefaults:
    allowed: bool = True


class AnySpelling(Protocol):
    value: int


def test_names_of_classes_within_annotations_are_resolved():
    # This module has no `from __future__ import annotations`: Optional["Node"] holds a name and not a class.
    node = {"value": 1, "next": {"value": 2}, "rest": [{"value": 3}]}
    assert codec_for(Any, Node).decode(node) == Node(1, Node(2), [Node(3)])
    assert codec_for(Any, Branch).decode({"leaves": {"a": node}, "child": {"leaves": {}}}).child == Branch({})
    assert codec_for(Any, Pair).decode([{"value": 1}, "x"]) == Pair(Node(1), "x")
    assert json.loads(codec_for(Node, Any).encode(Node(1, Node(2)))) == {
        "value": 1,
        "next": {"value": 2, "next": None, "rest": []},
        "rest": [],
    }


@pytest.mark.parametrize("kind", [Lost, list[Lost], dict[str, Lost | None], "Node", list["Node"]])
def test_an_undefined_name_in_an_annotation_is_rejected_at_once(kind):
    with pytest.raises(InvalidArgumentError, match=r"'Nowhere' is not defined: import|only a name: pass the class"):
        codec_for(Any, kind)


def test_an_undefined_name_in_a_request_type_is_rejected():
    @attrs.define
    class Request:
        other: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidArgumentError, match=r"'Nowhere' is not defined"):
        codec_for(Request, Any)


@pytest.mark.parametrize("kind", [None, type(None)])
def test_a_response_type_of_none_accepts_null_only(kind):
    assert codec_for(Any, kind).decode(None) is None
    for data in (1, "", [], {}, False):
        with pytest.raises(ReplyTypeError, match="expected null, got"):
            codec_for(Any, kind).decode(data)


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (AllDefaults, [], "expected an object, got a list @ data"),
        (AllDefaults, "", "expected an object, got a string @ data"),
        (AllDefaults | None, ["allowed"], "expected an object, got a list @ data"),
        (dict, [], "expected an object, got a list @ data"),
        (dict[str, int], [1], "expected an object, got a list @ data"),
        (Node, {"value": 1, "next": [2]}, "expected an object, got a list @ data.next"),
        (Node, {"value": 1, "rest": [{"value": 2, "next": 3}]}, r"an object, got a number @ data.rest\[0\].next"),
        (Node, {"value": "1"}, "expected an integer, got a string @ data.value"),
        (Everything, {"flag": None}, "expected a boolean, got null @ data.flag"),
        (tuple[str, str], "ab", "expected a list, got a string @ data"),
        (Pair, "ab", "expected a list, got a string @ data"),
    ],
)  # fmt: skip
def test_the_error_for_a_value_of_another_kind_names_both_kinds(kind, data, text):
    with pytest.raises(ReplyTypeError, match=text):
        codec_for(Any, kind).decode(data)
    with pytest.raises(ReplyTypeError, match=text.replace("@ data", r"@ data\[0\]")):
        codec_for(Any, list[kind]).decode([data])


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"when": value}])
def test_a_datetime_without_time_zone_is_not_sent(wrap):
    naive = datetime.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - the subject
    with pytest.raises(UnserializableRequestError, match="a datetime has no time zone: give it one"):
        codec_for().encode(wrap(naive))
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert b'"2026-01-02T03:04:05+02:00"' in codec_for().encode(wrap(naive.replace(tzinfo=zone)))
    # A reply without a time zone stays without one.
    assert codec_for(Any, datetime.datetime).decode("2026-01-02T03:04:05") == naive


@attrs.define
class Twin:
    x: float
    y: float = 0.0


Here = attrs.make_class("Point", ["x", "y"])


@pytest.mark.parametrize(
    ("kind", "request_", "text"),
    [
        (int, "abc", "expected an int, got a str"),
        (float, "1.5", "expected a float, got a str"),
        (Point, Twin(1.0), "expected a Point, got a Twin"),
        (Point, None, "expected a Point, got a NoneType"),
        (Point, Here(1, 2), "expected a tests.unit.transports.test_json_codec.Point, got an? .*Point"),
        (None, 1, "expected a None, got an int"),
        (list, (1,), "expected a list, got a tuple"),
    ],
)
def test_a_request_of_another_class_is_not_sent(kind, request_, text):
    with pytest.raises(UnserializableRequestError, match=text):
        codec_for(kind, Any).encode(request_)


def test_subclasses_and_proxies_of_a_request_type_are_sent():
    class ThreeD(Point):
        pass

    class Lazy:
        """A proxy, such as Django's lazy objects."""

        x, y = 1.0, 2.0
        __class__ = Point

    assert codec_for(float, Any).encode(3) == b"3"
    assert codec_for(bytes, Any).encode(bytearray(b"a")) == b'"YQ=="'
    assert codec_for(Point, Any).encode(ThreeD(1.0)) == codec_for(Point, Any).encode(Point(1.0))
    assert codec_for(Point, Any).encode(Lazy()) == b'{"x":1.0,"y":2.0}'
    assert codec_for(None, Any).encode(None) == b"null"
    assert codec_for(Movie, Any).encode({"title": "x", "year": 1}) == b'{"title":"x","year":1}'
    assert codec_for(AnySpelling, Any).encode({"value": 1}) == b'{"value":1}'
    assert codec_for(list[int], Any).encode([1]) == b"[1]"
    assert codec_for(int | str, Any).encode("x") == b'"x"'


def test_markers_in_annotations_that_are_texts_count():
    """As with ``from __future__ import annotations``, under which Python does not see them."""
    Page = TypedDict("Page", {"items": "list[int]", "next": "NotRequired[str]"})  # noqa: UP013
    Page.__module__ = __name__
    codec = codec_for(Page, Page)
    assert codec.decode({"items": [1]}) == {"items": [1]}
    assert codec.typed.admit_answer({"items": [1]}) == {"items": [1]}
    with pytest.raises(ReplyTypeError, match=r"expected a string, got a number @ data\.next"):
        codec.decode({"items": [], "next": 1})
    with pytest.raises(ReplyTypeError, match=r"required field missing @ data\.items"):
        codec.decode({"next": "a"})


def test_texts_in_annotated_types_are_no_types():
    assert codec_for(Any, Annotated[list[int], "sorted", "unique"]).decode([1]) == [1]


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (Literal[1, 2], 1, 1),
        (Literal["a", True], True, True),
        (Literal[Colour.RED], "red", Colour.RED),
        (Literal[Level.LOW] | None, 1, Level.LOW),
    ],
)
def test_a_literal_is_decoded(kind: Any, data: Any, value: Any) -> None:
    assert codec_for(Any, kind).decode(data) is value


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Literal[1, 2], True),
        (Literal[1], 1.0),
        (Literal[True], 1),
        (Literal[0], False),
        (Literal["a"], ["a"]),
        (Literal["a"], "b"),
    ],
)
def test_a_literal_admits_no_equal_value_of_another_kind(kind: Any, data: Any) -> None:
    with pytest.raises(ReplyTypeError, match="not in literal"):
        codec_for(Any, kind).decode(data)
