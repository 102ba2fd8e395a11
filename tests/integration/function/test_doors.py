"""Every way to a plugin holds requests and answers to their declared types, in this process as over a wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from goplugins import (
    FallbackConfig,
    HealthStatus,
    LoadBalancer,
    Manager,
    PluginConfig,
    PluginConnectionError,
    PluginError,
    PluginInfo,
    ReplyTypeError,
    UnserializableRequestError,
    serve,
)

pytestmark = pytest.mark.matrix


@attrs.frozen
class Order:
    item: str
    count: int


@attrs.frozen
class Price:
    total: float


@attrs.frozen
class Lookalike:
    item: str
    count: int


Answer = Callable[[Any], Any]


class Shop:
    """A plugin object."""

    def __init__(self, answer: Answer, name: str = "shop") -> None:
        self.answer, self.name, self.seen = answer, name, []

    def info(self):
        return PluginInfo(self.name)

    def execute(self, request, context):
        self.seen.append(request)
        return self.answer(request)

    def health(self, timeout):
        return HealthStatus()

    def close(self):
        pass


class Factory:
    """A factory of an application's own."""

    def __init__(self, answer):
        self.answer = answer

    def supported_transports(self):
        return ["python"]

    def validate_config(self, config):
        pass

    def create_plugin(self, config):
        return Shop(self.answer)


class Down(Shop):
    def execute(self, request, context):
        raise PluginConnectionError("no connection")


def _registered_object(answer):
    manager = Manager(Order, Price)
    manager.register(Shop(answer))
    return lambda request: manager.execute("shop", request)


def _bound(answer):
    manager = Manager()
    manager.register(Shop(answer))
    return manager.bind("shop", Order, Price)


def _custom_factory(answer):
    manager = Manager(Order, Price)
    manager.register_factory("own", Factory(answer))
    manager.load_from_config(
        {"plugins": [{"name": "shop", "type": "own", "transport": "python", "endpoint": "own:shop"}]}
    )
    return lambda request: manager.execute("shop", request)


def _fallback(answer):
    manager = Manager(Order, Price)
    fallback = FallbackConfig(function=lambda request, error: answer(request))
    manager.register(Down(answer), PluginConfig(name="shop", fallback=fallback), name="shop")
    return lambda request: manager.execute("shop", request)


def _balancer(answer):
    return LoadBalancer("shops", Order, Price, members=[Shop(answer, "a"), Shop(answer, "b")]).execute


def _registered_balancer(answer):
    manager = Manager(Order, Price)
    manager.register(LoadBalancer("shop", members=[Shop(answer, "a")]))
    return lambda request: manager.execute("shop", request)


def _group_of_registered(answer):
    manager = Manager(Order, Price)
    manager.register(Shop(answer, "a"))
    manager.load_from_config({"load_balancers": [{"name": "shop", "members": ["a"]}]})
    return lambda request: manager.execute("shop", request)


def _submitted(answer):
    manager = Manager(Order, Price)
    manager.register(Shop(answer))
    return lambda request: manager.submit("shop", request).result()


def _served(answer):
    manager = Manager(Order, Price)

    @serve.plugin(name="shop")
    def shop(request: Order) -> Price:
        return answer(request)

    manager.register(shop)
    return lambda request: manager.execute("shop", request)


def _function(answer):
    manager = Manager(Order, Price)

    def shop(request: Order) -> Price:
        return answer(request)

    manager.register(shop)
    return lambda request: manager.execute("shop", request)


def _function_of_an_untyped_manager(answer):
    manager = Manager()

    def shop(request: Order) -> Price:
        return answer(request)

    manager.register(shop, name="shop")
    return lambda request: manager.execute("shop", request)


DOORS = [
    _registered_object,
    _bound,
    _custom_factory,
    _fallback,
    _balancer,
    _registered_balancer,
    _group_of_registered,
    _submitted,
    _served,
    _function,
]


@pytest.fixture(params=DOORS, ids=lambda door: door.__name__.strip("_"))
def door(request):
    return request.param


ORDER = Order("tea", 2)


def test_instances_pass_as_they_are(door):
    seen, price = [], Price(7.0)
    call = door(lambda request: seen.append(request) or price)
    assert call(ORDER) is price
    assert seen[0] is ORDER


@pytest.mark.parametrize("request_", [{"item": "tea", "count": 2}, Lookalike("tea", 2), "tea", None], ids=repr)
def test_a_request_of_another_type_is_refused_before_the_plugin_is_called(door, request_):
    seen = []
    call = door(lambda request: seen.append(request) or Price(7.0))
    with pytest.raises(UnserializableRequestError, match="the request has the wrong type: expected an Order"):
        call(request_)
    assert seen == []


def test_an_answer_with_the_same_json_becomes_an_instance(door):
    assert door(lambda request: {"total": 7})(ORDER) == Price(7.0)


@pytest.mark.parametrize("answer", ["7", {"total": "7"}, {}, None, Order], ids=repr)
def test_an_answer_that_does_not_fit_is_one_error(door, answer):
    with pytest.raises(PluginError) as caught:
        door(lambda request: answer)(ORDER)
    if door is _fallback:  # it has no answer then
        assert isinstance(caught.value, PluginConnectionError)
        assert "failed, too" in caught.value.details["fallback"]
    else:
        assert isinstance(caught.value, ReplyTypeError) or "ReplyTypeError" in caught.value.message


def test_a_function_gets_the_type_of_its_annotation_from_untyped_callers():
    seen = []
    call = _function_of_an_untyped_manager(lambda request: seen.append(request) or Price(7.0))
    assert call({"item": "tea", "count": 2}) == Price(7.0)
    assert seen == [ORDER]
    with pytest.raises(PluginError, match="does not fit"):
        call({"item": "tea"})
    with pytest.raises(PluginError, match="ReplyTypeError"):
        _function_of_an_untyped_manager(lambda request: "7")(ORDER)


def test_a_function_without_annotations_is_refused_where_it_is_registered():
    manager: Manager[Any, Any] = Manager()
    with pytest.raises(PluginError, match="has no type"):
        manager.register(lambda request: request, name="shop")
