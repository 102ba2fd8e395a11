"""Requests to a dashboard without a socket."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import attrs

from goplugins import Manager, PluginConnectionError, PluginError, PluginExecutionError, PluginInfo
from goplugins.contrib.dashboard import Dashboard
from goplugins.enums import PluginStatus
from goplugins.models.results import HealthStatus

ORIGIN = "http://ops.example.com"


@attrs.define
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def text(self) -> str:
        return b"".join(self.body).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(
    app: Any, path: str = "/", method: str = "GET", *, prefix: str = "", body: Any = None, **environ: Any
) -> Answer:
    """One request, as a strict WSGI server makes it; names in capitals are keys of the environment."""
    path, _, query = path.partition("?")
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    given: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": prefix,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_HOST": "ops.example.com",
        "wsgi.multithread": True,
        "wsgi.input": io.BytesIO(data),
    }
    if method == "POST":
        given |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(data))}
    given |= environ
    setup_testing_defaults(given)
    seen: list[Any] = []
    found = validator(app)(given, lambda status, headers, _=None: seen.extend([status, headers]))
    status, headers = seen
    names = [name.lower() for name, _ in headers]
    assert len(set(names)) == len(names)
    values = {name.lower(): value for name, value in headers}
    chunks = list(found)
    found.close()
    return Answer(int(status[:3]), values, chunks)


def signed_in(app: Dashboard, **environ: Any) -> dict[str, str]:
    """Headers that the page of an operator sends with an action."""
    page = ask(app, **environ)
    token = page.text.partition('name="token" content="')[2].partition('"')[0]
    cookie = page.headers["set-cookie"].partition(";")[0]
    return {"HTTP_COOKIE": cookie, "HTTP_X_GOPLUGINS_TOKEN": token, "HTTP_ORIGIN": ORIGIN}


def press(app: Dashboard, action: str, order: Any, **environ: Any) -> Answer:
    """Sends the request of a button."""
    return ask(app, f"/actions/{action}", "POST", body=order, **environ)


def shown(app: Dashboard, name: str | None = None) -> Any:
    """The data that the page shows now: of one plugin, or of all."""
    app.board.sample()
    message = json.loads(app.board.snapshot.message())
    return message if name is None else next(each for each in message["plugins"] if each["name"] == name)


class FakePlugin:
    """A plugin whose errors and health status are set by the test."""

    def __init__(self, name: str = "auth") -> None:
        self.name = name
        self.error: Exception | None = None
        self.status = PluginStatus.HEALTHY

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def execute(self, request: Any, context: Any) -> Any:
        if self.error is not None:
            raise self.error
        return request

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(self.status)

    def close(self) -> None:
        pass

    def fail(self, text: str = "connection refused") -> None:
        self.error = PluginConnectionError(text)

    def reject(self) -> None:
        self.error = PluginExecutionError("no such user")

    def recover(self) -> None:
        self.error = None


def call(manager: Manager[Any, Any], name: str = "auth", times: int = 1) -> None:
    """Calls the plugin; ignores its errors."""
    for _ in range(times):
        with contextlib.suppress(PluginError):
            manager.execute(name, "hello")
