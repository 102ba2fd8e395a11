"""The operation of a call in requests: one more field, and the bytes of before for a call without one."""

from __future__ import annotations

import json

import pytest

from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.transports.grpc.codecs import Envelope
from goplugins.transports.grpc.messages import messages
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.json_codec import codec_for
from goplugins.transports.line_messages import RequestLines


def call_of(operation: str, **fields: object) -> Call:
    deadline = Deadline.after(500.0, SYSTEM_CLOCK)
    call = Call(7, codec_for(), deadline, "r", operation=operation, **fields)  # type: ignore[arg-type]
    call.payload = b"7"
    return call


@pytest.mark.parametrize("fields", [{}, {"headers": {"A": "b"}}, {"metadata": {"c": "d"}}, {"idempotent": True}])
def test_the_name_is_one_field_of_its_own(fields):
    for operation in ("", "orders.get"):
        call = call_of(operation, **fields)
        envelope = json.loads(b'{"data":7' + RequestWriter.envelope_end(call))
        line = json.loads(RequestLines({}).execute(call, 5.0))
        message = messages().ExecuteRequest.FromString(Envelope().request(call, 5.0))
        assert [envelope.pop("operation", ""), line.pop("operation", ""), message.operation] == [operation] * 3
        if operation:
            others = envelope.keys(), line, message
        else:
            without = envelope.keys(), line, message
    others[2].operation = ""
    assert others == without


def test_a_call_without_an_operation_has_the_bytes_of_before():
    call = call_of("")
    assert RequestWriter.envelope_end(call).startswith(b',"request_id":"r","timeout":"8m')
    assert RequestWriter.envelope_end(call).endswith(b's"}')
    assert RequestLines({}).execute(call, 5.0) == (b'{"type":"execute","request_id":"r","data":7,"timeout_ms":5000}\n')
    assert Envelope().request(call, 5.0) == b"\x0a\x017\x12\x01r\x28\x88\x27"
    assert Envelope().request(call_of("x"), 5.0) == b"\x0a\x017\x12\x01r\x28\x88\x27\x32\x01x"
