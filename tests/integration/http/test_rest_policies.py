"""REST through a whole manager: cache, fallback, groups, batches, pickles, and reloads that edit an operation."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from goplugins import ExecutionContext, Manager, PluginError
from goplugins.errors import InvalidArgumentError, PluginTimeoutError, PluginUnavailableError
from tests.servers import Peer, RawServer, Request, free_port, http_reply

OPERATIONS = {
    "get": {"path": "/items/{id}"},
    "twin": {"path": "/items/{id}", "result": "/path"},
    "create": {"method": "POST", "path": "/items", "body": "json"},
    "tag": {"method": "POST", "path": "/items/{id}/tags"},
}


def echo(peer: Peer) -> None:
    """Replies with what came, and as which of the requests of this server."""
    while (request := peer.read_request()) is not None:
        peer.send(http_reply({"path": request.path, "body": request.body.decode(), "port": peer.server.port}))


@pytest.fixture
def servers() -> Iterator[Callable[..., RawServer]]:
    started: list[RawServer] = []

    def start(handler: Any = echo) -> RawServer:
        started.append(RawServer(handler))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(params=["fast", "requests"])
def manage(request: pytest.FixtureRequest) -> Iterator[Callable[..., Manager[Any, Any]]]:
    """Makes managers of one plugin ``p``, or of a whole configuration."""
    managers: list[Manager[Any, Any]] = []

    def make(endpoint: str = "", *, config: dict[str, Any] | None = None, **plugin: Any) -> Manager[Any, Any]:
        manager: Manager[Any, Any] = Manager()
        managers.append(manager)
        manager.load_from_config(config or {"plugins": [plugin_of(endpoint, request.param, **plugin)]})
        return manager

    make.engine = request.param  # type: ignore[attr-defined]
    yield make
    for manager in managers:
        manager.shutdown()


def plugin_of(endpoint: str, engine: str, name: str = "p", **fields: Any) -> dict[str, Any]:
    where = {"endpoint": endpoint} if endpoint else {}
    base = {"name": name, "transport": "http", **where, "options": {"engine": engine}, "operations": OPERATIONS}
    return {**base, "retry": {"max_retries": 0}, **fields}


def url_of(server: RawServer, path: str = "") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


# --- cache, fallback, chaos ----------------------------------------------------------------------------------------


def test_the_cache_knows_paths_bodies_and_operations_apart(servers, manage):
    server = servers()
    manager = manage(url_of(server), cache={"ttl": "1m"})
    for _ in range(3):
        assert manager.execute("p", {"id": 1}, operation="get")["path"] == "/items/1"
        assert manager.execute("p", {"id": 2}, operation="get")["path"] == "/items/2"
        assert manager.execute("p", {"id": 1}, operation="twin") == "/items/1"
        assert manager.execute("p", {"id": 1, "q": "x"}, operation="get")["path"] == "/items/1?q=x"
    assert len(server.requests) == 4


@pytest.mark.parametrize("operation", ["create", "tag", "put", "delete"])
def test_what_changes_something_is_never_cached(servers, manage, operation):
    server = servers()
    more = {"put": {"method": "PUT", "path": "/items/{id}"}, "delete": {"method": "DELETE", "path": "/items/{id}"}}
    manager = manage(url_of(server), cache={"ttl": "1m"}, operations={**OPERATIONS, **more})
    for _ in range(3):
        manager.execute("p", {"id": 1, "a": 1}, operation=operation, idempotent=True)
    assert len(server.requests) == 3


def test_a_fallback_answers_for_the_service_and_not_for_the_caller_s_mistakes(servers, manage):
    server = servers(lambda peer: peer.read_request() and peer.send(http_reply("", "503 Unavailable")))
    manager = manage(url_of(server), fallback={"value": {"path": "none"}})
    assert manager.execute("p", {"id": 1}, operation="get") == {"path": "none"}
    with pytest.raises(InvalidArgumentError):
        manager.execute("p", {"id": ".."}, operation="get")


def test_chaos(servers, manage):
    server = servers()
    manager = manage(url_of(server), chaos={"enabled": True, "error": 1.0})
    with pytest.raises(PluginError):
        manager.execute("p", {"id": 1}, operation="get")
    assert server.requests == []


def test_a_hedged_get_has_two_attempts_and_one_answer(servers, manage):
    released = threading.Event()

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            if peer.number == 1:
                released.wait(10)
            peer.send(http_reply({"path": request.path}))

    server = servers(handler)
    manager = manage(
        url_of(server), hedge={"enabled": True, "delay": "20ms"}, retry={"max_retries": 0, "budget_ratio": 1.0}
    )
    assert manager.execute("p", {"id": 1}, operation="get", timeout=10) == {"path": "/items/1"}
    released.set()
    assert [request.path for request in server.requests] == ["/items/1", "/items/1"]


# --- idempotency, timeouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "attempts"),
    [
        ({"path": "/a"}, 3),
        ({"path": "/a", "idempotent": False}, 1),
        ({"path": "/a", "method": "HEAD"}, 3),
        ({"path": "/a", "method": "PUT"}, 3),
        ({"path": "/a", "method": "DELETE"}, 3),
        ({"path": "/a", "method": "POST"}, 1),
        ({"path": "/a", "method": "PATCH"}, 1),
        ({"path": "/a", "method": "POST", "idempotent": True}, 3),
    ],
)
def test_what_is_repeated_and_with_which_key(servers, manage, operation, attempts):
    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")

    server = servers(handler)
    retry = {"max_retries": 2, "initial_interval": "1ms"}
    manager = manage(url_of(server), operations={"op": operation}, retry=retry)
    with pytest.raises(PluginError) as caught:
        manager.execute("p", {}, operation="op")
    assert caught.value.attempts == len(server.requests) == attempts
    keys = {request.headers.get("idempotency-key") for request in server.requests}
    assert len(keys) == 1
    assert (None in keys) is (operation.get("method") != "POST" or attempts == 1)


def test_the_timeout_of_an_operation(servers, manage):
    server = servers(lambda peer: peer.read_request() and peer.hang())
    manager = manage(url_of(server), operations={"slow": {"path": "/a", "timeout": "100ms"}})
    with pytest.raises(PluginTimeoutError) as caught:
        manager.execute("p", {}, operation="slow")
    assert caught.value.elapsed < 5
    with pytest.raises(PluginTimeoutError, match=r"timed out after 0\.(2|19)"):
        manager.execute("p", {}, operation="slow", timeout=0.2)


# --- groups --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["endpoints", "load_balancers"])
def test_each_member_of_a_group_has_its_own_path(servers, manage, kind):
    one, two = servers(), servers()
    urls = [url_of(one, "/v1"), url_of(two, "/other/v2/")]
    if kind == "endpoints":
        manager = manage(endpoints=urls)
        name = "p"
    else:
        members = [plugin_of(url, manage.engine, f"m{number}") for number, url in enumerate(urls)]
        group = {"name": "g", "members": ["m0", "m1"], "strategy": "round-robin"}
        manager = manage(config={"plugins": members, "load_balancers": [group]})
        name = "g"
    found = [manager.execute(name, {"id": 1}, operation="get") for _ in range(10)]
    paths = {one.port: "/v1/items/1", two.port: "/other/v2/items/1"}
    assert {each["port"] for each in found} == set(paths)
    assert all(paths[each["port"]] == each["path"] for each in found)


def test_a_member_that_is_down_costs_no_call(servers, manage):
    server = servers()
    dead = f"http://127.0.0.1:{free_port()}"
    manager = manage(endpoints=[dead, url_of(server)], retry={"max_retries": 2, "initial_interval": "1ms"})
    for number in range(10):
        assert manager.execute("p", {"id": number}, operation="get")["path"] == f"/items/{number}"


def test_a_group_has_a_cache_of_its_own(servers, manage):
    one, two = servers(), servers()
    manager = manage(endpoints=[url_of(one), url_of(two)], cache={"ttl": "1m"})
    for _ in range(4):
        for number in (1, 2):
            assert manager.execute("p", {"id": number}, operation="get")["path"] == f"/items/{number}"
    assert len(one.requests) + len(two.requests) == 2


def test_addresses_of_a_name(servers, manage):
    server = servers()
    options = {"engine": manage.engine, "resolve": True}
    try:
        manager = manage(f"http://localhost:{server.port}/v1", options=options)
    except PluginError as error:
        pytest.fail(str(error))
    assert manager.execute("p", {"id": 1}, operation="get", timeout=10)["path"] == "/v1/items/1"


# --- batches, bound plugins, context -------------------------------------------------------------------------------


def test_batches_submit_and_bound_plugins(servers, manage):
    manager = manage(url_of(servers()))
    asked = [{"id": number} for number in range(50)]
    expected = [f"/items/{number}" for number in range(50)]
    assert list(manager.map("p", asked, operation="twin")) == expected
    assert [result.value for result in manager.map_results("p", asked, operation="twin")] == expected
    bound = manager.bind("p", dict, str, operation="twin")
    assert list(bound.map(asked)) == expected
    assert bound.submit({"id": 1}).result(10) == "/items/1"
    assert manager.submit("p", {"id": 1}, operation="twin").result(10) == "/items/1"
    assert manager.execute("p", {"id": 1}, ExecutionContext(operation="twin")) == "/items/1"
    assert manager.execute("p", {"id": 1}, ExecutionContext(operation="get"), operation="twin") == "/items/1"


def test_a_bound_plugin_is_pickled_with_its_operation(servers, manage):
    manager = manage(url_of(servers()))
    bound = pickle.loads(pickle.dumps(manager.bind("p", dict, str, operation="twin")))
    assert bound({"id": 1}) == "/items/1"


def test_no_health_request_is_sent_without_an_endpoint_for_it(servers, manage):
    server = servers()
    manager = manage(url_of(server), health_check={"interval": "20ms"})
    manager.execute("p", {"id": 1}, operation="get")
    threading.Event().wait(0.2)
    assert [request.path for request in server.requests] == ["/items/1"]


# --- reload --------------------------------------------------------------------------------------------------------


def test_no_call_fails_while_reloads_edit_its_operation(servers, manage):
    """Eight threads call what both configurations have, while one is replaced by the other."""
    server = servers()
    versions = [{"get": {"path": f"/v{number}/items/{{id}}"}, "same": {"path": "/same"}} for number in (1, 2)]
    configs = [{"plugins": [plugin_of(url_of(server), manage.engine, operations=each)]} for each in versions]
    manager = manage(config=configs[0])
    stop = threading.Event()

    def work(number: int) -> int:
        made = 0
        while not stop.is_set():
            path = manager.execute("p", {"id": number}, operation="get", timeout=10)["path"]
            assert path in {f"/v1/items/{number}", f"/v2/items/{number}"}
            assert manager.execute("p", {}, operation="same", timeout=10)["path"] == "/same"
            made += 1
        return made

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(work, number) for number in range(8)]
        try:
            for round_ in range(1, 13):
                manager.reload_config(configs[round_ % 2])
                assert manager.execute("p", {"id": 9}, operation="get")["path"] == f"/v{round_ % 2 + 1}/items/9"
        finally:
            stop.set()
        assert all(future.result(30) > 0 for future in futures)


def test_a_reload_adds_and_removes_operations(servers, manage):
    server = servers()
    manager = manage(url_of(server))
    added = {"plugins": [plugin_of(url_of(server), manage.engine, operations={"new": {"path": "/new"}})]}
    manager.reload_config(added)
    assert manager.execute("p", {}, operation="new")["path"] == "/new"
    with pytest.raises(LookupError, match="is not configured"):
        manager.execute("p", {"id": 1}, operation="get")


def test_a_service_that_is_down(manage):
    manager = manage(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConnectionError):
        manager.execute("p", {"id": 1}, operation="get")


def test_an_open_breaker_sends_nothing(servers, manage):
    server = servers(lambda peer: peer.read_request() and peer.send(http_reply("", "503 No", {"Connection": "close"})))
    manager = manage(url_of(server), circuit_breaker={"failure_threshold": 3})
    for _ in range(3):
        with pytest.raises(PluginUnavailableError):
            manager.execute("p", {"id": 1}, operation="get")
    with pytest.raises(PluginError, match="circuit"):
        manager.execute("p", {"id": 1}, operation="get")
    assert len(server.requests) == 3


def sent_body(request: Request) -> Any:
    return json.loads(request.body)


def test_values_of_the_environment(servers, manage, monkeypatch):
    server = servers()
    monkeypatch.setenv("SHOP_TENANT", "t-9")
    operation = {"method": "POST", "path": "/a", "headers": {"X-Tenant": "${SHOP_TENANT}", "X-User": "{user}"}}
    manager = manage(url_of(server), operations={"op": operation})
    manager.execute("p", {"user": "ada", "a": 1}, operation="op")
    (request,) = server.requests
    assert (request.headers["x-tenant"], request.headers["x-user"]) == ("t-9", "ada")
    assert sent_body(request) == {"a": 1}
