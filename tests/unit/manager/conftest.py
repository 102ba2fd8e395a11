"""Managers with fake plugins, whose senders a test can script and inspect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins import Manager
from goplugins.enums import PluginStatus
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.transports.interface import Sender


class FakeClient(Sender):
    """A fake sender; the last word of ``endpoint`` selects its behaviour."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.name = config.name
        self.endpoint = config.endpoint
        self.closed = 0
        self.sent: list[Any] = []
        self.hold: threading.Event | None = None
        self.entered = threading.Semaphore(0)
        self.on_send: Callable[[Any], Any] = lambda call: [self.name, self.endpoint]

    def prepare(self, call: Any) -> None:
        call.payload = call.codec.encode(call.request)

    def send(self, call: Any) -> Any:
        assert not self.closed, "a call on a closed client"
        self.sent.append(call)
        self.entered.release()
        if self.hold is not None:
            assert self.hold.wait(20)
        assert not self.closed, "a client was closed under its call"
        return self.on_send(call)

    def execute(self, request: Any, context: Any) -> Any:
        return request

    def health(self, timeout: float) -> HealthStatus:
        word = self.endpoint.rpartition(":")[2]
        if word == "raises":
            raise OSError("no such thing")
        if word == "hangs":
            threading.Event().wait(timeout + 0.5)
        if word == "nohealth":
            return HealthStatus(
                PluginStatus.HEALTHY, "it answers; it has no health endpoint (HTTP 404)", reported=False
            )
        if word in {"offline", "unhealthy", "unknown", "degraded"}:
            return HealthStatus(PluginStatus(word), f"it is {word}")
        return HealthStatus(PluginStatus.HEALTHY)

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def close(self) -> None:
        self.closed += 1


class Factory:
    """Keeps the senders that it has made."""

    def __init__(self) -> None:
        self.made: list[FakeClient] = []

    def create_plugin(self, config: Any) -> Any:
        if config.endpoint.endswith(":broken"):
            raise RuntimeError("boom")
        wire = FakeClient(config)
        self.made.append(wire)
        return wire

    def supported_transports(self) -> list[str]:
        return ["python", "unix"]

    def validate_config(self, config: Any) -> None: ...

    def of(self, name: str) -> FakeClient:
        """The sender made last."""
        return next(wire for wire in reversed(self.made) if wire.name == name)


class Harness:
    """A manager with fake plugins."""

    def __init__(self) -> None:
        self.factory = Factory()
        self.manager: Manager[Any, Any] = Manager()
        self.manager.register_factory("fake", self.factory)

    def load(self, **plugins: Any) -> None:
        self.manager.load_from_config(config(**plugins))

    def reload(self, *args: Any, **plugins: Any) -> Any:
        return self.manager.reload_config(config(**plugins), *args)

    def guarded(self, name: str) -> Any:
        return self.manager._registry.plugins[name]

    def call(self, name: str, **options: Any) -> Any:
        return self.manager.execute(name, 1, **options)

    def in_background(self, function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
        results: list[Any] = []

        def run() -> None:
            try:
                results.append(function())
            except Exception as exc:
                results.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        return thread, results


def config(settings: Any = None, **plugins: Any) -> dict[str, Any]:
    """``name="endpoint"`` or ``name={section: ...}``; an endpoint's last word selects the fake's behaviour."""
    listed = []
    for name, given in plugins.items():
        fields = {"endpoint": given} if isinstance(given, str) else given
        listed.append({"name": name, "type": "fake", "transport": "python", "endpoint": "m:a", **fields})
    return {"plugins": listed, **(settings or {})}


@pytest.fixture
def harness() -> Iterator[Harness]:
    found = Harness()
    yield found
    found.manager.shutdown(1.0)
