"""Credentials on every wire: tokens that renew themselves, and headers of a function of the application."""

from __future__ import annotations

import hashlib
import hmac
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from goplugins import Manager, OutgoingRequest
from goplugins.enums import PluginStatus
from goplugins.errors import (
    AuthenticationError,
    CredentialsProviderError,
    InvalidConfigError,
    PluginError,
)
from tests.integration.credentials.wires import WIRES, Service

KEY = b"hmac-key-4711"
requests: list[OutgoingRequest] = []
behaviour: Callable[[OutgoingRequest], Any] | None = None


def sign(request: OutgoingRequest) -> Mapping[str, str]:
    """Signs like a webhook: an HMAC of method, URL and body."""
    requests.append(request)
    if behaviour is not None:
        return behaviour(request)
    return {"X-Signature": signature(request.method, request.url, request.body)}


def signature(method: str, url: str, body: bytes) -> str:
    return hmac.new(KEY, b"\n".join([method.encode(), url.encode(), body]), hashlib.sha256).hexdigest()


PROVIDER = f"{__name__}:sign"


@pytest.fixture(params=WIRES)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    found = Service(request.param)
    yield found
    found.close()


@pytest.fixture
def manage(service: Service) -> Iterator[Callable[..., Manager[Any, Any]]]:
    managers: list[Manager[Any, Any]] = []

    def make(**auth: Any) -> Manager[Any, Any]:
        managers.append(Manager())
        managers[-1].load_from_config({"plugins": [{**service.config, "auth": auth}]})
        return managers[-1]

    yield make
    for manager in managers:
        manager.shutdown()


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    yield
    behave(None)
    requests.clear()


def behave(function: Callable[[OutgoingRequest], Any] | None) -> None:
    global behaviour  # noqa: PLW0603 - the provider is found by its name
    behaviour = function


# --- oauth2 --------------------------------------------------------------------------------------------------------


def test_a_token_is_sent_and_replaced_once_when_refused(service, tokens, manage):
    manager = manage(**tokens.auth(), headers={"X-Team": "blue"})
    assert manager.execute("p", {"a": 1}, **service.operation) == "ok"
    service.refuse("token-1")
    result = manager.execute_result("p", {"a": 1}, **service.operation)
    assert (result.value, result.attempts) == ("ok", 1)
    assert [headers["authorization"] for headers in service.seen] == [f"Bearer token-{n}" for n in (1, 1, 2)]
    assert {headers["x-team"] for headers in service.seen} == {"blue"}
    service.refuse("token-2")
    service.refuse("token-3")
    with pytest.raises(AuthenticationError) as caught:
        manager.execute("p", {"a": 1}, **service.operation)
    assert len(tokens.asked) == 3
    assert "unknown token" in str(caught.value)
    assert "token-3" not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.details)


def test_a_health_check_replaces_a_refused_token(service, tokens, manage):
    service.check_by_message()
    manager = manage(**tokens.auth())
    assert manager.execute("p", {"a": 1}, **service.operation) == "ok"
    assert manager.control("p").check_health().status is PluginStatus.HEALTHY
    service.refuse("token-1")
    assert manager.control("p").check_health().status is PluginStatus.HEALTHY
    assert len(tokens.asked) == 2


def test_one_token_serves_all_threads(service, tokens, manage):
    manager = manage(**tokens.auth())
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(manager.execute, "p", {"a": 1}, **service.operation) for _ in range(24)]
        assert {each.result() for each in calls} == {"ok"}
    assert len(tokens.asked) == 1


# --- a provider ----------------------------------------------------------------------------------------------------


def test_each_attempt_is_signed_as_it_is_sent(service, manage):
    manager = manage(method="bearer", token="t-1", provider=PROVIDER)
    for value in (1, 2):
        assert manager.execute("p", {"a": value}, headers={"X-Own": "x"}, **service.operation) == "ok"
    found = [headers["x-signature"] for headers in service.seen]
    assert found == [signature(each.method, each.url, each.body) for each in requests]
    assert len(set(found)) == 2
    for headers, each in zip(service.seen, requests, strict=True):
        sent = {name.lower(): value for name, value in each.headers.items()}
        assert (each.plugin, each.operation) == ("p", service.operation.get("operation", ""))
        assert (sent["authorization"], sent["x-own"]) == ("Bearer t-1", "x")
        assert {name: headers.get(name) for name in sent if name != "host"} == {
            name: value for name, value in sent.items() if name != "host"
        }
        assert "t-1" not in repr(each)
    if service.config["transport"] == "http":
        for received, each in zip(service.server.requests, requests, strict=True):
            assert each.url == f"http://{received.headers['host']}{received.path}"
            assert (each.method, each.body, each.headers["Host"]) == (
                received.method,
                received.body,
                received.headers["host"],
            )


