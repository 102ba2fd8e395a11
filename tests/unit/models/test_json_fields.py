"""Other names in JSON, and fields that are left out."""

import dataclasses
from typing import Any

import attrs
import pytest

from goplugins import json_fields
from goplugins.errors import InvalidArgumentError, ReplyTypeError
from goplugins.transports.json_codec import codec_for


@json_fields({"class_": "class", "type_": "@type"}, omit_none=True)
@attrs.frozen
class Item:
    class_: str
    type_: int | None = None
    nested: "list[Item] | None" = None


@json_fields({"class_": "class", "type_": "@type"}, omit_none=True)
@dataclasses.dataclass(frozen=True)
class ItemOfDataclass:
    class_: str
    type_: int | None = None
    nested: "list[ItemOfDataclass] | None" = None


@pytest.mark.parametrize("kind", [Item, ItemOfDataclass])
def test_a_field_has_its_name_in_json_both_ways(kind: Any) -> None:
    codec = codec_for(kind, kind)
    value = kind("a", 1, [kind("b")])
    assert codec.encode(value) == b'{"class":"a","@type":1,"nested":[{"class":"b"}]}'
    assert codec.decode({"class": "a", "@type": 1, "nested": [{"class": "b"}]}) == value
    with pytest.raises(ReplyTypeError, match="class_"):
        codec.decode({"class_": "a"})


@json_fields(omit_none=["note"])
@attrs.frozen(kw_only=True)
class Sparse:
    note: str | None = None
    count: int | None = None
    size: int = 0


@json_fields({"extra": "+1"})
@attrs.frozen(kw_only=True)
class Fuller(Sparse):
    extra: int = 1


def test_only_named_fields_are_left_out_and_only_for_none() -> None:
    assert codec_for(Sparse).encode(Sparse()) == b'{"count":null,"size":0}'
    assert codec_for(Sparse).encode(Sparse(note="", count=1)) == b'{"count":1,"size":0,"note":""}'


def test_a_subclass_inherits_and_adds() -> None:
    assert codec_for(Fuller).encode(Fuller()) == b'{"count":null,"size":0,"+1":1}'
    assert codec_for(Any, Fuller).decode({"+1": 3}) == Fuller(extra=3)


def test_plain_classes_write_null_as_before() -> None:
    @attrs.frozen
    class Plain:
        note: str | None = None

    assert codec_for(Plain).encode(Plain()) == b'{"note":null}'


@pytest.mark.parametrize(
    ("names", "omit_none", "reason"),
    [
        ({"missing": "x"}, False, "has no field 'missing', only note, count, size"),
        ({}, ["missing"], "has no field 'missing'"),
        ({"note": "count"}, False, "two fields of Sparse are 'count' in JSON"),
        ({}, ["size"], "size of Sparse has not the default None"),
    ],
)
def test_a_mistake_is_reported_at_the_class(names: dict[str, str], omit_none: Any, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        json_fields(names, omit_none=omit_none)(attrs.make_class("Sparse", {}, (Sparse,)))


def test_the_decorator_belongs_above_that_of_the_class() -> None:
    class Undecorated:
        note: str | None = None

    with pytest.raises(InvalidArgumentError, match="neither an attrs class nor a dataclass: write @json_fields above"):
        json_fields(omit_none=True)(Undecorated)
