"""Values in this process: instances of the declared type pass, all others go through JSON or are refused."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol, TypedDict, TypeVar

import attrs
import pytest

from goplugins.errors import ReplyTypeError, UnserializableRequestError
from goplugins.transports.json_codec import codec_for
from goplugins.transports.typed_values import check_for


@attrs.frozen
class Item:
    name: str
    price: float = 0.0


@attrs.frozen
class Other:
    name: str
    price: float = 0.0


class Row(TypedDict, total=False):
    name: str
    below: Row


class Opaque:
    """Has no JSON form."""

    def __repr__(self) -> str:
        return "opaque"


class Color(enum.Enum):
    RED = "red"


class Named(Protocol):
    name: str


Id = NewType("Id", int)

INSTANCES = [
    (Any, Opaque()),
    (object, Opaque()),
    (int, 7),
    (float, 7),
    (float, 7.5),
    (bytes, bytearray(b"x")),
    (None, None),
    (Item, Item("a")),
    (Item | None, None),
    (Item | None, Item("a")),
    (list[Item], [Item("a")]),
    (Sequence[int], (1, 2)),
    (dict[str, Item], {"a": Item("a")}),
    (Mapping[str, int], {}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[str], {"a"}),
    (Literal["a", 1], 1),
    (Annotated[list[int], 7], [1]),
    (Id, 7),
    (Row, {"name": "a", "below": {"name": "b"}}),
    (Color, Color.RED),
    (datetime.datetime, datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)),
    (list[dict[str, list[int | None]]], [{"a": [1, None]}]),
]
OTHERS = [
    (int, "7"),
    (int, 7.5),
    (str, b"a"),
    (None, 0),
    (Item, {"name": "a"}),
    (Item, Other("a")),
    (Item | None, {"name": "a"}),
    (list[Item], [{"name": "a"}]),
    (list[int], (1, 2)),
    (Sequence[str], "text"),
    (dict[str, int], {"a": "1"}),
    (dict[str, int], {1: 1}),
    (tuple[int, str], (1,)),
    (set[str], {1}),
    (Literal["a", 1], True),
    (Row, {"name": 7}),
    (Row, {"below": {"name": 7}}),
    (Color, "red"),
]


@pytest.mark.parametrize(("kind", "value"), INSTANCES, ids=repr)
def test_an_instance_passes_as_it_is(kind, value):
    assert check_for(kind)(value)
    typed = codec_for(kind, kind).typed
    assert typed.admit_request(value) is value
    assert typed.admit_answer(value) is value


def test_what_can_not_be_checked_passes():
    assert check_for(Named)(Opaque())
    assert check_for(TypeVar("T"))(Opaque())


@pytest.mark.parametrize(("kind", "value"), OTHERS, ids=repr)
def test_another_value_is_none(kind, value):
    assert not check_for(kind)(value)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Item, {"name": "a", "price": 2}, Item("a", 2.0)),
        (Item, Other("a", 1.5), Item("a", 1.5)),
        (Item | None, {"name": "a"}, Item("a")),
        (list[Item], [{"name": "a"}], [Item("a")]),
        (list[int], (1, 2), [1, 2]),
        (Color, "red", Color.RED),
    ],
    ids=repr,
)
def test_a_value_of_the_same_json_becomes_an_instance(kind, value, expected):
    assert codec_for(Any, kind).typed.admit_answer(value) == expected


@pytest.mark.parametrize(
    ("kind", "value"), [(int, "7"), (Item, {}), (list[Item], [{"name": 7}]), (bool, "false"), (str, Opaque())], ids=repr
)
def test_an_answer_that_does_not_fit_is_an_error_of_its_own(kind, value):
    with pytest.raises(ReplyTypeError):
        codec_for(Any, kind).typed.admit_answer(value)


@pytest.mark.parametrize("value", [{"name": "a"}, Other("a"), 7, None], ids=repr)
def test_a_request_of_another_class_is_refused_as_over_a_wire(value):
    codec = codec_for(Item, Any)
    with pytest.raises(UnserializableRequestError) as over_wire:
        codec.encode(value)
    with pytest.raises(UnserializableRequestError) as here:
        codec.typed.admit_request(value)
    assert here.value.message == over_wire.value.message


def test_a_request_whose_elements_do_not_fit_is_refused():
    with pytest.raises(UnserializableRequestError):
        codec_for(list[int], Any).typed.admit_request(["1"])


def test_untyped_values_need_no_check():
    codec = codec_for()
    assert codec.request_class is None
    assert codec.answer_class is None
