"""A plugin in this process whose texts hold half a character and a line break: whatever shows them stays whole."""

from __future__ import annotations

import json
import wsgiref.util
from typing import Any

import pytest

from goplugins import Manager
from goplugins.config import ObservabilityConfig
from goplugins.contrib import dashboard
from goplugins.enums import PluginStatus
from goplugins.errors import PluginError, PluginExecutionError, PluginUnavailableError
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from tests.unit.observability.fakes import ECHO

TEXT = "bad \ud800 thing\nWARNING forged"


class Plugin:
    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def info(self) -> PluginInfo:
        return PluginInfo(name="p")

    def execute(self, request: Any, context: Any, /) -> Any:
        raise self.kind(TEXT)

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(PluginStatus.UNHEALTHY, TEXT)

    def close(self) -> None: ...


class Span:
    context = None

    def __init__(self) -> None:
        self.texts: list[str] = []

    def set_attribute(self, key: str, value: Any) -> None:
        self.texts.append(str(value))

    def set_status(self, code: Any, message: str = "") -> None:
        self.texts.append(message)

    def finish(self) -> None: ...


class Provider:
    """With the three methods of the Go library."""

    def __init__(self) -> None:
        self.span = Span()

    def start_span(self, name: str, **_: Any) -> Span:
        return self.span

    def extract_context(self, headers: Any) -> None: ...

    def inject_context(self, span: Any) -> dict[str, str]:
        return {}


@pytest.mark.parametrize("kind", [PluginExecutionError, PluginUnavailableError, ValueError, RuntimeError])
def test_spans_and_dashboard_show_every_text(kind):
    provider = Provider()
    manager: Manager[Any, Any] = Manager()
    tracing = ObservabilityConfig(tracing_enabled=True, tracing_sample_rate=1.0, tracing_provider=provider)  # type: ignore[arg-type]
    with manager:
        manager.load_from_config({"plugins": [ECHO], "observability": tracing})
        manager.register(Plugin(kind), name="p")
        environ: dict[str, Any] = {"PATH_INFO": "/state"}
        wsgiref.util.setup_testing_defaults(environ)
        page = dashboard.wsgi(manager)
        b"".join(page(dict(environ), lambda *_: None))  # it records from now on
        with pytest.raises(PluginError):
            manager.execute("p", 1, timeout=2)
        assert any("thing" in text for text in provider.span.texts)
        for text in provider.span.texts:
            assert text.isprintable(), ascii(text)
        json.loads(b"".join(page(dict(environ), lambda *_: None)))
