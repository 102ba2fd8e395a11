"""Values and call metadata are transmitted unchanged over all transports."""

from __future__ import annotations

import datetime
import decimal
import random
import string
import uuid
from typing import Any

from goplugins import ExecutionContext
from tests.integration.conformance.plugins import Colour, Done, Line, Order, Receipt, Task, lines_of

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64 + 1,
    10**40,
    0.0,
    -0.0,
    1.0,
    0.1,
    -1e-7,
    1.7976931348623157e308,
    5e-324,
    "",
    "text",
    "line\nbreaks\r\n and \ttabs",
    "\u2028 and \u2029",
    "\x00 within",
    "\x7f\x85\ufeff\ufffd",
    "é ß 漢字 العربية",
    "😀 👩\u200d👩\u200d👧",
    'quotes " and \\ and / and </script>',
    [],
    {},
    [[], [[]], {}, [None]],
    [1, "two", 3.0, None, True, {"six": [6]}],
    {"": "an empty name", "é\n\x00": 1, "nested": {"a": {"b": {"c": [1, 2, {"d": None}]}}}},
    {"data": None, "error": "no error", "request_id": "another", "success": False, "type": "ping", "error_kind": "x"},
    {"__class__": "Order", "$ref": "#"},
    ["NaN", "Infinity", "null"],
]


def same(one: Any, other: Any) -> bool:
    """Whether values and types are equal: True is not 1, 1 is not 1.0, -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other)


def test_json_values_make_the_round_trip(connect):
    manager = connect("echo", Any, Any)
    received = [manager.execute("p", value) for value in VALUES]
    different = [(sent, reply) for sent, reply in zip(VALUES, received, strict=True) if not same(sent, reply)]
    assert different == []


def test_typed_request_and_response(connect):
    order = Order(
        id=uuid.UUID("12345678-1234-5678-1234-567812345678"),
        at=datetime.datetime(2024, 2, 29, 23, 59, 59, 999999, datetime.UTC),
        lines=[Line("pen", 3, decimal.Decimal("0.10"), ["blue", "\u2028"]), Line("", 2**40, decimal.Decimal("1e-9"))],
        colour=Colour.GREEN,
        photo=bytes(range(256)),
        stock={"a": 2**63, "é": -1},
        weight=1.5,
        note="urgent",
    )
    manager = connect("orders", Order, Receipt)
    receipt = manager.execute("p", order)
    assert receipt == Receipt(order, decimal.Decimal("1099.811627776"), urgent=True)
    assert type(receipt.order.lines[0].price) is decimal.Decimal


def test_three_mebibytes_both_ways(connect):
    manager = connect("echo", Any, Any)
    text = "".join(random.Random(7).choices(string.printable[:90], k=1000))
    value = [text] * (3 * 1024 * 1024 // 1010)
    assert manager.execute("p", value) == value
    assert manager.execute("p", "small") == "small"


def test_the_plugin_gets_headers_metadata_timeout_and_request_id(connect):
    manager = connect()
    context = ExecutionContext(
        request_id="call-7",
        timeout=5.0,
        headers={"X-Tenant": "blue", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        metadata={"Reason": "a test", "é": "ü\u2028\n"},
    )
    result = manager.execute_result("p", Task(do="context"), context, headers={"X-User": "ada"})
    seen = result.value.value
    assert seen["request_id"] == result.request_id == "call-7"
    assert seen["headers"]["x-tenant"] == "blue"
    assert seen["headers"]["x-user"] == "ada"
    assert seen["headers"]["traceparent"] == context.headers["traceparent"]
    assert "idempotency-key" not in seen["headers"]
    assert seen["metadata"] == dict(context.metadata)
    assert 3.0 < seen["timeout"] <= 5.0
    assert result.attempts == 1


def test_all_attempts_of_an_idempotent_call_have_one_key(connect, ledger):
    manager = connect(retry={"initial_interval": 0.05})
    task = Task(do="unavailable", times=2, ledger=str(ledger))
    for _ in range(2):
        manager.execute("p", task, idempotent=True, timeout=5)
    attempts = [line.split() for line in lines_of(ledger)]
    keys = [key for _, key, _, _ in attempts]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 2
    assert "-" not in keys
    remaining = [float(seconds) for _, _, seconds, _ in attempts[:3]]
    assert remaining == sorted(remaining, reverse=True)
    assert remaining[0] > remaining[2] > 0


def test_a_key_in_the_headers_of_the_call_is_kept(connect):
    manager = connect()
    done: Done = manager.execute("p", Task(do="context"), idempotent=True, headers={"Idempotency-Key": "mine"})
    assert done.value["headers"]["idempotency-key"] == "mine"
