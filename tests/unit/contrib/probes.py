"""A plugin that returns its timeout and request id, and a WSGI client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from goplugins import ExecutionContext, Manager, serve

__all__ = ["Answer", "get", "manager_with_probe", "probe", "register_probe"]


@serve.plugin(name="probe")
def probe(request: str, context: ExecutionContext) -> dict[str, Any]:
    """Returns the timeout in seconds and the request id of the call."""
    return {"timeout": context.timeout, "request_id": context.request_id}


def register_probe(manager: Manager[Any, Any]) -> None:
    manager.register(probe)


def manager_with_probe() -> Manager[Any, Any]:
    manager = Manager()
    register_probe(manager)
    return manager


@attrs.frozen
class Answer:
    status: str
    headers: dict[str, str]
    parts: list[bytes]

    @property
    def text(self) -> str:
        return b"".join(self.parts).decode()


def get(application: Callable[..., Iterable[bytes]], /, **headers: str) -> Answer:
    """The answer to a request with headers such as ``x_request_id="7"``."""
    started: dict[str, Any] = {}

    def start_response(status: str, fields: list[tuple[str, str]], error: Any = None) -> Callable[[bytes], object]:
        started.update(status=status, headers=dict(fields))
        return lambda data: None

    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    body = application(environ, start_response)
    try:
        parts = list(body)
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return Answer(started["status"], started["headers"], parts)
