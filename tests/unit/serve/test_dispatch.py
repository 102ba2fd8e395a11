from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest

from goplugins import serve
from goplugins.errors import InvalidArgumentError, PluginTimeoutError
from goplugins.models.context import ExecutionContext
from goplugins.runtime.deadline import Deadline
from goplugins.serve._dispatch import Incoming, Kind, Outcome, dispatch, parse_request, text_field, texts_field
from goplugins.testing import ManualClock


@serve.plugin
def half(request: int, context: ExecutionContext) -> float:
    return request / 2


def test_the_response_is_json() -> None:
    assert dispatch(half, Incoming(3, "r", 0.0)) == Outcome(Kind.OK, b"1.5")


def test_the_context_has_the_callers_values() -> None:
    seen: list[ExecutionContext] = []

    @serve.plugin
    def record(request: Any, context: ExecutionContext) -> None:
        seen.append(context)

    clock = ManualClock(10.0)
    incoming = Incoming(None, "req-1", 8.0, 5.0, {"X-Trace-ID": "t"}, {"tenant": "a"})
    assert dispatch(record, incoming, clock) == Outcome(Kind.OK, b"null")
    (context,) = seen
    # The request waited two of its five seconds for a thread.
    assert (context.request_id, context.timeout) == ("req-1", 3.0)
    assert (context.headers, context.metadata) == ({"X-Trace-ID": "t"}, {"tenant": "a"})


def test_calls_within_the_function_end_with_the_callers_deadline() -> None:
    @serve.plugin
    def remaining(request: Any) -> float:
        return Deadline.after(60.0, clock).remaining()

    clock = ManualClock()
    assert dispatch(remaining, Incoming(None, "r", 0.0, 2.5), clock).data == b"2.5"
    assert dispatch(remaining, Incoming(None, "r", 0.0), clock).data == b"60.0"


@pytest.mark.parametrize("timeout", [0.0, -1.0, 2.0])
def test_known_fault_a_call_whose_deadline_has_passed_is_not_run(timeout: float) -> None:
    @serve.plugin
    def never(request: Any) -> None:
        pytest.fail("ran")

    assert dispatch(never, Incoming(None, "r", 0.0, timeout), ManualClock(2.0)).kind is Kind.EXPIRED


def test_a_nested_timeout_at_the_deadline_is_no_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()

    @serve.plugin
    def late(request: float) -> None:
        clock.advance(request)
        raise PluginTimeoutError("nested")

    assert dispatch(late, Incoming(5.0, "r", clock.monotonic(), 5.0), clock).kind is Kind.EXPIRED
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert dispatch(late, Incoming(1.0, "r", clock.monotonic(), 5.0), clock).kind is Kind.INTERNAL


def test_a_request_of_another_type_is_invalid(caplog: pytest.LogCaptureFixture) -> None:
    outcome = dispatch(half, Incoming("three", "r", 0.0))
    assert outcome.kind is Kind.INVALID
    assert "data" in outcome.error
    assert not caplog.records


def test_a_header_with_a_line_break_is_refused() -> None:
    outcome = dispatch(half, Incoming(1, "r", 0.0, headers={"X-A": "1\r\nX-B: 2"}))
    assert outcome.kind is Kind.INVALID
    assert "X-A" in outcome.error


def test_a_rejection_reaches_the_caller_and_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    @serve.plugin
    def refuse(request: Any) -> None:
        raise serve.Rejected("no", code="C", metadata={"k": "v"})

    assert dispatch(refuse, Incoming(None, "r", 0.0)) == Outcome(
        Kind.REJECTED, error="no", metadata={"k": "v", "error_code": "C"}
    )
    assert not caplog.records


def test_unavailable_is_an_outcome_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    @serve.plugin
    def full(request: float | None) -> None:
        raise serve.Unavailable("queue full", retry_after=request)

    assert dispatch(full, Incoming(1.5, "r", 0.0)) == Outcome(Kind.UNAVAILABLE, error="queue full", retry_after=1.5)
    assert dispatch(full, Incoming(None, "r", 0.0)).retry_after is None
    assert not caplog.records


@pytest.mark.parametrize(
    "error", [RuntimeError("password=hunter2"), SystemExit("bye"), asyncio.CancelledError(), MemoryError()]
)
def test_the_text_of_any_other_exception_is_only_logged(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    @serve.plugin
    def fail(request: Any) -> None:
        raise error

    outcome = dispatch(fail, Incoming({"card": "4111"}, "req-7", 0.0))
    assert outcome == Outcome(Kind.INTERNAL, error="internal error")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("goplugins.serve", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "req-7" in record.getMessage()
    assert "4111" not in record.getMessage()


def test_an_interrupt_propagates() -> None:
    @serve.plugin
    def fail(request: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dispatch(fail, Incoming(None, "r", 0.0))


@pytest.mark.parametrize("answer", [object(), float("nan"), {1, 2}.__iter__()])
def test_a_response_that_is_no_json_is_an_internal_error(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    @serve.plugin
    def odd(request: Any) -> Any:
        return answer

    assert dispatch(odd, Incoming(None, "r", 0.0)).kind is Kind.INTERNAL
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"data":1}x',
        b"[1]",
        b"null",
        b'"text"',
        b'{"data":NaN}',
        b'{"data":-Infinity}',
        b'{"data":"\xff"}',
        '{"data":1}'.encode("utf-16"),
        b'{"data":' + b"[" * 100_000,
        b'{"data":' + b"1" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    limit = sys.get_int_max_str_digits()
    assert limit == 4300  # the last body is longer
    with pytest.raises(InvalidArgumentError, match="the request is") as caught:
        parse_request(body)
    assert len(caught.value.message) <= 200


def test_fields_are_checked_by_type() -> None:
    envelope = parse_request(b'{"request_id":7,"headers":{"a":1},"metadata":null,"timeout":"1s"}')
    assert text_field(envelope, "timeout") == "1s"
    assert text_field(envelope, "absent") == ""
    assert texts_field(envelope, "metadata") == {}
    with pytest.raises(InvalidArgumentError, match="request_id: expected a string"):
        text_field(envelope, "request_id")
    with pytest.raises(InvalidArgumentError, match="headers: expected an object whose values are strings"):
        texts_field(envelope, "headers")
