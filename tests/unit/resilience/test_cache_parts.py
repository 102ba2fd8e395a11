"""What the cache holds and by what it is found: copies that nobody shares, and keys that mix nothing up."""

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


class Awkward:
    """It pickles, and does not come back."""

    def __init__(self, first):
        self.first = first

    def __reduce__(self):
        return (Awkward, ())

    def __deepcopy__(self, memo):
        return Awkward(self.first)


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2.5, "text", b"bytes", [1, [2]], {"a": {"b": []}}, Answer("u", ["r"]), Row({"a": 1}), (1, [2])],
    ids=repr,
)
def test_each_caller_gets_an_equal_value(value):
    copies = CopyableValue.of(value)
    assert copies.copy() == value
    assert type(copies.copy()) is type(value)


@pytest.mark.parametrize("value", [[1], {"a": 1}, Answer("u", ["r"]), Row({"a": 1})], ids=repr)
def test_no_two_callers_share_what_can_change(value):
    copies = CopyableValue.of(value)
    assert copies.copy() is not copies.copy()
    assert copies.copy() is not value


def test_what_one_caller_does_to_its_answer_is_seen_by_no_other():
    value = Answer("u", ["reader"])
    copies = CopyableValue.of(value)
    value.roles.append("changed after it was kept")
    copies.copy().roles.append("changed by one who got it")
    assert copies.copy().roles == ["reader"]


def test_an_object_without_a_pickle_is_copied():
    @attrs.define
    class Local:
        items: list[int]

    copies = CopyableValue.of(Local([1]))
    copies.copy().items.append(2)
    assert copies.copy() == Local([1])


def test_an_object_that_does_not_come_back_from_its_pickle_is_copied():
    copies = CopyableValue.of(Awkward(7))
    assert copies.copy().first == 7


@pytest.mark.parametrize("value", [threading.Lock(), (x for x in ())], ids=["lock", "generator"])
def test_what_can_not_be_copied_is_said_to_be_so(value):
    assert CopyableValue.of(value) is None
    assert CacheEntry.of(call(), value) is None


def test_a_size_is_known_as_far_as_it_can_be():
    assert CopyableValue.of("x" * 100).size == 100
    assert CopyableValue.of(["x" * 100]).size > 100
    assert CacheEntry.of(call(payload=b"x" * 50), "x" * 100).size == 150


def test_metadata_is_shared_with_nobody_either():
    first, second, third = call(), call(), call()
    first.reply_metadata = {"rows": "3"}
    kept = CacheEntry.of(first, "answer")
    kept.respond(second, "cache")
    second.reply_metadata["rows"] = "4"
    kept.respond(third, "stale")
    assert (third.reply_metadata, third.source) == ({"rows": "3"}, "stale")


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
def test_what_makes_another_question_makes_another_key(fields):
    assert key(**fields) != key()
    assert hash(key(**fields)) == hash(key(**fields))
    assert key(**fields) == key(**fields)


def test_only_the_named_headers_count_whatever_the_case_of_their_letters():
    plain = key(["Accept-Language"])
    german = key(["Accept-Language"], headers={"ACCEPT-language": "de"})
    assert german == key(["accept-LANGUAGE"], headers={"accept-language": "de", "X-Trace": "1"})
    assert german != key(["Accept-Language"], headers={"accept-language": "fr"})
    assert german != plain
    assert key(["Accept-Language"], headers={"X-Trace": "1"}) == plain


def test_the_order_of_headers_and_metadata_makes_no_difference():
    one = key(["a", "b"], headers={"a": "1", "b": "2"}, metadata={"x": "1", "y": "2"})
    assert one == key(["b", "a"], headers={"b": "2", "a": "1"}, metadata={"y": "2", "x": "1"})


def test_a_deed_with_an_idempotency_key_of_its_own_is_not_taken_for_another():
    assert key(headers={"Idempotency-Key": "charge-1"}) != key(headers={"Idempotency-Key": "charge-2"})
    assert key(headers={"Idempotency-Key": "charge-1"}) == key(headers={"idempotency-key": "charge-1"})


@pytest.mark.parametrize("header", ["Authorization", "cookie", "Proxy-Authorization", "X-API-Key"])
def test_an_answer_to_credentials_of_the_calls_own_is_nobody_elses(header):
    assert key(headers={header: "secret of one"}) is None
    mine = key([header], headers={header: "secret of one"})
    assert mine is not None
    assert mine != key([header], headers={header: "secret of another"})


def test_a_request_that_no_wire_wrote_is_written_for_the_key():
    one = key(payload=b"", request={"id": 1})
    assert one == key(payload=b"", request={"id": 1})
    assert one != key(payload=b"", request={"id": 2})


def test_an_empty_message_and_its_json_are_not_taken_for_each_other():
    assert key(payload=b"", request={}) != key(payload=b"{}")


def test_a_request_without_json_is_refused_with_what_needs_it():
    with pytest.raises(UnserializableRequestError, match="a plugin with a cache needs it as JSON"):
        key(payload=b"", request=object())
