"""The objects that the tests name in their endpoints."""

from __future__ import annotations

import contextvars
import dataclasses
import threading
import time
from typing import Any

from goplugins import ExecutionContext, serve
from goplugins.enums import PluginStatus
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus

released = threading.Event()
where = contextvars.ContextVar("where", default="nowhere")
not_callable = 7


@dataclasses.dataclass
class Question:
    text: str
    times: int = 1


@serve.plugin(name="served", version="3.0")
def served(request: Question) -> str:
    return request.text * request.times


def plain(request: Any) -> Any:
    """A plain function."""
    return request


def remaining(request: Any, context: ExecutionContext) -> float | None:
    return context.timeout


def spoil(request: dict[str, Any]) -> dict[str, Any]:
    request["spoilt"] = True
    return request


def reject(request: Any) -> Any:
    raise serve.Rejected("no", code="E1")


def fail(request: Any) -> Any:
    raise ValueError("broken")


def unserialisable(request: Any) -> Any:
    return object()


def hang(request: Any) -> Any:
    released.wait(10)
    return "late"


def short_sleep(request: Any) -> Any:
    time.sleep(0.02)
    return request


def thread_and_context(request: Any) -> Any:
    return [threading.current_thread().name, where.get()]


def wrong_arguments() -> None: ...


class Object:
    def __init__(self) -> None:
        self.closed = False

    def info(self) -> PluginInfo:
        return PluginInfo("object", "9")

    def execute(self, request: Any, context: ExecutionContext, /) -> Any:
        return request

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus(PluginStatus.DEGRADED)

    def close(self) -> None:
        self.closed = True


an_object = Object()
