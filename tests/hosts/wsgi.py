"""A plain WSGI application."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from goplugins import Manager
from tests.hosts import calling

manager: Manager[Any, Any] = Manager()
manager.load_from_config(calling.CONFIG)
calling.prepare(manager)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = json.dumps(calling.answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
