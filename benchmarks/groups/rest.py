"""One call of a plain REST service, beside clients whose requests and answers are converted by hand."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from benchmarks.groups.http import SETTINGS, urllib3_pool
from benchmarks.harness import Call, Group, Ratio
from benchmarks.messages import Answer, Question, answer_of, question_of
from benchmarks.server import Server, running_server
from goplugins import Manager

__all__ = ["GROUPS"]

OURS = "goplugins: Manager.execute, attrs in and out, all policies on"
_URLLIB3 = "urllib3 pool.urlopen + json + cattrs"
_REQUESTS = "requests.Session + cattrs"
_HTTPX = "httpx.Client + cattrs"

_OPERATIONS = {
    "get": {"path": "/users/{user_id}/tokens/{token}"},
    "create": {"method": "POST", "path": "/users/{user_id}/tokens"},
}


def _group(operation: str, title: str) -> Group:
    return Group(
        name=f"rest-{operation}",
        title=title,
        environment=functools.partial(running_server, 64),
        ratios=(
            Ratio(f"{title}: vs requests + cattrs by hand", OURS, _REQUESTS, 0.30),
            Ratio(f"{title}: vs urllib3 + json + cattrs by hand", OURS, _URLLIB3),
            Ratio(f"{title}: vs httpx + cattrs by hand", OURS, _HTTPX),
        ),
    )


_GET = _group("get", "REST GET, two path fields")
_POST = _group("create", "REST POST, a path field and a JSON body")
GROUPS = (_GET, _POST)

_Send = Callable[[str, "dict[str, Any] | None"], Any]
"""Sends a request with this path and body; returns the reply's JSON."""


def _by_hand(send: _Send, size: int, *, post: bool) -> Call:
    """The call of another client: a path and body from an attrs object, and an attrs object from the reply."""
    import cattrs.preconf.json

    converter = cattrs.preconf.json.make_converter()
    question = question_of(size)

    def call() -> Answer:
        if not post:
            path = f"/users/{quote(question.user_id, safe='')}/tokens/{quote(question.token, safe='')}"
            return converter.structure(send(path, None), Answer)
        body = converter.unstructure(question)
        path = f"/users/{quote(body.pop('user_id'), safe='')}/tokens"
        return converter.structure(send(path, body), Answer)

    if call() != answer_of(size):
        raise AssertionError("the service returned a wrong answer")
    return call


def _row(name: str) -> Callable[[Callable[[Server, bool], Iterator[Call]]], None]:
    def add(function: Callable[[Server, bool], Iterator[Call]]) -> None:
        _GET.row(name)(lambda server: function(server, False))
        _POST.row(name)(lambda server: function(server, True))

    return add


@_row(OURS)
def _(server: Server, post: bool) -> Iterator[Call]:
    plugin = {"name": "peer", "transport": "http", "endpoint": server.origin, "operations": _OPERATIONS}
    with Manager(Question, Answer) as manager:
        manager.load_from_config({"plugins": [{**plugin, **SETTINGS}], "log_level": "warning"})
        question, execute, operation = question_of(server.size), manager.execute, "create" if post else "get"
        if execute("peer", question, operation=operation) != answer_of(server.size):
            raise AssertionError("the service returned a wrong answer")
        yield lambda: execute("peer", question, operation=operation)


@_row(_URLLIB3)
def _(server: Server, post: bool) -> Iterator[Call]:
    with urllib3_pool(server) as pool:

        def send(path: str, body: dict[str, Any] | None) -> Any:
            if body is None:
                return json.loads(pool.urlopen("GET", path, retries=False).data)
            headers = {"Content-Type": "application/json"}
            reply = pool.urlopen("POST", path, body=json.dumps(body).encode(), headers=headers, retries=False)
            return json.loads(reply.data)

        yield _by_hand(send, server.size, post=post)


@_row(_REQUESTS)
def _(server: Server, post: bool) -> Iterator[Call]:
    import requests

    with requests.Session() as session:

        def send(path: str, body: dict[str, Any] | None) -> Any:
            method = "GET" if body is None else "POST"
            reply = session.request(method, server.origin + path, json=body, timeout=30)
            reply.raise_for_status()
            return reply.json()

        yield _by_hand(send, server.size, post=post)


@_row(_HTTPX)
def _(server: Server, post: bool) -> Iterator[Call]:
    import httpx

    with httpx.Client(base_url=server.origin, timeout=30, trust_env=False) as client:

        def send(path: str, body: dict[str, Any] | None) -> Any:
            reply = client.request("GET" if body is None else "POST", path, json=body)
            reply.raise_for_status()
            return reply.json()

        yield _by_hand(send, server.size, post=post)
