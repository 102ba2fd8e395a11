"""Each mistake of a plugin or caller raises the same error over all transports."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from goplugins import (
    AuthenticationError,
    PluginExecutionError,
    PluginRequestError,
    PluginUnavailableError,
    ReplyTooLargeError,
    ReplyTypeError,
    UnserializableRequestError,
)
from goplugins.errors import InvalidHeaderError, TransportError
from tests.integration.conformance.conftest import executions, remote, slow
from tests.integration.conformance.plugins import Done, Task, lines_of

pytestmark = pytest.mark.matrix

FRAGILE = {"failure_threshold": 1, "min_request_threshold": 1}
"""Settings of a breaker that opens at the first failure."""


# --- business errors -----------------------------------------------------------------------------------------------


def test_a_rejection_has_text_code_and_metadata_and_is_no_failure(connect, ledger):
    manager = connect(circuit_breaker=FRAGILE)
    for _ in range(3):
        with pytest.raises(PluginExecutionError, match="not in stock") as caught:
            manager.execute("p", Task(do="reject", ledger=str(ledger)), idempotent=True)
    error = caught.value
    assert error.details["metadata"] == {"error_code": "SOLD_OUT", "sku": "42"}
    assert (error.plugin, error.attempts, error.retryable) == ("p", 1, False)
    assert executions(ledger) == 3
    assert manager.execute("p", Task(value=1)).value == 1


@remote
def test_an_exception_in_the_plugin_is_an_internal_error_without_details(connect):
    manager = connect()
    with pytest.raises(TransportError, match="internal error") as caught:
        manager.execute("p", Task(do="crash"))
    assert "hunter2" not in f"{caught.value} {caught.value.details} {caught.value.__cause__}"
    assert manager.execute("p", Task(value=1)).value == 1


@pytest.mark.parametrize("do", ["crash", "unserialisable"])
def test_an_exception_in_the_plugin_is_retried_only_if_idempotent(connect, ledger, do):
    manager = connect()
    task = Task(do=do, times=2, ledger=str(ledger), value=1)
    with pytest.raises(TransportError) as caught:
        manager.execute("p", task)
    assert (executions(ledger), caught.value.attempts) == (1, 1)
    result = manager.execute_result("p", task, idempotent=True)
    assert (executions(ledger), result.attempts) == (3, 2)
    assert result.value.value == 1


def test_exceptions_in_the_plugin_open_the_breaker(connect):
    manager = connect(circuit_breaker=FRAGILE)
    with pytest.raises(TransportError):
        manager.execute("p", Task(do="crash"))
    assert manager.explain("p").breaker == "open"


# --- an unavailable plugin ------------------------------------------------------------------------------------------


def test_unavailable_with_retry_after_is_retried_for_all_calls(connect, ledger):
    manager = connect()
    result = manager.execute_result("p", Task(do="unavailable for now", times=1, ledger=str(ledger), value=1))
    assert result.value.value == 1
    assert (result.attempts, executions(ledger)) == (2, 2)
    assert result.elapsed >= 0.2


def test_unavailable_with_retry_after_beyond_the_deadline_fails_at_once(connect, ledger):
    manager = connect()
    with pytest.raises(PluginUnavailableError, match="warming up") as caught:
        manager.execute("p", Task(do="unavailable for now", wait=30, ledger=str(ledger)), timeout=5)
    assert caught.value.retry_after == 30
    assert caught.value.retryable
    assert executions(ledger) == 1
    assert caught.value.elapsed < 4


def test_unavailable_without_retry_after_is_retried_only_if_idempotent(connect, ledger):
    manager = connect()
    task = Task(do="unavailable", times=2, ledger=str(ledger), value=1)
    with pytest.raises(PluginUnavailableError, match="warming up") as caught:
        manager.execute("p", task)
    assert (executions(ledger), caught.value.attempts, caught.value.retry_after) == (1, 1, None)
    assert manager.execute("p", task, idempotent=True).value == 1
    assert executions(ledger) == 3


def test_max_retries_limits_attempts(connect, ledger):
    manager = connect(retry={"max_retries": 2})
    with pytest.raises(PluginUnavailableError) as caught:
        manager.execute("p", Task(do="unavailable", ledger=str(ledger)), idempotent=True)
    assert (executions(ledger), caught.value.attempts) == (3, 3)


# --- types and sizes ------------------------------------------------------------------------------------------------


def test_a_request_of_a_wrong_type_names_the_field(connect, ledger):
    manager = connect("worker", Any, Any, circuit_breaker=FRAGILE)
    for request, path in (
        ({"do": 5, "ledger": str(ledger)}, r"data\.do"),
        ({"do": "answer", "seconds": "1", "ledger": str(ledger)}, r"data\.seconds"),
        (None, "data"),
    ):
        with pytest.raises(PluginRequestError, match=path) as caught:
            manager.execute("p", request, idempotent=True)
        assert caught.value.attempts == 1
    assert executions(ledger) == 0
    assert manager.execute("p", {"value": 1})["value"] == 1


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), {1j: 1}], ids=["object", "nan", "inf", "key"])
def test_a_request_without_a_json_form_is_not_sent(connect, ledger, value):
    manager = connect()
    with pytest.raises(UnserializableRequestError) as caught:
        manager.execute("p", Task(value=value, ledger=str(ledger)), idempotent=True)
    assert caught.value.attempts == 0
    assert executions(ledger) == 0
    assert manager.metrics().attempts_total == 0


def test_a_request_of_another_class_is_not_sent(connect):
    manager = connect()
    with pytest.raises(UnserializableRequestError, match="expected a Task, got a dict"):
        manager.execute("p", {"do": "answer"})


def test_a_header_with_a_line_break_is_not_sent(connect):
    manager = connect()
    with pytest.raises(InvalidHeaderError):
        manager.execute("p", Task(), headers={"X-Tenant": "blue\r\nX-Admin: yes"})
    assert manager.metrics().attempts_total == 0


def test_a_reply_of_a_wrong_type_names_the_field(connect, ledger):
    @attrs.frozen
    class Other:
        value: Any
        pid: str

    manager = connect(circuit_breaker=FRAGILE)
    with pytest.raises(ReplyTypeError, match=r"expected a string, got a number @ data\.pid") as caught:
        manager.bind("p", Task, Other)(Task(ledger=str(ledger)), idempotent=True)
    assert (caught.value.attempts, executions(ledger)) == (1, 1)
    assert manager.bind("p", Task, Done)(Task(value=1)).value == 1


@remote
def test_a_reply_that_is_too_large(connect, ledger):
    manager = connect(connection={"max_response_bytes": 65536, "max_connections": 1})
    assert len(manager.execute("p", Task(value="x" * 60_000)).value) == 60_000
    with pytest.raises(ReplyTooLargeError, match="65536") as caught:
        manager.execute("p", Task(value="x" * 1_000_000, ledger=str(ledger)), idempotent=True)
    assert (caught.value.attempts, executions(ledger)) == (1, 1)
    assert manager.execute("p", Task(value=1)).value == 1


# --- credentials ------------------------------------------------------------------------------------------------------

CREDENTIALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bearer": ({"method": "bearer", "token": "s3cret-token"}, {"token": "wrong-token"}),
    "api-key": ({"method": "api-key", "api_key": "s3cret-key"}, {"api_key": "wrong-key"}),
    "basic": ({"method": "basic", "username": "ada", "password": "s3cret:wörd"}, {"password": "wrong-word"}),
    "custom": (
        {"method": "custom", "headers": {"X-One": "s3cret-1", "X-Two": "2"}},
        {"headers": {"X-One": "s3cret-1"}},
    ),
}


@remote
def test_credentials(connect, start, ledger):
    check_credentials(connect, start, ledger, "bearer")


@slow
@remote
@pytest.mark.parametrize("method", sorted(set(CREDENTIALS) - {"bearer"}))
def test_credentials_of_another_method(connect, start, ledger, method):
    check_credentials(connect, start, ledger, method)


def check_credentials(connect, start, ledger, method):
    """Calls with the right, wrong and no credentials."""
    right, difference = CREDENTIALS[method]
    server = start(**right)
    accepted = connect(server, auth=right)
    assert accepted.execute("p", Task(value=1)).value == 1
    assert accepted.health()["p"].status == "healthy"
    seen = accepted.execute("p", Task(do="context")).value["headers"]
    assert not [value for value in seen.values() if "s3cret" in value], "credentials were passed to the function"
    for auth in ({**right, **difference}, {"method": "none"}):
        rejected = connect(server, auth=auth, circuit_breaker=FRAGILE, health_check={"failure_limit": 5})
        for _ in range(2):
            with pytest.raises(AuthenticationError) as caught:
                rejected.execute("p", Task(ledger=str(ledger)), idempotent=True)
        assert caught.value.attempts == 1
        assert not [secret for secret in auth.values() if str(secret) in repr(caught.value)]
        assert rejected.health()["p"].status == "unhealthy"
    assert lines_of(ledger) == []
    assert accepted.execute("p", Task(value=2)).value == 2


@remote
def test_a_caller_can_not_override_the_credentials(connect, start):
    right, _ = CREDENTIALS["bearer"]
    manager = connect(start(**right), auth=right)
    with pytest.raises(InvalidHeaderError, match="Authorization"):
        manager.execute("p", Task(), headers={"Authorization": "Bearer another"})


@remote
@pytest.mark.parametrize("own", [True, False], ids=["configured", "of the call"])
def test_a_credential_that_a_long_error_text_cuts_in_two_is_masked(connect, start, own):
    secret = "QWERTZUIOPASDFGH"
    manager = connect(start(method="bearer", token=secret), auth={"method": "bearer", "token": secret})
    headers = {} if own else {"X-Session-Token": secret}
    for shown in range(len(secret) + 2):
        text = "x" * (4095 - shown) + secret + " is not accepted" * 10
        with pytest.raises(PluginExecutionError) as caught:
            manager.execute("p", Task(do="reject", value=text), headers=headers)
        assert not set(secret) & set(caught.value.message.removeprefix("the plugin")), shown
