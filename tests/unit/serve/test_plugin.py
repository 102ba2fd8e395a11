"""serve.Plugin: how operations are added, found, described and called without a server."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest

from goplugins import (
    ExecutionContext,
    Manager,
    OperationInfo,
    PluginConfig,
    PluginExecutionError,
    PluginInfo,
    PluginRequestError,
    serve,
)
from goplugins.errors import InvalidArgumentError, InvalidConfigError
from goplugins.serve._dispatch import Incoming, Kind, dispatch, info_json
from goplugins.serve.in_process import FunctionPlugin


@attrs.frozen
class Order:
    item: str
    count: int = 1


orders = serve.Plugin("orders", "1.0", author="me", capabilities=["x"], metadata={"a": "b"})


@orders.operation
def place(order: Order, context: ExecutionContext) -> serve.Reply[str]:
    """Places an order.

    At once.
    """
    return serve.Reply(f"{context.operation} {order.count} {order.item}", metadata={"rows": 1})


@orders.operation(name="orders/cancel", idempotent=True, description="takes it back")
def cancel(item: str) -> bool:
    if item == "sold":
        raise serve.Rejected("sold already", code="SOLD")
    return True


def fresh() -> serve.Plugin:
    return serve.Plugin("fresh")


def test_the_functions_stay_as_they_are():
    assert place(Order("pen"), ExecutionContext(operation="x")).value == "x 1 pen"
    assert cancel("pen") is True
    assert place.__name__ == "place"


def test_info_has_the_operations_in_their_order():
    info = orders.info()
    assert info == PluginInfo("orders", "1.0", "", "me", ("x",), {"a": "b"}, orders.operations)
    assert list(info.operations) == ["place", "orders/cancel"]
    assert info.operations["orders/cancel"] == OperationInfo(
        "takes it back", True, False, {"type": "string"}, {"type": "boolean"}
    )
    assert info.operations["place"].description == "Places an order."
    assert '"operations":{"place":{"description":"Places an order."' in info_json(orders)


def test_info_of_a_plugin_with_one_function_is_as_before():
    @serve.plugin(version="1")
    def greet(request: str) -> str:
        return request

    assert info_json(greet) == (
        '{"name":"greet","version":"1","description":"","author":"","capabilities":[],"metadata":{}}'
    )


@pytest.mark.parametrize("name", ["", "a b", "1st", "-", "ä", "a" * 129])
def test_a_name_that_can_not_be_one_is_refused(name):
    with pytest.raises(InvalidArgumentError, match="is not a name for an operation: use letters"):
        fresh().operation(name=name)(cancel)


def test_names_and_defaults_are_unique():
    plugin = fresh()
    plugin.operation(cancel)
    with pytest.raises(InvalidArgumentError, match="plugin 'fresh' has an operation 'cancel' already"):
        plugin.operation(cancel)
    plugin.operation(name="a", default=True)(cancel)
    with pytest.raises(InvalidArgumentError, match="operations 'a' and 'b' are both the default"):
        plugin.operation(name="b", default=True)(cancel)
    assert {name: each.default for name, each in plugin.operations.items()} == {"cancel": False, "a": True}


def test_mistakes_of_an_operation_name_it():
    def untyped(request):  # type: ignore[no-untyped-def]
        return request

    async def late(request: str) -> str:
        return request

    with pytest.raises(InvalidArgumentError, match="plugin 'fresh', operation 'untyped': its parameter 'request'"):
        fresh().operation(untyped)
    with pytest.raises(InvalidArgumentError, match="plugin 'fresh', operation 'late': a served function can't be"):
        fresh().operation(late)
    plugin = fresh()
    plugin.operation(name="half", request=int, response=float)(lambda number: number / 2)
    assert plugin.operations["half"].response == {"type": "number"}


def test_an_only_operation_is_the_default_until_there_is_another():
    plugin = fresh()
    with pytest.raises(InvalidArgumentError, match="plugin 'fresh' has no operations"):
        plugin.find("")
    plugin.operation(cancel)
    assert plugin.find("").operation == plugin.find("cancel").operation == "cancel"
    assert plugin.operations["cancel"].default
    plugin.operation(name="other")(cancel)
    with pytest.raises(InvalidArgumentError, match="several operations, name one: cancel, other"):
        plugin.find("")
    assert not plugin.operations["cancel"].default


def test_a_request_goes_to_the_function_of_its_operation():
    def outcome(operation: str, data: Any) -> Any:
        found = dispatch(orders, Incoming(data, "id", 0.0, operation=operation))
        return found.kind, found.error or found.data

    assert outcome("place", {"item": "pen"}) == (Kind.OK, b'"place 1 pen"')
    assert outcome("orders/cancel", "sold") == (Kind.REJECTED, "sold already")
    kind, text = outcome("orders/cancel", 1)
    assert (kind, "expected a string" in text) == (Kind.INVALID, True)
    assert outcome("plaice", {}) == (
        Kind.INVALID,
        "plugin 'orders' has no operation 'plaice': did you mean 'place'? It has place, orders/cancel",
    )
    secret = dispatch(orders, Incoming(None, "id", 0.0, operation="place password=hunter2")).error
    assert "hunter2" not in secret


def test_a_log_line_of_a_failure_names_the_operation(caplog):
    plugin = fresh()

    @plugin.operation
    def fail(request: str) -> str:
        raise ValueError("no")

    assert dispatch(plugin, Incoming("x", "id", 0.0)).kind is Kind.INTERNAL
    assert "plugin 'fresh', operation 'fail', request 'id' failed" in caplog.text


def test_it_is_a_plugin_of_this_process():
    with Manager() as manager:
        manager.register(orders)
        place = manager.bind("orders", Order, str, operation="place")
        result = place.result(Order("pen", 2))
        assert (result.value, dict(result.metadata)) == ("place 2 pen", {"rows": "1"})
        with pytest.raises(PluginExecutionError, match="sold already"):
            manager.execute("orders", "sold", operation="orders/cancel")
        with pytest.raises(PluginRequestError, match="has no operation 'plaice': did you mean 'place'"):
            manager.execute("orders", {}, operation="plaice")
        with pytest.raises(PluginRequestError, match="several operations, name one: place, orders/cancel"):
            manager.execute("orders", {})
        assert manager.explain("orders").breaker == "closed"
        assert manager.health()["orders"].status == "healthy"


@pytest.mark.parametrize("way", ["registered", "configured"])
def test_a_plain_function_finds_the_operation_in_its_context(way):
    with Manager() as manager:
        if way == "registered":
            manager.register(named, name="named")
            manager.register(deaf, name="deaf")
        else:
            here = {"transport": "python", "health_check": {"enabled": False}}
            plugins = [{"name": name, "endpoint": f"{__name__}:{name}", **here} for name in ("named", "deaf")]
            manager.load_from_config({"plugins": plugins})
        assert manager.execute("named", "x", operation="get") == "get x"
        assert manager.execute("named", "x") == " x"
        assert manager.execute("deaf", "x") == "x"
        with pytest.raises(PluginRequestError, match="has no operation 'get', only one function"):
            manager.execute("deaf", "x", operation="get")


def named(request: str, context: ExecutionContext) -> str:
    return f"{context.operation} {request}"


def deaf(request: str) -> str:
    return request


def test_configured_operations_are_compared_with_those_of_the_plugin():
    def config(*names: str) -> PluginConfig:
        operations = {name: {} for name in names}
        fields = {"name": "p", "transport": "python", "endpoint": f"{__name__}:orders", "operations": operations}
        return PluginConfig.from_mapping(fields)

    assert FunctionPlugin(config("place")).info().name == "orders"
    with pytest.raises(InvalidConfigError, match="has no operation 'plaice': did you mean 'place'") as caught:
        FunctionPlugin(config("place", "plaice"))
    assert caught.value.path == "operations.plaice"


def test_it_pickles_by_its_name_in_its_module():
    assert pickle.loads(pickle.dumps(orders)) is copy.copy(orders) is copy.deepcopy(orders) is orders
    with pytest.raises(InvalidArgumentError, match="plugin 'fresh' can't be pickled"):
        pickle.dumps(fresh())


def test_only_plugins_are_served():
    for served in (serve.wsgi, serve.start):
        with pytest.raises(InvalidArgumentError, match=r"expected a function with @serve.plugin, or a serve\.Plugin"):
            served(deaf)  # type: ignore[arg-type,operator]
