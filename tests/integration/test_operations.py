"""Operations with all that surrounds a call: native gRPC methods, fallbacks, groups, hedges, processes, commands."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from goplugins import (
    ConfigError,
    ExecutionContext,
    InvalidConfigError,
    LoadBalancer,
    Manager,
    OperationConfig,
    OperationNotFoundError,
    PluginConfig,
    PluginConnectionError,
    PluginRequestError,
    PluginTimeoutError,
    serve,
)
from goplugins.cli import main
from goplugins.errors import InvalidArgumentError
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.transports.grpc import GRPCPlugin
from goplugins.transports.grpc.fork_support import load
from tests.servers import free_port

ROOT = str(Path(__file__).resolve().parents[2])

grpc = load()
seen: list[tuple[str, Any, str]] = []


def shop_named(name: str, *operations: str) -> serve.Plugin:
    """A plugin whose operations note and return their names."""
    plugin = serve.Plugin(name)
    for operation in operations:

        def run(request: Any, context: ExecutionContext) -> str:
            seen.append((name, request, context.operation))
            if request == "slow" and len(seen) == 1:
                futures.wait([futures.Future()], 0.5)
            return f"{name}.{context.operation}"

        plugin.operation(name=operation)(run)
    return plugin


shop = shop_named("shop", "get", "place")


@serve.plugin(name="single")
def single(request: Any) -> str:
    return "single"


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def http(name: str, url: str, *operations: str, **sections: Any) -> dict[str, Any]:
    plugin: dict[str, Any] = {"name": name, "transport": "http", "endpoint": url, "retry": {"max_retries": 0}}
    plugin["health_check"] = {"enabled": False}
    return {**plugin, "operations": {each: {} for each in operations}, **sections}


@pytest.fixture
def manager() -> Iterator[Manager[Any, Any]]:
    with Manager() as made:
        yield made


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve.start(shop) as server:
        yield server.url


# --- methods of gRPC services ---------------------------------------------------------------------------------------


class Shop:
    """Two methods of a service that was not made for goplugins."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(self,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def service(self, details: Any) -> Any:
        self.calls[details.method] += 1
        if details.method == "/shop.v1.Shop/Count":
            make, kind, reply = (lambda request, _: Int32Value(value=len(request.value))), StringValue, Int32Value
        elif details.method == "/shop.v1.Shop/Repeat":
            make, kind, reply = (lambda request, _: StringValue(value="x" * request.value)), Int32Value, StringValue
        else:
            return None
        return grpc.unary_unary_rpc_method_handler(make, kind.FromString, reply.SerializeToString)


@pytest.fixture(scope="module")
def native() -> Iterator[Shop]:
    service = Shop()
    yield service
    service.server.stop(0).wait(5)


COUNT, REPEAT = "/shop.v1.Shop/Count", "/shop.v1.Shop/Repeat"


def grpc_plugin(address: str, operations: dict[str, Any], **options: Any) -> dict[str, Any]:
    fields = {"name": "p", "transport": "grpc", "endpoint": address, "health_check": {"enabled": False}}
    return {**fields, "operations": operations, "options": options}


def test_several_methods_are_operations_of_one_plugin(manager, native):
    operations = {"count": {"method": COUNT}, "repeat": {"method": REPEAT, "timeout": 7, "idempotent": True}}
    manager.load_from_config({"plugins": [grpc_plugin(native.address, operations)]})
    count = manager.bind("p", StringValue, Int32Value, operation="count")
    repeat = manager.bind("p", Int32Value, StringValue, operation="repeat")
    assert count(StringValue(value="abc")) == Int32Value(value=3)
    assert list(repeat.map([Int32Value(value=n) for n in (1, 2)])) == [StringValue(value="x"), StringValue(value="xx")]
    with pytest.raises(OperationNotFoundError, match="names no operation: pass operation=, one of count, repeat"):
        manager.bind("p", StringValue, Int32Value)(StringValue())
    with pytest.raises(OperationNotFoundError, match="'cuont' is not configured: did you mean 'count'"):
        manager.bind("p", StringValue, Int32Value, operation="cuont")(StringValue())
    with pytest.raises(InvalidArgumentError, match=f"operations.count calls {COUNT} with its own messages: bind"):
        manager.execute("p", "abc", operation="count")
    assert manager.explain("p").breaker == "closed"
    assert manager.get_plugin("p").info().name == "p"  # the service has no info
    assert set(native.calls) <= {COUNT, REPEAT, "/grpc.health.v1.Health/Check"}