def test_its_headers_replace_others_and_a_retry_is_signed_anew(service, manage):
    behave(lambda request: {"authorization": f"Own {len(requests)}"})
    service.config["retry"] = {"max_retries": 1, "initial_interval": 0.001}
    manager = manage(method="bearer", token="t-1", provider=PROVIDER)
    assert manager.execute("p", {"a": 1}, **service.operation) == "ok"
    assert manager.execute("p", {"a": 1}, **service.operation) == "ok"
    assert [headers["authorization"] for headers in service.seen] == ["Own 1", "Own 2"]


def test_what_it_returns_is_in_no_text(service, manage):
    service.refuse("hmac-4711")
    behave(lambda request: {"Authorization": "Bearer hmac-4711", "X-Extra": "hmac-4711"})
    with pytest.raises(AuthenticationError, match=r"unknown token .*\*\*\*") as caught:
        manage(provider=PROVIDER).execute("p", {"a": 1}, **service.operation)
    assert "4711" not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.details)


def fail(request: OutgoingRequest) -> None:
    raise RuntimeError("the vault is sealed for Bearer t-secret")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (fail, "raised RuntimeError: the vault is sealed for Bearer *** (test_wires.py, line "),
        (lambda request: "Bearer x", "returned a str, expected a mapping of headers"),
        (lambda request: {"X-Signature": 5}, "it returned headers['X-Signature']: expected a string, got int"),
        (lambda request: {"X-Signature": "a\r\nb"}, "it returned headers['X-Signature']: the value contains a line"),
        (lambda request: {"X Signature": "a"}, "it returned headers: 'X Signature' is not a valid header name"),
    ],
)
def test_a_provider_that_fails_is_one_clear_error(service, manage, function, text):
    behave(function)
    manager = manage(method="bearer", token="t-secret", provider=PROVIDER)
    with pytest.raises(CredentialsProviderError) as caught:
        manager.execute("p", {"a": 1}, **service.operation)
    error = caught.value
    assert text in str(error)
    assert PROVIDER in str(error)
    assert (error.attempts, error.plugin) == (0, "p")
    assert "t-secret" not in "".join(traceback.format_exception(error)) + repr(error.details)
    assert service.seen == []
    behave(None)
    assert manager.execute("p", {"a": 1}, **service.operation) == "ok"


def test_a_provider_can_not_set_headers_of_the_connection(service, manage):
    if service.config["transport"] in {"unix", "exec"}:
        pytest.skip("lines have none")
    behave(lambda request: {"Content-Length": "5"})
    with pytest.raises(CredentialsProviderError, match=r"'Content-Length'"):
        manage(provider=PROVIDER).execute("p", {"a": 1}, **service.operation)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("tests.integration.credentials.none:sign", "there is no module"),
        (f"{__name__}:nothing", "has no attribute 'nothing'"),
        (f"{__name__}:KEY", "can't be called"),
    ],
)
def test_a_function_that_is_not_there_is_an_error_of_the_configuration(service, manage, target, text):
    with pytest.raises(InvalidConfigError, match=text) as caught:
        manage(provider=target)
    assert "auth.provider" in str(caught.value)


def test_health_checks_are_signed_and_scrubbed(service, manage):
    service.check_by_message()
    manager = manage(provider=PROVIDER)
    manager.execute("p", {"a": 1}, **service.operation)
    before = len(service.seen)
    status = manager.control("p").check_health()
    for headers in service.seen[before:]:
        assert headers["x-signature"]
    behave(lambda request: {"Authorization": "Bearer hmac-4711"})
    service.refuse("hmac-4711")
    status = manager.control("p").check_health()
    assert "4711" not in status.message


def test_a_token_and_a_signature(service, tokens, manage):
    manager = manage(**tokens.auth(), provider=PROVIDER)
    assert manager.execute("p", {"a": 1}, **service.operation) == "ok"
    service.refuse("token-1")
    assert manager.execute("p", {"a": 1}, **service.operation) == "ok"
    assert [headers["authorization"] for headers in service.seen] == [f"Bearer token-{n}" for n in (1, 1, 2)]
    sent = [{name.lower(): value for name, value in each.headers.items()}["authorization"] for each in requests]
    assert sent == [headers["authorization"] for headers in service.seen]


def test_an_exception_of_another_plugin_is_the_provider_s(service, manage):
    def other(request):
        raise PluginError("of a vault", plugin="vault", retryable=True)

    behave(other)
    with pytest.raises(CredentialsProviderError, match=r"raised PluginError: .*of a vault"):
        manage(provider=PROVIDER).execute("p", {"a": 1}, **service.operation)
