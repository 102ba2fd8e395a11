"""Applications behind a real server: calls end at the deadline of their request."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from flask import Flask

from goplugins import PluginTimeoutError
from goplugins.contrib.flask import GoPlugins, current_plugins
from goplugins.contrib.wsgi import PluginCalls
from tests.servers import Peer, RawServer, ok
from tests.unit.contrib import project

Application = Callable[..., Iterable[bytes]]


class SilentHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(application: Any) -> Iterator[Callable[..., tuple[int, dict[str, str], Any]]]:
    """Serves an application; yields a function that sends requests to it."""
    server = make_server("127.0.0.1", 0, application, handler_class=SilentHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()

    def get(path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET", path, headers=sent)
            reply = connection.getresponse()
            return reply.status, dict(reply.headers), json.loads(reply.read())
        finally:
            connection.close()

    try:
        yield get
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def answer_or_hang(peer: Peer) -> None:
    """Hangs if the request says so; else replies with the id, key and timeout that it received."""
    while (request := peer.read_request()) is not None:
        if request.json["data"] == "hang":
            peer.hang()
            return
        names = ("x-request-id", "idempotency-key")
        peer.send(
            ok(request, {**{name: request.headers.get(name) for name in names}, "timeout": request.json["timeout"]})
        )


@pytest.fixture
def plugin() -> Iterator[RawServer]:
    with RawServer(answer_or_hang) as server:
        yield server


@pytest.fixture(params=["wsgi", "flask", "django"])
def get(request: pytest.FixtureRequest, plugin: RawServer) -> Iterator[Any]:
    """The same application in three frameworks: /hang and /twice."""
    config = {
        "plugins": [{"name": "p", "transport": "http", "endpoint": plugin.url, "retry": {"idempotent": True}}],
        "default_health_check": {"enabled": False},
    }
    with {"wsgi": plain, "flask": flask, "django": django}[request.param](config) as get:
        yield get


def answer(call: Callable[[str], Any], path: str) -> tuple[int, Any]:
    try:
        return 200, [call(path.strip("/").partition("/")[0]) for _ in range(2)]
    except PluginTimeoutError as error:
        return 504, {"error": str(error)}


@contextmanager
def plain(config: Any) -> Iterator[Any]:
    from goplugins import Manager

    manager = Manager()
    manager.load_from_config(config)

    def application(environ: Any, start_response: Any) -> list[bytes]:
        status, result = answer(lambda text: manager.execute("p", text), environ["PATH_INFO"])
        start_response(f"{status} Result", [("Content-Type", "application/json")])
        return [json.dumps(result).encode()]

    with manager, served(PluginCalls(application, timeout=5)) as get:
        yield get


@contextmanager
def flask(config: Any) -> Iterator[Any]:
    app = Flask("shop")
    app.config["GOPLUGINS"] = {"CONFIG": config, "TIMEOUT": 5}
    extension = GoPlugins(app)

    @app.get("/<what>")
    def view(what: str) -> Any:
        status, result = answer(lambda text: current_plugins.execute("p", text), what)
        return (result, status)

    with served(app) as get:
        yield get
    extension.reset(app)


@contextmanager
def django(config: Any) -> Iterator[Any]:
    project.start()
    from django.core.wsgi import get_wsgi_application
    from django.http import JsonResponse
    from django.test import override_settings
    from django.urls import path

    from goplugins.contrib.django import plugins, reset

    def view(request: Any, what: str) -> JsonResponse:
        status, result = answer(lambda text: plugins.execute("p", text), what)
        return JsonResponse(result, status=status, safe=False)

    class Urls:
        urlpatterns = (path("<what>", view),)

    with override_settings(GOPLUGINS={"CONFIG": config, "TIMEOUT": 5}, ROOT_URLCONF=Urls):
        with served(get_wsgi_application()) as get:
            yield get
        reset()


def test_a_call_of_a_hanging_plugin_ends_at_the_deadline_of_the_request(get: Any, plugin: RawServer) -> None:
    started = time.monotonic()
    status, headers, result = get("/hang", X_Request_Timeout="300ms", X_Request_ID="order-7")
    took = time.monotonic() - started
    assert status == 504, result
    assert headers["X-Request-ID"] == "order-7"
    assert 0.25 < took < 1.0
    sent = plugin.requests[0]
    assert sent.json["timeout"].endswith("ms")
    assert float(sent.json["timeout"].removesuffix("ms")) <= 300


def test_calls_of_a_request_share_its_id_but_not_their_keys(get: Any) -> None:
    status, headers, (first, second) = get("/twice", X_Request_ID="order-7", grpc_timeout="2S")
    assert (status, headers["X-Request-ID"]) == (200, "order-7")
    for result in (first, second):
        assert result["x-request-id"].startswith("order-7.")
        assert result["timeout"] == "2s" or result["timeout"].startswith("1.")
    # Equal keys would make the plugin treat the second call as a repetition of the first.
    assert first["idempotency-key"] != second["idempotency-key"]
    assert first["x-request-id"] != second["x-request-id"]


def test_the_next_request_has_its_own_deadline(get: Any) -> None:
    assert get("/hang", X_Request_Timeout="100ms")[0] == 504
    status, _, (first, _) = get("/twice")
    assert status == 200
    assert first["timeout"].startswith(("5s", "4.9"))
