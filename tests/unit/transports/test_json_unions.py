"""Unions of different kinds of JSON value."""

import datetime
import json
import uuid
from typing import Any, Literal

import attrs
import pytest

from goplugins import json_fields
from goplugins.errors import InvalidArgumentError, ReplyTypeError
from goplugins.transports.json_codec import codec_for


@attrs.frozen
class A:
    a: int


@attrs.frozen
class B:
    b: int
    inner: "B | list[B] | str | None" = None


@json_fields({"a_": "a"})
@attrs.frozen
class Renamed:
    a_: str


WHEN = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (A | list[A], {"a": 1}, A(1)),
        (A | list[A], [{"a": 1}], [A(1)]),
        (A | B | list[A | B] | None, [{"b": 1}, {"a": 2}], [B(1), A(2)]),
        (datetime.datetime | A, "2026-01-31T00:00:00+00:00", WHEN),
        (datetime.datetime | A, {"a": 1}, A(1)),
        (list[str] | dict[str, int] | None, {"x": 1}, {"x": 1}),
        (list[str] | dict[str, int] | None, None, None),
        (float | list[str], 1, 1.0),
        (Literal["auto"] | A, "auto", "auto"),
        (uuid.UUID | int | bool, True, True),
        (Renamed | B | str, {"a": "x"}, Renamed("x")),
        (B, {"b": 1, "inner": [{"b": 2, "inner": "end"}]}, B(1, [B(2, "end")])),
    ],
)
def test_a_union_of_different_kinds_is_decoded_by_the_kind(kind: Any, data: Any, value: Any) -> None:
    codec = codec_for(kind, kind)
    assert codec.decode(data) == value
    assert codec.decode(json.loads(codec.encode(value))) == value


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (A | list[A], "text", "a JSON str is none of dict, list @ data"),
        (A | list[A], [{"a": "1"}], r"expected an integer, got a string @ data\[0\].a"),
        (Literal["auto"] | A, "manual", "manual not in literal"),
    ],
)
def test_a_value_of_no_member_is_refused(kind: Any, data: Any, reason: str) -> None:
    with pytest.raises(ReplyTypeError, match=reason):
        codec_for(Any, kind).decode(data)


@attrs.frozen
class Vague:
    x: int | None = None


@attrs.frozen
class Vaguer:
    y: int | None = None


@pytest.mark.parametrize("kind", [Vague | Vaguer, Vague | Vaguer | str, A | dict[str, int], list[A] | list[B]])
def test_a_union_that_json_cannot_decide_is_refused_when_it_is_used(kind: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="can't be decoded from JSON"):
        codec_for(Any, kind)
