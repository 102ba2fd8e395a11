"""Health checks: always a status, never an exception."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from goplugins import deadline
from goplugins.config import AuthConfig
from goplugins.enums import PluginStatus
from goplugins.errors import InvalidConfigError
from tests.integration.http.conftest import failure
from tests.servers import Peer, free_port, http_reply
from tests.timing import time_limit


def replying(body, status="200 OK"):
    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(http_reply(body, status))

    return handler


@pytest.mark.parametrize(
    ("body", "status", "expected", "message"),
    [
        ("", "200 OK", PluginStatus.HEALTHY, ""),
        ("OK", "200 OK", PluginStatus.HEALTHY, ""),
        ("", "204 No Content", PluginStatus.HEALTHY, ""),
        ({"status": "ok"}, "200 OK", PluginStatus.HEALTHY, ""),
        ({"status": "UP", "message": "fine"}, "200 OK", PluginStatus.HEALTHY, "fine"),
        ({"status": "degraded", "message": "slow disk"}, "200 OK", PluginStatus.DEGRADED, "slow disk"),
        ({"status": "unhealthy"}, "200 OK", PluginStatus.UNHEALTHY, ""),
        ({"status": "offline"}, "200 OK", PluginStatus.OFFLINE, ""),
        ({"status": 7}, "200 OK", PluginStatus.HEALTHY, ""),
        ({"message": "no database"}, "503 No", PluginStatus.UNHEALTHY, "HTTP 503: no database"),
        ("", "404 Not Found", PluginStatus.HEALTHY, "it answers; it has no health endpoint (HTTP 404)"),
        ("", "405 No", PluginStatus.HEALTHY, "it answers; it has no health endpoint (HTTP 405)"),
        ("", "501 No", PluginStatus.HEALTHY, "it answers; it has no health endpoint (HTTP 501)"),
        (
            {"status": "offline"},
            "404 Not Found",
            PluginStatus.HEALTHY,
            "it answers; it has no health endpoint (HTTP 404)",
        ),
        ("", "401 Unauthorized", PluginStatus.UNHEALTHY, "HTTP 401"),
        ("", "302 Found", PluginStatus.UNHEALTHY, "HTTP 302"),
    ],
)
def test_status(serve, make, body, status, expected, message):
    server = serve(replying(body, status))
    plugin = make(server.url)
    before = time.time()
    for _ in range(2):
        found = plugin.health(1)
        assert (found.status, found.message) == (expected, message)
        assert found.last_check >= before
        assert 0 < found.response_time < 1
    assert server.connections == 1
    assert server.requests[0].path == "/plugin/health"


def test_metadata_is_passed_on(serve, make):
    server = serve(replying({"status": "ok", "metadata": {"region": "eu", "load": 3}}))
    assert make(server.url).health(1).metadata == {"region": "eu", "load": "3"}


def test_no_server(make):
    found = make(f"http://127.0.0.1:{free_port()}/x").health(1)
    assert found.status is PluginStatus.OFFLINE
    assert "refused" in found.message


def test_hang_ends_at_the_timeout(serve, make):
    plugin = make(serve(lambda peer: peer.read_request() and peer.hang()).url)
    for stopwatch in time_limit(0.3):
        with stopwatch:
            assert plugin.health(0.2).status is PluginStatus.OFFLINE


def test_garbage_is_unhealthy(serve, make):
    plugin = make(serve(lambda peer: peer.read_request() and peer.send(b"garbage\r\n\r\n")).url)
    assert plugin.health(1).status is PluginStatus.UNHEALTHY


def test_no_free_connection_is_status_unknown(serve, make):
    server = serve(lambda peer: peer.read_request() and peer.hang())
    plugin = make(server.url, max_connections=1)
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(failure, plugin, timeout=0.5)
        while not server.requests:
            time.sleep(0.005)
        for stopwatch in time_limit(0.1):
            with stopwatch:
                assert plugin.health(5).status is PluginStatus.UNKNOWN
        busy.result()


def test_closed_plugin_is_status_unknown(serve, make):
    plugin = make(serve().url)
    plugin.close()
    assert plugin.health(1).status is PluginStatus.UNKNOWN


def test_enclosing_deadline_does_not_end_a_health_check(serve, make):
    plugin = make(serve(replying("")).url)
    with deadline(1e-6):
        assert plugin.health(1).status is PluginStatus.HEALTHY


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [("/healthz?full=1", "/healthz?full=1"), ("status", "/plugin/status"), (None, "/plugin/health")],
)
def test_health_path(serve, make, endpoint, path):
    server = serve(replying(""))
    make(server.url, health=endpoint).health(1)
    assert server.requests[0].path == path


def test_health_url_on_the_same_host(serve, make):
    server = serve(replying(""))
    make(server.url, health=f"http://127.0.0.1:{server.port}/up").health(1)
    assert server.requests[0].path == "/up"


def test_health_url_on_another_host_is_rejected(serve, make):
    with pytest.raises(InvalidConfigError, match="another host"):
        make(serve().url, health="http://other.example/up")


def test_credentials_are_sent(serve, make):
    server = serve(replying(""))
    make(server.url, auth=AuthConfig(method="api-key", api_key="k-123")).health(1)
    assert server.requests[0].headers["x-api-key"] == "k-123"
