"""A value is converted until its first faults, or its caller's deadline: not for as long as it has elements."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import pytest

from goplugins import serve
from goplugins.errors import InvalidArgumentError, PluginTimeoutError, ReplyTypeError
from goplugins.runtime.deadline import Deadline
from goplugins.serve._dispatch import Incoming, Kind, dispatch
from goplugins.testing import ManualClock
from goplugins.transports.conversion_limits import MAX_FAULTS, STEP
from goplugins.transports.json_codec import codec_for

COUNT = 3 * STEP
LONG = 4000
"""Characters of an error, with its beginning."""


class Colour(enum.Enum):
    RED = "red"


class Row(TypedDict):
    a: int
    b: str


class Pair(NamedTuple):
    a: int
    b: str


@attrs.frozen
class Item:
    a: int = 0
    b: str = ""


@attrs.frozen
class Tree:
    left: Tree | None = None
    right: Tree | None = None
    value: int = 0


def tree(depth: int, value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value}
    for _ in range(depth):
        found = {"value": value, "left": found, "right": found}
    return found


FAULTY: dict[str, tuple[Any, Any]] = {
    "class": (list[Item], [0] * COUNT),
    "field": (list[Item], [{"a": "x"}] * COUNT),
    "two fields": (list[Item], [{"a": "x", "b": 1}] * COUNT),
    "number": (list[int], ["x"] * COUNT),
    "tuple": (tuple[int, ...], ["x"] * COUNT),
    "set": (set[int], ["x"] * COUNT),
    "sequence": (Sequence[int], ["x"] * COUNT),
    "nested": (list[list[int]], [["x"] * 50] * COUNT),
    "nested and short": (list[list[list[int]]], [[["x"]] * 90] * 90),
    "places": (list[tuple[int, str]], [["x", 1]] * COUNT),
    "named tuple": (list[Pair], [["x", 1]] * COUNT),
    "typed dictionary": (list[Row], [{}] * COUNT),
    "table": (dict[str, int], {f"k{n}": "x" for n in range(COUNT)}),
    "table of classes": (Mapping[str, Item], {f"k{n}": 0 for n in range(COUNT)}),
    "long keys": (dict[str, int], {f"{n}" + "k" * 10_000: "x" for n in range(20)}),
    "enumeration": (list[Colour], ["blue" * 1000] * COUNT),
    "literal": (list[Literal["a"]], ["b" * 1000] * COUNT),
    "time": (list[datetime.datetime], ["x" * 1000] * COUNT),
    "optional": (list[Item | None], [0] * COUNT),
    "tree": (Tree, tree(13, "x")),
}

FITTING: dict[str, tuple[Any, Any]] = {
    "defaults": (list[Item], [{}] * COUNT),
    "numbers": (list[int], [0] * COUNT),
    "nested and short": (list[list[int]], [[]] * COUNT),
    "table": (dict[str, int], {str(n): n for n in range(COUNT)}),
    "tree": (Tree, tree(13, 1)),
}


@pytest.mark.parametrize("name", FAULTY)
def test_the_first_faults_end_a_conversion(name):
    kind, data = FAULTY[name]
    with pytest.raises(ReplyTypeError) as caught:
        codec_for(Any, kind).decode(data)
    message = str(caught.value)
    assert len(message) < LONG
    assert "data" in message
    assert message.count(" @ ") <= MAX_FAULTS
    assert _size(caught.value.__cause__) < 40 * MAX_FAULTS


def _size(exc: BaseException | None) -> int:
    return 1 + sum(map(_size, getattr(exc, "exceptions", ())))


@pytest.mark.parametrize("name", FAULTY)
def test_a_served_plugin_refuses_a_request_with_its_first_faults(name):
    kind, data = FAULTY[name]
    plugin = serve.plugin(request=kind, response=Any)(lambda request: None)
    with pytest.raises(InvalidArgumentError) as caught:
        plugin.decode(data)
    assert len(str(caught.value)) < LONG


def test_all_faults_are_listed_while_they_are_few():
    with pytest.raises(ReplyTypeError) as caught:
        codec_for(Any, list[Item]).decode([{}, {"a": "x"}, {"b": 2}, 3])
    message = str(caught.value)
    for part in ("data[1].a", "data[2].b", "data[3]"):
        assert part in message
    assert "further" not in message


def test_faults_of_one_value_do_not_count_for_the_next():
    codec = codec_for(Any, list[Item])
    for _ in range(3):
        with pytest.raises(ReplyTypeError, match=r"there may be further faults"):
            codec.decode([0] * COUNT)
        assert codec.decode([{"a": 1}]) == [Item(1)]


@pytest.mark.parametrize("name", FITTING)
def test_the_deadline_ends_a_conversion(name):
    kind, data = FITTING[name]
    codec = codec_for(Any, kind)
    clock = ManualClock()
    assert codec.decode(data, Deadline.after(1.0, clock)) is not None
    over = Deadline.after(1.0, clock)
    clock.advance(2.0)
    with pytest.raises(PluginTimeoutError, match="while the data was converted"):
        codec.decode(data, over)
    assert codec.decode(data) is not None


def test_a_caller_of_a_served_plugin_that_waits_no_longer_ends_the_conversion_of_its_request():
    clock = ManualClock()

    class Slow(list[Any]):
        """Its elements take a second."""

        def __iter__(self):
            for item in [{}] * COUNT:
                clock.advance(1.0)
                yield item

        def __len__(self) -> int:
            return COUNT

    plugin = serve.plugin(request=list[Item], response=int)(len)
    outcome = dispatch(plugin, Incoming(Slow(), "r", clock.monotonic(), timeout=10.0), clock)
    assert outcome.kind is Kind.EXPIRED