def test_the_method_of_the_options_is_the_default(manager, native):
    operations = {"repeat": {"method": REPEAT}, "quick": {"timeout": 5}}
    manager.load_from_config({"plugins": [grpc_plugin(native.address, operations, method=COUNT)]})
    for operation in ("", "quick"):
        count = manager.bind("p", StringValue, Int32Value, operation=operation)
        assert count(StringValue(value="abc")) == Int32Value(value=3)
    assert manager.bind("p", Int32Value, StringValue, operation="repeat")(Int32Value(value=2)).value == "xx"


def test_a_method_alone_is_called_without_an_operation(manager, native):
    manager.load_from_config({"plugins": [grpc_plugin(native.address, {}, method=COUNT)]})
    with pytest.raises(OperationNotFoundError, match=r"options\.method is called without an operation"):
        manager.bind("p", StringValue, Int32Value, operation="count")(StringValue())


def test_a_served_plugin_has_operations_beside_methods(manager):
    with serve.start(shop, "grpc://127.0.0.1:0") as server:
        operations = {"get": {}, "health": {"method": "/grpc.health.v1.Health/Check"}}
        manager.load_from_config({"plugins": [grpc_plugin(server.endpoint, operations)]})
        assert manager.execute("p", 1, operation="get") == "shop.get"
        check = manager.bind("p", StringValue, StringValue, operation="health")  # an empty message suits
        assert isinstance(check(StringValue()), StringValue)
        with pytest.raises(PluginRequestError, match="has several operations, name one: get, place"):
            manager.execute("p", 1)


@pytest.mark.parametrize("operation", ["a b", "\ud800"])
def test_a_name_that_a_message_can_not_carry_is_an_argument_that_is_not_valid(operation):
    config = PluginConfig.from_mapping({"name": "p", "transport": "grpc", "endpoint": "127.0.0.1:1"})
    plugin = GRPCPlugin(config)
    with pytest.raises(InvalidArgumentError, match="is not a name for an operation"):
        plugin.execute(1, ExecutionContext(operation=operation))
    plugin.close()


# --- what is configured ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "field", "text"),
    [
        ({"transport": "unix", "endpoint": "/run/x"}, "method", "is not used by transport unix (remove it)"),
        ({"transport": "exec", "executable": "/bin/x"}, "path", "is not used by transport exec (remove it)"),
        ({"transport": "python", "endpoint": "json:loads"}, "result", "is not used by transport python (remove it)"),
        ({"transport": "grpc", "endpoint": "h:1"}, "body", "is not used by transport grpc (remove it)"),
        ({"transport": "grpc", "endpoint": "h:1"}, "method", "is not the full name of a gRPC method (write it as /pkg"),
        ({"transport": "http", "endpoint": "http://h"}, "query", "is not used by the envelope of goplugins (write a p"),
    ],
)
def test_what_a_transport_does_not_use_is_refused(plugin, field, text):
    value: Any = {"query": {"a": "b"}, "result": "/a", "body": "json", "path": ""}.get(field, "GET")
    if field == "path":
        value = "/x"
    with pytest.raises(ConfigError) as caught:
        Manager().load_from_config({"plugins": [{"name": "p", **plugin, "operations": {"get": {field: value}}}]})
    assert f"plugins[0].operations.get.{field}: {text}" in str(caught.value)


