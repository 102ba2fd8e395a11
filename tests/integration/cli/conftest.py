"""A folder with configuration files: a valid one, a broken one, and one with a plugin that is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from goplugins import ExecutionContext, HealthStatus, PluginInfo, PluginStatus, serve
from goplugins.serve import RunningServer

REQUESTS: list[dict[str, str]] = []
"""All requests received."""


@serve.plugin(name="greet")
def greet(request: dict[str, str]) -> dict[str, str]:
    """Rejects "eve", and is unavailable for "later"."""
    REQUESTS.append(request)
    if request.get("name") == "eve":
        raise serve.Rejected("not you\x1b[31m")
    if request.get("name") == "later":
        raise serve.Unavailable("warming up", retry_after=7)
    return {"text": f"hello {request.get('name', 'world')}, ünïcode"}


class Named:
    """A plugin that answers with the name of the operation."""

    def info(self) -> PluginInfo:
        return PluginInfo("shop")

    def execute(self, request: object, context: ExecutionContext, /) -> str:
        return context.operation

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(PluginStatus.HEALTHY)

    def close(self) -> None:
        """Holds nothing."""


named = Named()


@pytest.fixture
def server() -> Iterator[RunningServer]:
    REQUESTS.clear()
    with serve.start(greet) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugins.yaml").write_text(
        f"""\
log_level: error
plugins:
- name: greet
  transport: http
  endpoint: {server.url}
  retry: {{max_retries: 1, initial_interval: 10ms}}
  auth: {{method: bearer, token: hunter2}}
"""
    )
    (tmp_path / "broken.yaml").write_text("plugins: [{name: x}]\n")
    (tmp_path / "mixed.yaml").write_text(
        (tmp_path / "plugins.yaml").read_text()
        + """\
- name: gone
  transport: http
  endpoint: http://127.0.0.1:1/
  retry: {max_retries: 0}
  circuit_breaker: {failure_threshold: 3, min_request_threshold: 1}
"""
    )
    return tmp_path
