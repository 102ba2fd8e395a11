"""Cache entries: copies for each caller, sizes, metadata; and cache keys."""

from __future__ import annotations

import dataclasses
import threading

import attrs
import pytest

from goplugins.errors import UnserializableRequestError
from goplugins.resilience.cache_entry import CacheEntry, CacheKeys, CopyableValue
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.json_codec import codec_for


@attrs.frozen
class Answer:
    user: str
    roles: list[str]


@dataclasses.dataclass
class Row:
    values: dict[str, int]


class OneWay:
    """It can be pickled, and not unpickled."""

    def __init__(self, first):
        self.first = first

    def __reduce__(self):
        return (OneWay, ())

    def __deepcopy__(self, memo):
        return OneWay(self.first)


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2.5, "text", b"bytes", [1, [2]], {"a": {"b": []}}, Answer("u", ["r"]), Row({"a": 1}), (1, [2])],
    ids=repr,
)
def test_each_caller_gets_an_equal_value(value):
    copyable = CopyableValue.of(value)
    assert copyable.copy() == value
    assert type(copyable.copy()) is type(value)


@pytest.mark.parametrize("value", [[1], {"a": 1}, Answer("u", ["r"]), Row({"a": 1})], ids=repr)
def test_mutable_values_are_not_shared(value):
    copyable = CopyableValue.of(value)
    assert copyable.copy() is not copyable.copy()
    assert copyable.copy() is not value


def test_a_change_to_one_copy_is_not_seen_in_others():
    value = Answer("u", ["reader"])
    copyable = CopyableValue.of(value)
    value.roles.append("changed after it was stored")
    copyable.copy().roles.append("changed by a caller")
    assert copyable.copy().roles == ["reader"]


def test_an_object_that_can_not_be_pickled_is_copied():
    @attrs.define
    class Local:
        items: list[int]

    copyable = CopyableValue.of(Local([1]))
    copyable.copy().items.append(2)
    assert copyable.copy() == Local([1])


def test_an_object_that_can_not_be_unpickled_is_copied():
    copyable = CopyableValue.of(OneWay(7))
    assert copyable.copy().first == 7


@pytest.mark.parametrize("value", [threading.Lock(), (x for x in ())], ids=["lock", "generator"])
def test_an_object_that_can_not_be_copied(value):
    assert CopyableValue.of(value) is None
    assert CacheEntry.of(call(), value) is None


class Unpicklable:
    def __reduce__(self):
        raise TypeError

    def __deepcopy__(self, memo):
        return self


def test_the_size_of_an_entry_is_that_of_response_request_and_metadata():
    assert CopyableValue.of("x" * 100).size == 100
    assert CopyableValue.of(["x" * 100]).size > 100
    assert CopyableValue.of(7).size == CopyableValue.of(Unpicklable()).size == 0
    stored = call(payload=b"x" * 50)
    assert CacheEntry.of(stored, "x" * 100).size == 150
    stored.reply_metadata = {"k": "v"}
    assert CacheEntry.of(stored, "x" * 100).size == 150 + len("('k', 'v')")


def test_another_call_gets_member_source_and_metadata_of_its_own():
    first, second, third = call(), call(), call()
    first.reply_metadata = {"rows": "3"}
    first.member = "shop-2"
    entry = CacheEntry.of(first, "answer")
    entry.respond(second, "cache")
    second.reply_metadata["rows"] = "4"
    entry.respond(third, "stale")
    assert (third.reply_metadata, third.source, third.member) == ({"rows": "3"}, "stale", "shop-2")


# --- keys ----------------------------------------------------------------------------------------------------------

ANY = codec_for()


def call(payload=b'"request"', request="request", codec=ANY, **fields):
    made = Call(request, codec, Deadline.after(30.0, ManualClock()), "id", idempotent=True, **fields)
    made.payload = payload
    return made


def key(vary=(), **fields):
    return CacheKeys(vary).of(call(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": b'"other"'},
        {"key": "user-1"},
        {"codec": codec_for(str, str)},
        {"metadata": {"tenant": "a"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_payload_key_codec_and_metadata_are_part_of_the_key(fields):
    assert key(**fields) != key()
    assert hash(key(**fields)) == hash(key(**fields))
    assert key(**fields) == key(**fields)


def test_vary_headers_are_part_of_the_key_in_any_case_of_letters():
    plain = key(["Accept-Language"])
    german = key(["Accept-Language"], headers={"ACCEPT-language": "de"})
    assert german == key(["accept-LANGUAGE"], headers={"accept-language": "de", "X-Trace": "1"})
    assert german != key(["Accept-Language"], headers={"accept-language": "fr"})
    assert german != plain
    assert key(["Accept-Language"], headers={"X-Trace": "1"}) == plain


def test_the_order_of_headers_and_metadata_makes_no_difference():
    one = key(["a", "b"], headers={"a": "1", "b": "2"}, metadata={"x": "1", "y": "2"})
    assert one == key(["b", "a"], headers={"b": "2", "a": "1"}, metadata={"y": "2", "x": "1"})


def test_an_idempotency_key_is_part_of_the_key():
    assert key(headers={"Idempotency-Key": "charge-1"}) != key(headers={"Idempotency-Key": "charge-2"})
    assert key(headers={"Idempotency-Key": "charge-1"}) == key(headers={"idempotency-key": "charge-1"})


@pytest.mark.parametrize("header", ["Authorization", "cookie", "Proxy-Authorization", "X-API-Key"])
def test_a_call_with_its_own_credentials_is_not_cached_unless_they_vary(header):
    assert key(headers={header: "one secret"}) is None
    mine = key([header], headers={header: "one secret"})
    assert mine is not None
    assert mine != key([header], headers={header: "another secret"})


def test_a_request_without_payload_is_encoded_for_the_key():
    one = key(payload=b"", request={"id": 1})
    assert one == key(payload=b"", request={"id": 1})
    assert one != key(payload=b"", request={"id": 2})


def test_an_empty_payload_differs_from_its_json():
    assert key(payload=b"", request={}) != key(payload=b"{}")


def test_a_request_that_can_not_be_encoded_is_refused():
    with pytest.raises(UnserializableRequestError, match="a plugin with a cache needs it as JSON"):
        key(payload=b"", request=object())