# --- fallbacks -------------------------------------------------------------------------------------------------------


def dead(**sections: Any) -> dict[str, Any]:
    return http("p", f"http://127.0.0.1:{free_port()}", fallback={"plugin": "q"}, **sections)


@pytest.mark.parametrize("operations", [(), ("get",)], ids=["none configured", "configured"])
def test_a_fallback_gets_the_operation(manager, url, operations):
    manager.load_from_config({"plugins": [dead(), http("q", url, *operations)]})
    result = manager.execute_result("p", 1, operation="get")
    assert (result.value, result.source, seen) == ("shop.get", "fallback", [("shop", 1, "get")])


def test_a_fallback_without_the_operation_is_no_answer(manager, url):
    manager.load_from_config({"plugins": [dead(), http("q", url, "get")]})
    with pytest.raises(PluginConnectionError) as caught:
        manager.execute("p", 1, operation="place")
    assert "operation 'place' is not configured: known operations: get" in caught.value.details["fallback"]
    assert seen == []


def test_a_fallback_of_another_transport_prepares_the_request_anew(manager, url):
    """A request that REST has prepared is no request of the envelope."""
    rest = dead(operations={"get": {"path": "/items/{id}"}})
    manager.load_from_config({"plugins": [rest, http("q", url)]})
    assert manager.execute("p", {"id": 7}, operation="get") == "shop.get"
    assert seen == [("shop", {"id": 7}, "get")]


# --- groups and hedges -----------------------------------------------------------------------------------------------


def test_a_group_has_the_operations_of_its_members_and_sends_each_where_it_is(manager, url):
    with serve.start(shop_named("other", "get", "count")) as other:
        plugins = [http("p", url, "get", "place"), http("q", other.url, "get", "count")]
        manager.load_from_config({"plugins": plugins, "load_balancers": [{"name": "both", "members": ["p", "q"]}]})
        found = {name: {manager.execute("both", 1, operation=name) for _ in range(8)} for name in ("place", "count")}
        assert found == {"place": {"shop.place"}, "count": {"other.count"}}
        assert {manager.execute("both", 1, operation="get") for _ in range(16)} == {"shop.get", "other.get"}
        with pytest.raises(OperationNotFoundError, match="'gett' is not configured: did you mean 'get'"):
            manager.execute("both", 1, operation="gett")
        stats = manager.get_plugin("both").sender.stats()
        assert {name: each.failed_requests for name, each in stats.items()} == {"p": 0, "q": 0}


def test_a_call_of_a_large_group_reads_no_more_members_than_it_needs(monkeypatch):
    group: LoadBalancer[Any, Any] = LoadBalancer("many")
    for number in range(50):
        group.add_plugin(shop_named(f"m{number}", "get"))
    read: list[str] = []
    operations = {"get": OperationConfig(timeout=2)}
    monkeypatch.setattr(GuardedPlugin, "operations", property(lambda self: read.append(self.name) or operations))
    assert group.operations_with("get") == operations
    assert read == ["m0"]
    assert group.operations == group.operations_with("other") == operations
    assert len(read) == 101
    group.close()


def test_a_group_whose_members_all_need_an_operation_says_so(manager, native):
    operations = {"count": {"method": COUNT}}
    plugins = [{**grpc_plugin(native.address, operations), "name": name} for name in ("p", "q")]
    manager.load_from_config({"plugins": plugins, "load_balancers": [{"name": "both", "members": ["p", "q"]}]})
    with pytest.raises(OperationNotFoundError, match="names no operation: pass operation=, one of count"):
        manager.bind("both", StringValue, Int32Value)(StringValue())


def test_a_group_in_code_passes_the_operation_to_objects():
    group: LoadBalancer[Any, Any] = LoadBalancer("both")
    for name in ("a", "b"):
        group.add_plugin(shop_named(name, "get"))
    context = ExecutionContext(operation="get")
    assert {group.execute(1, context) for _ in range(8)} == {"a.get", "b.get"}
    group.close()


