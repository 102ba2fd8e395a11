"""Reloads that edit policies while eight threads call: no call meets half of two configurations.

Every configuration has a fallback, so that no call may fail, although the plugin always does.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from goplugins import HealthStatus, Manager, PluginInfo, PluginStatus, PluginUnavailableError
from goplugins.transports.interface import Sender

THREADS = 8
EDITS: dict[str, list[dict[str, Any]]] = {
    "fallback": [{"fallback": {"value": "one"}}, {"fallback": {"value": "two"}}],
    "cache": [{"cache": {"ttl": 1}}, {"cache": {"ttl": 2}}, {}],
    "bulkhead": [{"bulkhead": {"max_concurrent": number, "max_waiting": 100}} for number in (2, 1, 2)],
    "hedge": [{"hedge": {"enabled": True, "delay": 30}}, {}, {"hedge": {"enabled": True, "percentile": 0.9}}],
    "retry": [{"retry": {"idempotent": True, "max_retries": number}} for number in (0, 1)],
}


class Service(Sender):
    """A sender whose calls wait for a moment and then do what the test says."""

    def __init__(self) -> None:
        self.down = True
        self.pause = 0.0005
        self.most = 0
        self._inside: set[int] = set()

    def send(self, call: Any) -> Any:
        number = call.request["number"]
        self._inside.add(number)
        self.most = max(self.most, len(self._inside))
        time.sleep(self.pause)
        self._inside.discard(number)
        if self.down:
            raise PluginUnavailableError("down")
        return number

    def prepare(self, call: Any) -> None:
        call.payload = call.codec.encode(call.request)

    def execute(self, request: Any, context: Any) -> Any:
        return request

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(PluginStatus.HEALTHY)

    def info(self) -> PluginInfo:
        return PluginInfo("p")


class Factory:
    def __init__(self) -> None:
        self.service = Service()

    def create_plugin(self, config: Any) -> Any:
        return self.service

    def supported_transports(self) -> list[str]:
        return ["unix"]

    def validate_config(self, config: Any) -> None: ...


def configuration(**sections: Any) -> dict[str, Any]:
    own = {"name": "p", "type": "fake", "transport": "unix", "endpoint": "/run/p.sock"}
    common = {
        "health_check": {"enabled": False},
        "circuit_breaker": {"enabled": False},
        "retry": {"idempotent": True, "max_retries": 0},
        "bulkhead": {"max_concurrent": 2, "max_waiting": 100},
        "fallback": {"value": "one"},
    }
    return {"plugins": [{**own, **common, **sections}]}


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
def manager(factory: Factory) -> Iterator[Manager[Any, Any]]:
    with Manager() as made:
        made.register_factory("fake", factory)
        made.load_from_config(configuration())
        yield made


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads switch often, so that a short window is met."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def reload_under_load(manager: Manager[Any, Any], edits: list[dict[str, Any]], seconds: float) -> tuple[int, list[str]]:
    """Applies the edits in turn while all threads call; the number of reloads, and the errors of calls."""
    over = threading.Event()
    errors: list[str] = []
    numbers = itertools.count()

    def call() -> None:
        while not over.is_set():
            try:
                answer = manager.execute("p", {"number": next(numbers)}, timeout=30)
                assert answer in {"one", "two"}, answer
            except Exception as exc:
                errors.append(repr(exc))

    threads = [threading.Thread(target=call) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    reloads = 0
    for sections in itertools.cycle(edits):
        manager.reload_config(configuration(**sections))
        reloads += 1
        if time.monotonic() > end:
            break
    over.set()
    for thread in threads:
        thread.join(30)
    return reloads, errors


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("section", EDITS)
def test_no_call_fails_that_both_configurations_answer(
    manager: Manager[Any, Any], factory: Factory, section: str
) -> None:
    reloads, errors = reload_under_load(manager, EDITS[section], 1.5)
    assert reloads > 20
    assert errors == []
    assert factory.service.most <= 2, "a bulkhead of 2 holds no third call"
    assert manager.metrics().plugins["p"].requests_failure == 0


def test_an_edit_of_the_fallback_keeps_the_cache(manager: Manager[Any, Any], factory: Factory) -> None:
    cache = {"cache": {"ttl": 0.01, "stale_if_error": 600}}
    manager.reload_config(configuration(**cache))
    factory.service.down = False
    assert manager.execute("p", {"number": 100}) == 100
    factory.service.down = True
    time.sleep(0.02)
    before = manager.execute_result("p", {"number": 100})
    assert (before.value, before.source) == (100, "stale")
    manager.reload_config(configuration(**cache, fallback={"value": "two"}))
    after = manager.execute_result("p", {"number": 100})
    assert (after.value, after.source) == (100, "stale")
    assert manager.execute_result("p", {"number": 101}).value == "two"


def test_policies_keep_their_state_over_edits_of_others(manager: Manager[Any, Any], factory: Factory) -> None:
    breaker = {"circuit_breaker": {"failure_threshold": 1, "min_request_threshold": 1}}
    limit = {"rate_limit": {"enabled": True, "requests_per_second": 0.001, "burst_size": 3}}
    hedge = {"hedge": {"enabled": True, "percentile": 0.9}}
    manager.reload_config(configuration(**breaker, **limit, **hedge))
    pipeline = manager._registry.get("p").pipeline
    for _ in range(40):
        pipeline.hedger.policy.record(0.25)
    manager.execute("p", {"number": 1})
    manager.reload_config(configuration(**breaker, **limit, hedge={"enabled": True, "percentile": 0.8}))
    explanation = manager.explain("p")
    assert str(explanation.breaker) == "open"
    assert round(explanation.tokens or 0.0) == 2
    assert manager._registry.get("p").pipeline.hedger.policy.delay() == 0.25
