"""Limits of a request: the shortest timeout of headers and settings applies; invalid headers are ignored."""

from __future__ import annotations

import os
import re
import sys
import types
from typing import Any

import pytest

from goplugins import ExecutionContext, PluginTimeoutError, deadline
from goplugins.contrib._request_limits import Limits, Scope, grpc_timeout, header_timeout, usable_request_id
from goplugins.doctor import this_process
from goplugins.runtime.request_ids import RequestIds, current_request_id, serving
from goplugins.testing import ManualClock
from tests.unit.contrib.probes import manager_with_probe


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(this_process._limits, os.getpid(), None)


def seconds_of(limits: Limits, clock: ManualClock, **headers: str) -> float | None:
    """Remaining seconds of a call within the request; None without a limit."""
    found = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    scope = limits.scope(lambda name: found.get(name.lower()))
    with scope.answering(), deadline(1e6, clock=clock) as left:
        remaining = left.remaining()
    return None if remaining > 1e5 else remaining


# --- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2.0), ("0.25", 0.25), (" 3 ", 3.0), ("500ms", 0.5), ("1m30s", 90.0), ("1h", 3600.0), ("007", 7.0)],
)
def test_a_request_timeout_is_seconds_or_a_go_duration(text: str, seconds: float) -> None:
    assert header_timeout(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.0", "0s", "-1", "-2s", "nan", "inf", "1e3", "soon", "2 s", "2,3", "٣", "1" * 400, "2s\r\nX: y", "+2"],
)
def test_an_invalid_request_timeout_is_ignored(text: str) -> None:
    assert header_timeout(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500m", 0.5), ("2S", 2.0), ("1M", 60.0), ("1H", 3600.0), ("100u", 1e-4), ("99999999n", 0.099999999)],
)
def test_grpc_timeout_has_its_own_units(text: str, seconds: float) -> None:
    assert grpc_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "500", "0m", "1.5S", "123456789m", "500ms", "-1S", "5 m", "٣S"])
def test_an_invalid_grpc_timeout_is_ignored(text: str) -> None:
    assert grpc_timeout(text) is None


# --- deadlines -----------------------------------------------------------------------------------------------------


def test_the_shortest_timeout_applies(clock: ManualClock) -> None:
    limits = Limits(10.0, clock=clock)
    assert seconds_of(limits, clock) == 10
    assert seconds_of(limits, clock, X_Request_Timeout="2s") == 2
    assert seconds_of(limits, clock, X_Request_Timeout="2s", grpc_timeout="500m") == 0.5
    assert seconds_of(limits, clock, X_Request_Timeout="500ms", grpc_timeout="2S") == 0.5


def test_a_header_only_shortens_the_setting(clock: ManualClock) -> None:
    assert seconds_of(Limits(10.0, clock=clock), clock, X_Request_Timeout="60") == 10


def test_a_header_without_a_setting_applies(clock: ManualClock) -> None:
    assert seconds_of(Limits(clock=clock), clock, X_Request_Timeout="3") == 3


def test_without_timeouts_there_is_no_limit(clock: ManualClock) -> None:
    assert seconds_of(Limits(clock=clock), clock) is None
    assert seconds_of(Limits(clock=clock), clock, X_Request_Timeout="nonsense", grpc_timeout="nonsense") is None


def test_headers_can_be_renamed_and_disabled(clock: ManualClock) -> None:
    renamed = Limits(timeout_headers=("X-Patience",), clock=clock)
    assert seconds_of(renamed, clock, X_Patience="4") == 4
    assert seconds_of(renamed, clock, X_Request_Timeout="1") is None
    assert seconds_of(Limits(timeout_headers=(), clock=clock), clock, X_Request_Timeout="1") is None


