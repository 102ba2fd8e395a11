"""Method oauth2 over HTTP: requests for tokens, refusals, renewal, and endpoints that are slow, down or silent."""

from __future__ import annotations

import gc
import logging
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from goplugins import Manager
from goplugins.enums import PluginStatus
from goplugins.errors import (
    AuthConfigError,
    AuthenticationError,
    BadReplyError,
    InvalidHeaderError,
    NameResolutionError,
    PluginConnectionError,
    PluginError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    ReplyTooLargeError,
    TokenRefusedError,
    UnexpectedRedirectError,
)
from goplugins.transports import token_source
from tests.integration.credentials.conftest import CLIENT, SECRET, refusal
from tests.servers import free_port, http_reply


def test_a_token_is_requested_once_and_sent_with_each_call(tokens, manage):
    manager = manage(tokens.auth(scopes=["read", "orders:write"], audience="https://api.example.com"))
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: manager.execute("p", None), range(64))) == {"ok"}
    assert tokens.asked == [
        {"grant_type": "client_credentials", "scope": "read orders:write", "audience": "https://api.example.com"}
    ]
    request = next(request for request in tokens.server.requests if request.path == "/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["accept"] == "application/json"
    assert request.headers["user-agent"].startswith("goplugins-python/")
    assert {r.headers["authorization"] for r in tokens.server.requests if r is not request} == {"Bearer token-1"}


def test_the_secret_in_the_body(tokens, manage):
    assert manage(tokens.auth(client_auth="post")).execute("p", None) == "ok"
    assert tokens.asked == [{"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}]
    assert "authorization" not in tokens.server.requests[0].headers


def test_health_checks_have_the_token(tokens, manage):
    manager = manage()
    assert manager.control("p").check_health().status is PluginStatus.HEALTHY
    tokens.revoked.add("token-1")
    assert manager.control("p").check_health().status is PluginStatus.HEALTHY
    assert len(tokens.asked) == 2


def test_plugins_of_one_client_share_its_token(tokens, engine):
    def plugin(name, **auth):
        options = {"engine": engine}
        return {
            "name": name,
            "transport": "http",
            "endpoint": tokens.server.url,
            "auth": tokens.auth(**auth),
            "options": options,
        }

    plugins = [plugin("a"), plugin("b"), plugin("scoped", scopes=["read"])]
    plugins.append({**plugin("group"), "endpoint": "", "endpoints": [f"{tokens.server.url}/{n}" for n in range(3)]})
    with Manager() as manager:
        manager.load_from_config({"plugins": plugins})
        for name in ("a", "b", "group", "group", "group", "scoped"):
            assert manager.execute(name, None) == "ok"
    assert [fields.get("scope") for fields in tokens.asked] == [None, "read"]


def test_a_call_can_not_replace_the_token(manage):
    with pytest.raises(InvalidHeaderError, match="is set by auth"):
        manage().execute("p", None, headers={"authorization": "Bearer mine"})


# --- refused tokens ----------------------------------------------------------------------------------------------


def test_a_refused_token_is_replaced_once_within_the_attempt(tokens, manage):
    manager = manage()
    assert manager.execute("p", None) == "ok"
    tokens.revoked.add("token-1")
    result = manager.execute_result("p", None)
    assert (result.value, result.attempts) == ("ok", 1)
    assert (len(tokens.asked), tokens.refused) == (2, 1)


def test_threads_that_are_refused_at_once_get_one_new_token(tokens, manage):
    manager = manage(connection={"max_connections": 16})
    with ThreadPoolExecutor(16) as pool:
        for number in range(1, 6):
            assert set(pool.map(lambda _: manager.execute("p", None), range(48))) == {"ok"}
            tokens.revoked.add(f"token-{number}")
    assert len(tokens.asked) == 5


def test_a_service_that_refuses_every_token_is_asked_twice_and_no_load_of_the_token_endpoint(tokens, manage):
    tokens.accepts = lambda authorization: False
    manager = manage()
    started = time.monotonic()
    for _ in range(29):
        with pytest.raises(
            AuthenticationError, match=r"HTTP 401: .*\(invalid_token: The token has expired\)"
        ) as caught:
            manager.execute("p", None)
        assert not isinstance(caught.value, TokenRefusedError)
    served = sum(request.path != "/token" for request in tokens.server.requests)
    again = len(tokens.asked) - 1
    assert served == 29 + again
    assert again <= 2 + (time.monotonic() - started)


def test_other_refusals_replace_no_token(tokens, manage):
    challenge = 'Bearer realm="api", error="insufficient_scope", scope="orders:write orders:read"'
    tokens.answer = lambda request: http_reply("", "403 Forbidden", {"WWW-Authenticate": challenge})
    with pytest.raises(AuthenticationError, match="it needs 'orders:write orders:read'") as caught:
        manage().execute("p", None)
    assert caught.value.details["scope"] == "orders:write orders:read"
    assert len(tokens.asked) == 1


# --- the token endpoint --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (refusal("invalid_client", "unknown"), TokenRefusedError, "400 invalid_client: unknown (check auth.client_id"),
        (refusal("invalid_client", "", "401 No"), TokenRefusedError, "HTTP 401 invalid_client (check auth.client_id"),
        (refusal("invalid_scope", "orders"), TokenRefusedError, "HTTP 400 invalid_scope: orders (check auth.scopes)"),
        (refusal("unauthorized_client"), TokenRefusedError, "(permit the grant client_credentials to this client)"),
        (refusal("own_error", "bad\r\nthing"), TokenRefusedError, r"HTTP 400 own_error: bad\r\nthing"),
        (http_reply("<html>", "404 Not Found"), TokenRefusedError, "HTTP 404 (check auth.token_url)"),
        (http_reply("", "429 Too Many", {"Retry-After": "7"}), PluginThrottledError, "limits the rate of requests:"),
        (http_reply("", "503 Unavailable", {"Retry-After": "7"}), PluginUnavailableError, "failed: HTTP 503"),
        (http_reply("", "500 Oops"), PluginUnavailableError, "failed: HTTP 500"),
        (http_reply("", "302 Found", {"Location": "/login"}), UnexpectedRedirectError, "redirects, which is not"),
        (http_reply("<html>"), BadReplyError, "is not JSON"),
        (http_reply({"token_type": "Bearer"}), BadReplyError, "the reply has no access_token"),
        (http_reply({"access_token": "a\nb"}), BadReplyError, "can't be sent in a header"),
        (http_reply({"access_token": "a", "token_type": "mac"}), BadReplyError, "of the type 'mac', expected Bearer"),
        (http_reply({"access_token": "a", "expires_in": 0}), BadReplyError, "expires_in is 0"),
        (http_reply({"access_token": "a", "expires_in": "soon"}), BadReplyError, "expires_in is soon"),
        (http_reply(b"x" * (1 << 21)), ReplyTooLargeError, "larger than"),
    ],
)  # fmt: skip
def test_what_a_token_endpoint_replies(tokens, manage, reply, kind, text):
    tokens.reply = lambda peer, request: reply
    with pytest.raises(PluginError) as caught:
        manage().execute("p", None)
    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert tokens.token_url in str(caught.value)
    assert caught.value.plugin == "p"
    assert caught.value.retry_after == (7.0 if b"Retry-After" in reply else None)


@pytest.mark.parametrize(
    "fields", [{"token_type": "bearer"}, {"token_type": None}, {"expires_in": "3600"}, {"expires_in": None}]
)
def test_replies_that_differ_from_the_standard_and_are_accepted(tokens, manage, fields):
    tokens.reply = lambda peer, request: tokens.token(**fields)
    assert manage().execute("p", None) == "ok"


def test_a_refused_client_is_no_failure_of_the_plugin(tokens, manage):
    tokens.reply = lambda peer, request: refusal("invalid_client")
    manager = manage(circuit_breaker={"failure_threshold": 2, "min_request_threshold": 1})
    for _ in range(10):
        with pytest.raises(TokenRefusedError) as caught:
            manager.execute("p", None)
        assert caught.value.attempts == 0
    assert len(tokens.asked) < 5


def test_a_token_endpoint_that_is_down(tokens, manage):
    url = f"http://127.0.0.1:{free_port()}/token?key=s3cr3t"
    with pytest.raises(
        PluginConnectionError, match=r"no token from http://127.0.0.1:\d+/token: no connection: .*refused"
    ) as caught:
        manage(tokens.auth(token_url=url)).execute("p", None)
    assert caught.value.details["token_url"] == url.partition("?")[0]
    with pytest.raises(NameResolutionError, match=r"no token from http://localhost.invalid/token: the name"):
        manage(tokens.auth(token_url="http://localhost.invalid/token")).execute("p", None)


def test_a_retry_survives_a_token_endpoint_that_fails_once(tokens, manage):
    def fail_once(peer, request):
        tokens.reply = None
        return http_reply("", "500 Oops")

    tokens.reply = fail_once
    assert manage(retry={"max_retries": 2, "initial_interval": 0.01}).execute("p", None) == "ok"


def test_a_request_for_a_token_has_a_limit_of_its_own(tokens, manage, monkeypatch):
    monkeypatch.setattr(token_source, "REQUEST_TIMEOUT", 0.2)
    tokens.reply = lambda peer, request: peer.hang()
    text = r"no token from .*/token: timed out after 0\.2\d* s waiting .*\(the limit of a request for a token\)"
    with pytest.raises(PluginTimeoutError, match=text) as caught:
        manage().execute("p", None, timeout=10)
    assert caught.value.elapsed < 5


@pytest.mark.parametrize("calls", [1, 16])
def test_calls_end_at_their_deadlines_while_the_token_endpoint_is_silent(tokens, manage, calls):
    tokens.reply = lambda peer, request: peer.hang()
    manager = manage(connection={"max_connections": 16})

    def call(_):
        started = time.monotonic()
        with pytest.raises(PluginTimeoutError, match=r"waiting for a token from http.*the call's deadline"):
            manager.execute("p", None, timeout=0.3)
        return time.monotonic() - started

    with ThreadPoolExecutor(calls) as pool:
        assert max(pool.map(call, range(calls))) < 0.3 + (0.1 if calls == 1 else 0.5)
    assert len(tokens.asked) == 1


def test_a_slow_token_endpoint_delays_only_the_first_calls(tokens, manage):
    def slow(peer, request):
        time.sleep(0.3)
        return tokens.token()

    tokens.reply = slow
    manager = manage(retry={"attempt_timeout": 0.1, "max_retries": 0})  # waiting for a token is no time of the attempt
    assert manager.execute("p", None, timeout=5) == "ok"
    started = time.monotonic()
    assert manager.execute("p", None) == "ok"
    assert time.monotonic() - started < 0.25


# --- secrets -------------------------------------------------------------------------------------------------------


def test_no_text_has_the_secret_or_the_token(tokens, manage, caplog):
    caplog.set_level(logging.DEBUG)
    manager = manage()
    assert manager.execute("p", None) == "ok"
    plugin = manager.get_plugin("p")
    shown = f"{manager.explain('p')!r} {plugin!r} {manager.metrics()!r} {vars(plugin)!r}"
    tokens.answer = lambda request: http_reply(
        request.headers["authorization"], "403 No", {"Content-Type": "text/plain"}
    )
    with pytest.raises(AuthenticationError) as caught:
        manager.execute("p", None)
    shown += "".join(traceback.format_exception(caught.value)) + repr(caught.value.details)
    tokens.secret = "another"
    with pytest.raises(TokenRefusedError) as refused:
        manage(tokens.auth(scopes=["other"])).execute("p", None)
    shown += "".join(traceback.format_exception(refused.value)) + repr(refused.value.details) + caplog.text
    assert "***" in shown
    assert "4711" not in shown
    assert "token-1" not in shown


def test_the_secret_of_a_file_is_read_for_each_token(tokens, manage, tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    manager = manage({**tokens.auth(client_secret_file=str(file)), "client_secret": ""})
    assert manager.execute("p", None) == "ok"
    tokens.secret = "new"
    file.write_text("new")
    assert manager.execute("p", None) == "ok"  # the token is still valid
    tokens.revoked.add("token-1")
    assert manager.execute("p", None) == "ok"
    tokens.revoked.add("token-2")
    file.unlink()
    with pytest.raises(AuthConfigError, match=r"secret' can't be read: No such file"):
        manager.execute("p", None)
    with pytest.raises(AuthConfigError, match="client_secret_file"):
        manage({**tokens.auth(client_secret_file=str(file)), "client_secret": ""})


def test_a_reload_that_changes_the_secret_requests_a_new_token(tokens, manage):
    manager = manage()
    assert manager.execute("p", None) == "ok"
    tokens.secret = "new"
    config = {
        "plugins": [
            {"name": "p", "transport": "http", "endpoint": tokens.server.url, "auth": tokens.auth(client_secret="new")}
        ]
    }
    report = manager.reload_config(config)
    assert "client_secret" in str(report.diff)
    assert "new'" not in str(report.diff)
    assert manager.execute("p", None) == "ok"
    assert len(tokens.asked) == 2


def test_a_reload_that_leaves_the_client_alone_keeps_its_token(tokens, manage):
    manager = manage()
    assert manager.execute("p", None) == "ok"
    endpoint = f"{tokens.server.url}/v2"
    manager.reload_config(
        {"plugins": [{"name": "p", "transport": "http", "endpoint": endpoint, "auth": tokens.auth()}]}
    )
    assert manager.execute("p", None) == "ok"
    assert len(tokens.asked) == 1
    del manager
    gc.collect()


def test_a_forked_child_uses_the_token_and_requests_its_own_later(tokens, manage):
    manager = manage()
    assert manager.execute("p", None) == "ok"
    for revoked in (False, True):
        if revoked:
            tokens.revoked.add("token-1")
        pid = os.fork()
        if not pid:
            try:
                os._exit(0 if manager.execute("p", None, timeout=5) == "ok" else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(tokens.asked) == (2 if revoked else 1)
    assert manager.execute("p", None) == "ok"
    assert len(tokens.asked) == 3
