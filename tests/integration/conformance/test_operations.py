"""Plugins with several functions: which one is called, with which types, and what is refused, over all transports."""

from __future__ import annotations

import time
from typing import Any

import pytest

from goplugins import (
    ExecutionContext,
    OperationNotFoundError,
    PluginExecutionError,
    PluginRequestError,
    PluginTimeoutError,
    UnserializableRequestError,
)
from goplugins.errors import InvalidArgumentError, TransportError
from tests.integration.conformance.conftest import executions
from tests.integration.conformance.plugins import Done, Item, Task, lines_of
from tests.integration.conformance.test_errors import FRAGILE

pytestmark = pytest.mark.matrix


def test_each_operation_has_its_own_types(connect):
    manager = connect("stock", Any, Any)
    get = manager.bind("p", str, Item | None, operation="get")
    add = manager.bind("p", Item, list[Item], operation="add")
    work = manager.bind("p", Task, Done, operation="stock.work")
    assert (get("pen"), get("unicorn")) == (Item("pen", 3), None)
    assert add(Item("ink", 2)) == [Item("ink", 2)] * 2
    assert work(Task(value=[1])).value == [1]
    assert manager.execute("p", "pen", operation="get") == {"name": "pen", "count": 3}
    with pytest.raises(UnserializableRequestError):
        get(7)
    with pytest.raises(PluginRequestError, match="does not fit: required field missing @ data"):
        manager.execute("p", {"count": 1}, operation="add")


def test_the_function_gets_the_name_with_all_else_that_the_caller_states(connect):
    manager = connect("stock", Any, Any)
    context = ExecutionContext("call-7", 5.0, headers={"X-Tenant": "blue"}, metadata={"a": "b"}, operation="seen")
    found = manager.execute("p", [1], context, idempotent=True)
    assert (found["value"], found["operation"], found["request_id"]) == ([1], "seen", "call-7")
    assert found["headers"]["x-tenant"] == "blue"
    assert found["headers"]["idempotency-key"] == "call-7"
    assert found["metadata"] == {"a": "b"}
    assert 3.0 < found["timeout"] <= 5.0
    assert manager.execute("p", "pen", context, operation="get")["name"] == "pen"


def test_every_method_of_the_manager_takes_the_operation(connect):
    manager = connect("stock", Any, Any)
    get = manager.bind("p", str, Item | None, operation="get")
    words = ["a", "bb", "unicorn", "cccc"]
    expected = [Item("a", 1), Item("bb", 2), None, Item("cccc", 4)]
    assert list(get.map(words)) == [result.value for result in get.map_results(words)] == expected
    assert get.submit("bb").result(10) == get.result("bb").value == Item("bb", 2)
    assert [found and found["count"] for found in manager.map("p", words, operation="get")] == [1, 2, None, 4]
    assert [each.value and each.value["count"] for each in manager.map_results("p", words, operation="get")] == [
        1,
        2,
        None,
        4,
    ]
    assert manager.execute_result("p", "a", operation="get").value["count"] == 1
    assert manager.submit("p", "a", operation="get").result(10)["count"] == 1
    assert manager.get_plugin("p").execute("bb", ExecutionContext(operation="get"))["count"] == 2


# --- what is refused -----------------------------------------------------------------------------------------------


def refused(manager: Any, operation: str | None, request: Any = "pen") -> str:
    """The text of a refusal, which no policy takes for a failure of the plugin."""
    with pytest.raises(PluginRequestError) as caught:
        manager.execute("p", request, operation=operation, idempotent=True)
    error = caught.value
    assert (error.plugin, error.attempts, error.retryable) == ("p", 1, False)
    assert manager.explain("p").breaker == "closed"
    return error.message


def test_an_operation_that_the_plugin_lacks_is_refused_with_its_names(connect):
    manager = connect("stock", Any, Any, circuit_breaker=FRAGILE)
    text = refused(manager, "gett")
    assert "plugin 'stock' has no operation 'gett': did you mean 'get'? It has get, add, stock.work, seen" in text
    text = refused(manager, "delete")
    assert "plugin 'stock' has no operation 'delete': known operations: get, add, stock.work, seen" in text
    assert manager.execute("p", "pen", operation="get")["count"] == 3


def test_a_call_without_an_operation_is_refused_if_there_are_several(connect):
    manager = connect("stock", Any, Any, circuit_breaker=FRAGILE)
    text = refused(manager, None)
    assert "plugin 'stock' has several operations, name one: get, add, stock.work, seen" in text


def test_the_default_operation_needs_no_name(connect):
    manager = connect("till", list[Item], Any)
    items = [Item("pen", 2), Item("ink", 3)]
    assert manager.execute("p", items) == manager.execute("p", items, operation="total") == 5
    assert manager.execute("p", items, operation="names") == "names, pen, ink"