def test_the_limit_of_the_server_is_shortened_by_the_time_to_answer(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    uwsgi: Any = types.ModuleType("uwsgi")
    uwsgi.opt, uwsgi.numproc, uwsgi.has_threads = {"harakiri": b"11"}, 1, 1
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    monkeypatch.delitem(this_process._limits, os.getpid())
    assert seconds_of(Limits(30.0, clock=clock), clock) == 9
    assert seconds_of(Limits(5.0, clock=clock), clock) == 5


def test_an_enclosing_deadline_still_applies(clock: ManualClock) -> None:
    with deadline(1.0, clock=clock):
        assert seconds_of(Limits(10.0, clock=clock), clock) == 1
    assert seconds_of(Limits(10.0, clock=clock), clock) == 10


def test_the_deadline_counts_from_the_start_of_the_request(clock: ManualClock) -> None:
    scope = Limits(clock=clock).scope({"X-Request-Timeout": "3"}.get)
    clock.advance(2.0)
    with scope.answering(), deadline(60.0, clock=clock) as left:
        assert left.remaining() == 1


def test_a_stream_has_the_timeout_of_the_header_only(clock: ManualClock) -> None:
    scope = Limits(2.0, clock=clock).scope({"X-Request-Timeout": "30"}.get)
    with scope.answering(), deadline(60.0, clock=clock) as left:
        assert left.remaining() == 2
    clock.advance(10.0)
    with scope.streaming(), deadline(60.0, clock=clock) as left:
        assert left.remaining() == 20


def test_a_call_after_the_deadline_makes_no_attempt() -> None:
    scope = Scope("r", 1e-9, None)
    with manager_with_probe() as manager, scope.streaming(), pytest.raises(PluginTimeoutError) as raised:
        manager.execute("probe", "")
    assert raised.value.attempts == 0


# --- ids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["7", "a-b_c.d:e/f=g+h@i~j", "x" * 128, "0af7651916cd43dd8448eb211c80319c"])
def test_a_valid_id_is_used(text: str) -> None:
    assert usable_request_id(text) == text
    assert Limits().scope({"X-Request-ID": text}.get).request_id == text


@pytest.mark.parametrize("text", ["", "a b", "a\r\nSet-Cookie: b=c", "a\n", "x" * 129, "ü", "<script>", "a;b", "\0"])
def test_an_invalid_id_is_replaced(text: str) -> None:
    assert usable_request_id(text) is None
    made = Limits().scope({"X-Request-ID": text}.get).request_id
    assert made is not None
    assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", made)


def test_without_a_header_name_there_is_no_id() -> None:
    assert Limits(request_id_header="").scope({"": "7", "X-Request-ID": "7"}.get).request_id is None


def test_ids_of_calls_begin_with_the_request_id_and_are_unique() -> None:
    with manager_with_probe() as manager, serving("order-7"):
        answers = [manager.execute("probe", "") for _ in range(3)]
        batch = list(manager.map("probe", ["a", "b", "c"]))
    ids = [answer["request_id"] for answer in (*answers, *batch)]
    assert all(each.startswith("order-7.") for each in ids)
    assert len(set(ids)) == 6


def test_an_id_in_the_context_of_a_call_is_kept() -> None:
    with manager_with_probe() as manager, serving("order-7"):
        assert manager.execute("probe", "", ExecutionContext(request_id="mine"))["request_id"] == "mine"


def test_the_request_id_ends_with_its_block() -> None:
    make = RequestIds()
    with serving("outer"):
        with serving("inner"):
            assert current_request_id() == "inner"
        with serving(None):
            assert current_request_id() == "outer"
        assert make().startswith("outer.")
    assert current_request_id() is None
    assert "." not in make()


def test_two_requests_with_one_id_make_calls_with_different_ids() -> None:
    """Clients choose the header; an equal one must not lead to the answer of another request."""
    found = set()
    for _ in range(2):
        with manager_with_probe() as manager, serving("chosen"):
            found.add(manager.execute("probe", "")["request_id"])
    assert len(found) == 2
