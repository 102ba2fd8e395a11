"""A bulkhead that a reload adds counts the calls that are in flight already."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from goplugins import BulkheadFullError, Manager, PluginError
from tests.servers import Peer, RawServer, ok
from tests.timing import until


class Service:
    """A server that holds its replies, and counts the requests that it has at once."""

    def __init__(self) -> None:
        self.go_on = threading.Semaphore(0)
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            with self._lock:
                self.now += 1
                self.most = max(self.most, self.now)
            self.go_on.acquire(timeout=30)
            with self._lock:
                self.now -= 1
            peer.send(ok(request))


@pytest.fixture
def service() -> Service:
    return Service()


@contextlib.contextmanager
def manager_of(service: Service, kind: str) -> Iterator[tuple[Any, Any]]:
    """A manager, and a function that reloads it with other sections of what is called as "p"."""
    with RawServer(service) as server, Manager(str, str) as manager:
        own: dict[str, Any] = {"transport": "http", "endpoint": server.url, "health_check": {"enabled": False}}

        def configuration(sections: dict[str, Any]) -> dict[str, Any]:
            if kind == "plugin":
                return {"plugins": [{"name": "p", **own, **sections}]}
            group = {"name": "p", "members": ["a"]}
            of_member, of_group = ({}, sections) if kind == "group" else (sections, {})
            return {"plugins": [{"name": "a", **own, **of_member}], "load_balancers": [{**group, **of_group}]}

        manager.load_from_config({"log_level": "error", **configuration({})})
        yield manager, lambda **sections: manager.reload_config({"log_level": "error", **configuration(sections)})
        service.go_on.release(50)


def bulkhead_of(manager: Any, name: str) -> Any:
    return manager._registry.plugins[name].pipeline.bulkhead


def is_refused(manager: Any) -> bool:
    """Whether a bulkhead refuses a call: that of the plugin, or that of the group's one member."""
    with pytest.raises(PluginError) as caught:
        manager.execute("p", "refused", timeout=10)
    return isinstance(caught.value, BulkheadFullError) or isinstance(caught.value.__cause__, BulkheadFullError)


@pytest.mark.parametrize("kind", ["plugin", "group", "member"])
def test_calls_in_flight_count(service: Service, kind: str) -> None:
    with manager_of(service, kind) as (manager, reload):
        early = [manager.submit("p", "early", timeout=30) for _ in range(3)]
        until(lambda: service.now == 3)
        reload(bulkhead={"max_concurrent": 2})
        bulkhead = bulkhead_of(manager, "a" if kind == "member" else "p")
        for in_use in (3, 2):
            assert bulkhead.in_use == in_use
            assert is_refused(manager)
            service.go_on.release()
            until(lambda in_use=in_use: bulkhead.in_use < in_use)  # type: ignore[misc]
        late = manager.submit("p", "late", timeout=30)  # one early call is left, and one slot
        until(lambda: service.now == 2)
        assert is_refused(manager)
        service.go_on.release(2)
        assert [each.result(10) for each in (*early, late)] == ["ok"] * 4
        until(lambda: bulkhead.in_use == 0)
        again = [manager.submit("p", "again", timeout=30) for _ in range(2)]
        until(lambda: service.now == 2)
        assert is_refused(manager)
        service.go_on.release(2)
        assert [each.result(10) for each in again] == ["ok"] * 2
        assert service.most == 3


def test_a_waiting_call_gets_the_slot_of_an_earlier_one(service: Service) -> None:
    with manager_of(service, "plugin") as (manager, reload):
        early = manager.submit("p", "early", timeout=30)
        until(lambda: service.now == 1)
        reload(bulkhead={"max_concurrent": 1, "max_waiting": 1})
        late = manager.submit("p", "late", timeout=30)
        until(lambda: bulkhead_of(manager, "p").waiting == 1)
        service.go_on.release(2)
        assert (early.result(10), late.result(10), service.most) == ("ok", "ok", 1)


def test_a_reload_within_a_call_and_nested_calls() -> None:
    """A call of a Python plugin reloads, and calls its own plugin: of both, the earlier one leaves last."""
    with Manager(str, str) as manager:
        config: dict[str, Any] = {"name": "q", "transport": "python", "endpoint": f"{__name__}:nested"}
        manager.load_from_config({"plugins": [config]})

        def body(request: str) -> str:
            if request == "inner":
                return "inner"
            manager.reload_config({"plugins": [{**config, "bulkhead": {"max_concurrent": 2}}]})
            bulkhead = bulkhead_of(manager, "q")
            found = [bulkhead.in_use, manager.execute("q", "inner"), bulkhead.in_use]
            return str(found)

        BODY.append(body)
        assert manager.execute("q", "outer") == "[1, 'inner', 1]"
        bulkhead = bulkhead_of(manager, "q")
        assert bulkhead.in_use == 0
        assert manager._registry.plugins["q"].tracker._lent == {}


BODY: list[Any] = []


def nested(request: str) -> str:
    return BODY[-1](request)  # type: ignore[no-any-return]
