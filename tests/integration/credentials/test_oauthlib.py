"""An OAuth2 server of oauthlib whose tokens live for two seconds, and sixteen threads that call all the time."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from goplugins import Manager
from goplugins.errors import AuthenticationError, TokenRefusedError

oauth2 = pytest.importorskip("oauthlib.oauth2")

pytestmark = pytest.mark.matrix

LIFETIME = 2
THREADS = 16
SECONDS = 5.0
SCOPES = ["orders:read", "orders:write"]


class Validator(oauth2.RequestValidator):  # type: ignore[misc, name-defined]  # it has no types
    """One client, and its tokens with the moments of their end.

    Args:
        early: seconds by which a token ends before the time that the client got.
    """

    def __init__(self, early: float) -> None:
        self.early = early
        self.ends: dict[str, float] = {}
        self.scopes: dict[str, list[str]] = {}

    def authenticate_client(self, request: Any, *args: Any, **kwargs: Any) -> bool:
        kind, _, encoded = request.headers.get("Authorization", "").partition(" ")
        client = type("Client", (), {"client_id": "shop"})
        request.client = client()
        return kind == "Basic" and base64.b64decode(encoded) == b"shop:s3cr3t"

    def validate_grant_type(self, client_id: str, grant_type: str, *args: Any, **kwargs: Any) -> bool:
        return grant_type == "client_credentials"

    def get_default_scopes(self, *args: Any, **kwargs: Any) -> list[str]:
        return SCOPES[:1]

    def validate_scopes(self, client_id: str, scopes: list[str], *args: Any, **kwargs: Any) -> bool:
        return set(scopes) <= set(SCOPES)

    def save_bearer_token(self, token: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self.scopes[token["access_token"]] = token["scope"].split()
        self.ends[token["access_token"]] = time.monotonic() + token["expires_in"] - self.early

    def validate_bearer_token(self, token: str, scopes: list[str], request: Any) -> bool:
        known = time.monotonic() < self.ends.get(token, 0.0)
        return known and set(scopes) <= set(self.scopes[token])


class AuthorizationServer:
    """oauthlib's server of the client credentials grant at ``/token``, and a REST service that it protects."""

    def __init__(self, early: float = 0.0) -> None:
        self.validator = Validator(early)
        server = oauth2.BackendApplicationServer(self.validator, token_expires_in=LIFETIME)
        self.requested: list[float] = []
        self.used: set[str] = set()
        self.refused = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.requested.append(time.monotonic())
                headers, text, status = server.create_token_response(self.path, "POST", body, dict(self.headers))
                self.reply(status, text, headers)

            def do_GET(self) -> None:
                scopes = [f"orders:{self.path.rpartition('/')[2]}"]
                good, _ = server.verify_request(self.path, "GET", None, dict(self.headers), scopes)
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if good:
                    outer.used.add(token)
                    self.reply(200, json.dumps("ok"), {})
                elif token in outer.validator.scopes and time.monotonic() < outer.validator.ends[token]:
                    challenge = f'Bearer error="insufficient_scope", scope="{scopes[0]}"'
                    self.reply(403, "", {"WWW-Authenticate": challenge})
                else:
                    outer.refused += 1
                    self.reply(401, "", {"WWW-Authenticate": 'Bearer error="invalid_token"'})

            def reply(self, status: int, text: str, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the name of the base class
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def config(self, **auth: Any) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.server.server_port}"
        base = {"method": "oauth2", "token_url": f"{url}/token", "client_id": "shop", "client_secret": "s3cr3t"}
        plugin = {
            "name": "orders",
            "transport": "http",
            "endpoint": url,
            "auth": {**base, **auth},
            "retry": {"max_retries": 0},
            "connection": {"max_connections": THREADS, "max_idle_connections": THREADS},
            "operations": {name: {"method": "GET", "path": f"/orders/{name}"} for name in ("read", "write")},
        }
        return {"plugins": [plugin]}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[AuthorizationServer] = []

    def start(early: float = 0.0) -> AuthorizationServer:
        servers.append(AuthorizationServer(early))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("early", [0.0, 0.8], ids=["on time", "before the time that the client got"])
def test_no_call_fails_and_each_token_that_ends_is_followed_by_one_request(serve, early):
    server = serve(early)
    calls = [0] * THREADS
    failures: list[Exception] = []
    end = time.monotonic() + SECONDS
    with Manager() as manager:
        manager.load_from_config(server.config(scopes=SCOPES))

        def call(number: int) -> None:
            while time.monotonic() < end:
                try:
                    assert manager.execute("orders", None, operation="read", timeout=5) == "ok"
                except Exception as exc:
                    failures.append(exc)
                calls[number] += 1
                time.sleep(0.002)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert min(calls) > 10
    # One request for each token, and none before its predecessor's end was near, or its predecessor was refused.
    between = [later - earlier for earlier, later in zip(server.requested, server.requested[1:], strict=False)]
    assert min(between) > (LIFETIME - early) * 0.4
    assert max(between) < LIFETIME + 2
    assert len(server.requested) <= SECONDS / ((LIFETIME - early) * 0.8) + 2
    assert len(server.requested) == len(server.validator.ends) <= len(server.used) + 1
    assert (server.refused > 0) if early else (server.refused <= THREADS)


def test_refusals_of_the_server_are_errors_of_the_plugin(serve):
    server = serve()
    for changed, text in (
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"client_auth": "post"}, "invalid_client"),
        ({"scopes": ["orders:delete"]}, "invalid_scope"),
    ):
        with Manager() as manager:
            manager.load_from_config(server.config(**changed))
            with pytest.raises(TokenRefusedError, match=text) as caught:
                manager.execute("orders", None, operation="read")
            assert caught.value.details["oauth2_error"] == text
    with Manager() as manager:
        manager.load_from_config(server.config())
        assert manager.execute("orders", None, operation="read") == "ok"
        with pytest.raises(AuthenticationError, match="the token lacks a scope: it needs 'orders:write'"):
            manager.execute("orders", None, operation="write")
