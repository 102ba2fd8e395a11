from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote_plus

import pytest

from goplugins import Manager
from tests.servers import Peer, RawServer, Request, http_reply, ok

CLIENT, SECRET = "shop 1", "s3cr3t&+/4711"


def refusal(error: str, description: str = "", status: str = "400 Bad Request") -> bytes:
    """A reply of RFC 6749, 5.2."""
    return http_reply({"error": error, "error_description": description}, status)


class TokenServer:
    """A token endpoint at ``/token``, and a service at any other path that accepts its tokens."""

    def __init__(self, lifetime: float | None = 3600.0) -> None:
        self.lifetime = lifetime
        self.numbers = itertools.count(1)
        self.issued: dict[str, float] = {}
        self.revoked: set[str] = set()
        self.asked: list[dict[str, str]] = []
        self.secret = SECRET
        self.reply: Callable[[Peer, Request], bytes | None] | None = None
        self.challenge = 'Bearer error="invalid_token", error_description="The token has expired"'
        self.calls = 0
        self.refused = 0
        self.lock = threading.Lock()
        self.server = RawServer(self.handle)

    @property
    def token_url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/token"

    def auth(self, **changed: Any) -> dict[str, Any]:
        base = {"method": "oauth2", "token_url": self.token_url, "client_id": CLIENT, "client_secret": SECRET}
        return {**base, **changed}

    def handle(self, peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            reply = self.grant(peer, request) if request.path.startswith("/token") else self.answer(request)
            if reply is None:
                return
            peer.send(reply)

    def grant(self, peer: Peer, request: Request) -> bytes | None:
        fields = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        self.asked.append(fields)
        if self.reply is not None:
            return self.reply(peer, request)
        if client_of(request, fields) != (CLIENT, self.secret):
            return refusal("invalid_client", f"wrong secret {client_of(request, fields)}", "401 Unauthorized")
        return self.token()

    def token(self, **changed: Any) -> bytes:
        with self.lock:
            value = f"token-{next(self.numbers)}"
            self.issued[value] = time.monotonic()
        fields = {"access_token": value, "token_type": "Bearer", "expires_in": self.lifetime, **changed}
        return http_reply(json.dumps({name: item for name, item in fields.items() if item is not None}))

    def accepts(self, authorization: str) -> bool:
        value = authorization.removeprefix("Bearer ")
        with self.lock:
            self.calls += 1
            issued = self.issued.get(value)
            good = issued is not None and value not in self.revoked
            if issued is not None and self.lifetime is not None:
                good = good and time.monotonic() - issued < self.lifetime
            self.refused += not good
        return good

    def answer(self, request: Request) -> bytes:
        if self.accepts(request.headers.get("authorization", "")):
            return ok(request)
        return http_reply("", "401 Unauthorized", {"WWW-Authenticate": self.challenge})


def client_of(request: Request, fields: dict[str, str]) -> tuple[str, str]:
    """Client and secret, by either form of authentication."""
    if "client_secret" in fields:
        return fields["client_id"], fields["client_secret"]
    text = base64.b64decode(request.headers.get("authorization", "Basic ").removeprefix("Basic ")).decode()
    client, _, secret = text.partition(":")
    return unquote_plus(client), unquote_plus(secret)


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    found = TokenServer()
    yield found
    found.server.close()


@pytest.fixture(params=["fast", "requests"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manage(tokens: TokenServer, engine: str) -> Iterator[Callable[..., Manager[Any, Any]]]:
    """Makes managers with a plugin ``p`` at the token server's service."""
    managers: list[Manager[Any, Any]] = []

    def make(auth: dict[str, Any] | None = None, **changed: Any) -> Manager[Any, Any]:
        plugin = {
            "name": "p",
            "transport": "http",
            "endpoint": tokens.server.url,
            "auth": tokens.auth() if auth is None else auth,
            "options": {"engine": engine},
            "retry": {"max_retries": 0},
            "health_check": {"enabled": False},
            **changed,
        }
        manager: Manager[Any, Any] = Manager()
        managers.append(manager)
        manager.load_from_config({"plugins": [plugin]})
        return manager

    yield make
    for manager in managers:
        manager.shutdown()