def test_both_hedged_attempts_name_the_operation(manager, url):
    plugin = http("p", url, hedge={"enabled": True, "delay": 0.05}, retry={"idempotent": True, "max_retries": 0})
    manager.load_from_config({"plugins": [plugin]})
    assert manager.execute("p", "slow", operation="place", timeout=10) == "shop.place"
    assert seen == [("shop", "slow", "place")] * 2


# --- processes and commands ------------------------------------------------------------------------------------------


def test_a_bound_plugin_that_is_pickled_for_another_process_keeps_its_operation(url, tmp_path):
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps({"plugins": [http("p", url)]}))
    code = (
        "import pickle, sys\n"
        "bound = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(bound(1), repr(bound), bound.submit(2).result(10))\n"
    )
    with Manager() as manager:
        manager.load_from_config(path)
        text = pickle.dumps(manager.bind("p", int, str, operation="get")).hex()
        command = [sys.executable, "-c", code, text]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("shop.get <BoundPlugin 'p', operation 'get'> shop.get\n", "")


def test_commands_serve_and_call_operations(tmp_path, capsys):
    command = [sys.executable, "-m", "goplugins", "serve", "tests.integration.test_operations:shop", "--http", ":0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        path = tmp_path / "plugins.json"
        path.write_text(json.dumps({"plugins": [http("p", url, "get")]}))
        try:
            arguments = ["call", "--config", str(path), "p", "1"]
            assert main([*arguments, "--operation", "get"]) == 0
            assert json.loads(capsys.readouterr().out) == "shop.get"
            assert main([*arguments, "--operation", "gte"]) == 2
            assert "did you mean 'get'" in capsys.readouterr().err
            measure = ["bench", "--config", str(path), "p", "1", "--seconds", "0.2", "--warmup", "0.1", "--json"]
            assert main([*measure, "--operation", "get"]) == 0
            found = json.loads(capsys.readouterr().out)
            assert (found["calls"] > 0, found["failed"]) == (True, 0)
            assert main([*measure, "--operation", "gte"]) == 2
            assert "did you mean 'get'" in capsys.readouterr().err
        finally:
            server.terminate()


def test_info_over_http_lists_the_operations(url):
    with urllib.request.urlopen(f"{url}/info", timeout=10) as reply:
        found = json.loads(reply.read())
    assert list(found["operations"]) == ["get", "place"]
    assert found["operations"]["get"] == {
        "description": "",
        "idempotent": False,
        "default": False,
        "request": {},
        "response": {"type": "string"},
    }
    with serve.start(single) as server, urllib.request.urlopen(f"{server.url}/info", timeout=10) as reply:
        assert "operations" not in json.loads(reply.read())


def test_a_refusal_is_a_400_with_the_names(url):
    body = json.dumps({"data": 1, "operation": "gett"}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 400
    assert json.loads(caught.value.read())["error"] == (
        "plugin 'shop' has no operation 'gett': did you mean 'get'? It has get, place"
    )
    request = urllib.request.Request(url, b'{"data":1,"operation":["get"]}', {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert json.loads(caught.value.read())["error"] == "operation: expected a string"


def test_an_operation_has_the_timeout_of_its_configuration(manager, url):
    operations = {"get": {"timeout": 0.1}, "place": {}}
    manager.load_from_config({"plugins": [http("p", url, operations=operations)]})
    with pytest.raises(PluginTimeoutError):
        manager.execute("p", "slow", operation="get")
    assert manager.execute("p", "slow", operation="place") == "shop.place"


def test_operations_of_a_configuration_that_a_plugin_of_this_process_lacks():
    plugin = {"name": "p", "transport": "python", "endpoint": f"{__name__}:shop", "operations": {"gett": {}}}
    with pytest.raises(InvalidConfigError, match=r"operations\.gett: plugin 'shop' has no operation 'gett': did you"):
        Manager().load_from_config({"plugins": [plugin]})