def test_a_plugin_with_one_function_refuses_an_operation_that_it_can_not_mean(connect, ledger):
    manager = connect(circuit_breaker=FRAGILE)
    text = refused(manager, "refund", Task(ledger=str(ledger)))
    assert "plugin 'worker' has no operation 'refund', only one function: call it without operation" in text
    assert executions(ledger) == 0


@pytest.mark.parametrize("name", ["get item", "\u2028", "1", "\ud800", "a" * 129, 7, ["get"]])
def test_what_can_be_no_name_is_refused_before_it_is_sent(connect, name):
    manager = connect("stock", Any, Any)
    with pytest.raises(InvalidArgumentError, match="is not a name for an operation") as caught:
        manager.execute("p", "pen", operation=name)
    assert (caught.value.plugin, caught.value.attempts) == ("p", 0)


def test_errors_of_an_operation_are_those_of_a_function(connect):
    manager = connect("stock", Task, Done, circuit_breaker=FRAGILE)
    with pytest.raises(PluginExecutionError, match="not in stock"):
        manager.execute("p", Task(do="reject"), operation="stock.work")
    with pytest.raises(TransportError):
        manager.execute("p", Task(do="crash"), operation="stock.work")
    assert manager.explain("p").breaker == "open"  # all operations share it


# --- policies ------------------------------------------------------------------------------------------------------


def test_configured_operations_have_timeouts_and_idempotency_of_their_own(connect, ledger, gate):
    operations = {"stock.work": {"timeout": 0.3}, "seen": {"timeout": 7, "idempotent": True}, "get": {}}
    manager = connect("stock", Any, Any, operations=operations, connection={"request_timeout": 12})
    started = time.monotonic()
    with pytest.raises(PluginTimeoutError):
        manager.execute("p", {"until": str(gate), "ledger": str(ledger)}, operation="stock.work")
    assert 0.25 < time.monotonic() - started < 5
    gate.touch()
    found = manager.execute("p", 1, operation="seen")
    assert 5.0 < found["timeout"] <= 7.0
    assert "idempotency-key" in found["headers"]
    with pytest.raises(
        OperationNotFoundError, match="operation 'sen' is not configured: did you mean 'seen'"
    ) as caught:
        manager.execute("p", 1, operation="sen")
    assert (caught.value.plugin, caught.value.attempts, isinstance(caught.value, LookupError)) == ("p", 0, True)
    with pytest.raises(OperationNotFoundError, match=r"known operations: stock\.work, seen, get"):
        manager.execute("p", {"name": "x"}, operation="add")  # the plugin has it


def test_all_attempts_name_the_operation(connect, ledger):
    manager = connect("stock", Task, Done, operations={"stock.work": {"idempotent": True}})
    task = Task(do="unavailable", times=2, ledger=str(ledger), value=1)
    assert manager.execute_result("p", task, operation="stock.work").attempts == 3
    assert len(lines_of(ledger)) == 3


def test_the_cache_keeps_operations_apart(connect):
    manager = connect("till", list[Item], Any, cache={"ttl": 60}, retry={"idempotent": True})
    items = [Item("pen", 2)]
    for source in ("plugin", "cache"):
        for name, expected in (("total", 2), ("names", "names, pen")):
            result = manager.execute_result("p", items, operation=name)
            assert (result.value, result.source) == (expected, source)


def test_attempts_that_meet_injected_faults_name_the_operation(connect):
    manager = connect("stock", Any, Any, chaos={"enabled": True, "reset": 0.5, "seed": 4}, retry={"max_retries": 20})
    for _ in range(8):
        assert manager.execute("p", "pen", operation="get", idempotent=True)["count"] == 3


# --- what a plugin states about itself -----------------------------------------------------------------------------


def test_info_lists_the_operations_with_schemas(connect, wire):
    manager = connect("stock", Any, Any)
    found = manager.get_plugin("p").info()
    if not wire.has_info:
        assert found.operations == {}
        return
    assert (found.name, found.version, dict(found.metadata)) == ("stock", "3.0", {"team": "shop"})
    assert list(found.operations) == ["get", "add", "stock.work", "seen"]
    get, add, seen = (found.operations[name] for name in ("get", "add", "seen"))
    assert (get.description, get.idempotent, get.default) == ("Finds an item.", True, False)
    assert (get.request, get.response["anyOf"][1]) == ({"type": "string"}, {"type": "null"})
    assert (add.idempotent, add.request["required"]) == (False, ["name"])
    assert add.request["properties"] == {"name": {"type": "string"}, "count": {"type": "integer"}}
    assert add.response["items"] == {"$ref": "#/$defs/Item"}
    assert (seen.description, seen.request, seen.response) == ("what the plugin gets", {}, {"type": "object"})
    default = connect("till", Any, Any).get_plugin("p").info().operations
    assert {name: each.default for name, each in default.items()} == {"total": True, "names": False}
    assert connect("worker").get_plugin("p").info().operations == {}
