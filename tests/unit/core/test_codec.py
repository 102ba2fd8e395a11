"""JSON in and out: strict where cattrs is lax, since an answer of a login service decides who gets in."""

import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import attrs
import pytest

from goplugins.errors import InvalidArgumentError, ReplyTypeError, UnserializableRequestError
from goplugins.transports._codec import codec_for


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
def test_a_value_of_another_kind_is_refused_and_the_field_named(field, value):
    codec = codec_for(Everything, Everything)
    data = json.loads(codec.encode(SAMPLE)) | {field: value}
    with pytest.raises(ReplyTypeError, match=rf"the reply is no Everything: .*data\.{field}"):
        codec.decode(data)


def test_the_path_leads_into_nested_values():
    data = json.loads(codec_for().encode(SAMPLE))
    data["table"]["k"].append("one")
    with pytest.raises(ReplyTypeError, match=r"data\.table\['k'\]\[1\]"):
        codec_for(Any, Everything).decode(data)


@pytest.mark.parametrize("data", [None, [], "flag", 3, {}])
def test_something_else_altogether_is_refused(data):
    with pytest.raises(ReplyTypeError):
        codec_for(Any, Everything).decode(data)


def test_missing_data_is_null_where_the_type_admits_it():
    assert codec_for(Any, Point | None).decode(None) is None
    assert codec_for(Any, Any).decode(None) is None
    with pytest.raises(ReplyTypeError, match="data is missing or null"):
        codec_for(Any, Point).decode(None)


def test_unknown_fields_of_a_newer_plugin_are_ignored():
    assert codec_for(Any, Point).decode({"x": 1, "z": "new"}) == Point(1.0)


def test_plain_json_passes_as_it_is():
    value = {"n": 12345678901234567890, "f": 1.5e-7, "list": [1, None, True], "s": "\ud800\u2028"}
    assert json.loads(codec_for().encode(value)) == value
    assert codec_for().decode(value) is value


def test_untyped_requests_may_hold_typed_values():
    assert codec_for().encode({"p": Point(1.0), "d": [attrs.asdict]}.get("p")) == b'{"x":1.0,"y":0.0}'
    assert codec_for().encode({"p": [Point(1.0)], "t": (1, 2)}) == b'{"p":[{"x":1.0,"y":0.0}],"t":[1,2]}'


@pytest.mark.parametrize("value", [object(), {"x": object()}, float("nan"), [float("inf")], {"f": len}, {("t",): 1}])
def test_what_json_lacks_is_refused_before_anything_is_sent(value):
    with pytest.raises(UnserializableRequestError, match="can't be written as JSON"):
        codec_for().encode(value)


def test_endless_nesting_is_refused():
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UnserializableRequestError):
        codec_for().encode(value)


def test_a_request_of_another_type_says_which_was_expected():
    with pytest.raises(UnserializableRequestError, match="expected a Point, got a dict"):
        codec_for(Point, Any).encode({"x": 1})


def test_a_response_type_that_json_can_not_make_is_refused_when_the_codec_is_made():
    with pytest.raises(InvalidArgumentError, match="can't be made from JSON"):
        codec_for(Any, type(len))


def test_codecs_are_made_once():
    assert codec_for(Point, Movie) is codec_for(Point, Movie)
