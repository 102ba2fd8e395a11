"""The WSGI application under test: ``/call/<plugin>/<number>``, ``/sockets``, ``/gap/<plugin>``, ``/ping``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from tests.hosts import calling

calling.prepare()


def answer(path: str, query: str) -> Any:
    what, *words = path.strip("/").split("/")
    options = parse_qs(query)
    if what == "call":
        seconds, timeout = (float(options[name][0]) for name in ("seconds", "timeout"))
        return calling.call(words[0], words[1], seconds=seconds, refuse="refuse" in options, timeout=timeout)
    if what == "sockets":
        return {"pid": os.getpid(), "sockets": calling.plugin_sockets()}
    if what == "gap":
        return calling.longest_gap(words[0])
    return {"pid": os.getpid()}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = json.dumps(answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
