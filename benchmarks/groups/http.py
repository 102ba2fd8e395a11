"""One call over HTTP on a kept-alive connection, against other clients and a raw socket, with the same server."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Call, Group, Ratio
from benchmarks.messages import Answer, Question, answer_of, question_of
from benchmarks.server import Server, running_server
from goplugins import BoundPlugin, Manager

__all__ = ["GROUPS", "OURS", "SETTINGS", "envelope_of", "executing", "http_manager", "urllib3_pool"]

OURS = "goplugins: Manager.execute, attrs in and out, all policies on"
_RAW = "raw socket + json"
_URLLIB3 = "urllib3 pool.urlopen + json"
_REQUESTS = "requests.Session.post().json()"
_BY_HAND = "by hand: requests + tenacity + pybreaker + limits"
_HTTPX = "httpx.Client.post().json()"
_ELASTIC = "elastic-transport perform_request"
_PYCURL = "pycurl + json"

SETTINGS: dict[str, Any] = {
    "health_check": {"enabled": False},
    "rate_limit": {"enabled": True, "requests_per_second": 1e9, "burst_size": 1_000_000},
}
"""All policies on, with limits that no row reaches."""


def _group(name: str, title: str, size: int, *, targets: bool) -> Group:
    return Group(
        name=name,
        title=title,
        environment=functools.partial(running_server, size),
        ratios=(
            Ratio(f"{title}: vs urllib3", OURS, _URLLIB3, 0.25 if targets else None),
            Ratio(f"{title}: vs requests", OURS, _REQUESTS, 0.11 if targets else None),
            Ratio(f"{title}: vs raw socket + json, the limit", OURS, _RAW, 1.7 if targets else None),
            Ratio(f"{title}: vs requests + tenacity + pybreaker + limits by hand", OURS, _BY_HAND),
            Ratio(f"{title}: vs httpx", OURS, _HTTPX),
            Ratio(f"{title}: vs elastic-transport", OURS, _ELASTIC),
            Ratio(f"{title}: vs pycurl", OURS, _PYCURL),
        ),
    )


_SMALL = _group("http", "HTTP, 64 bytes", 64, targets=True)
_LARGE = _group("http-64k", "HTTP, 64 KiB", 65536, targets=False)
_SECURE = Group(
    name="https",
    title="HTTPS, 64 bytes",
    environment=functools.partial(running_server, 64, tls=True),
    ratios=(
        Ratio("HTTPS, 64 bytes: vs urllib3", OURS, _URLLIB3, 0.35),
        Ratio("HTTPS, 64 bytes: vs requests", OURS, _REQUESTS),
        Ratio("HTTPS, 64 bytes: vs raw TLS socket + json, the limit", OURS, _RAW),
    ),
)
GROUPS = (_SMALL, _LARGE, _SECURE)


_Row = Callable[[Server], Iterator[Call]]


def _row(name: str, *groups: Group) -> Callable[[_Row], _Row]:
    def add(function: _Row) -> _Row:
        for group in groups or GROUPS:
            group.row(name)(function)
        return function

    return add


def _plugin(server: Server) -> dict[str, Any]:
    scheme = server.url.partition(":")[0]
    auth = {"ca_file": server.ca_file} if server.ca_file else {}
    return {"transport": scheme, "endpoint": server.url, "auth": auth}


@contextlib.contextmanager
def bound(**plugin: Any) -> Iterator[BoundPlugin[Question, Answer]]:
    """A bound plugin of a configured manager."""
    with Manager() as manager:
        manager.load_from_config({"plugins": [{"name": "peer", **plugin, **SETTINGS}], "log_level": "warning"})
        yield manager.bind("peer", Question, Answer)


@contextlib.contextmanager
def executing(size: int, **plugin: Any) -> Iterator[Call]:
    """A typed call through a manager with one plugin; checks the first answer."""
    with Manager(Question, Answer) as manager:
        manager.load_from_config({"plugins": [{"name": "peer", **plugin, **SETTINGS}], "log_level": "warning"})
        question, execute = question_of(size), manager.execute
        if execute("peer", question) != answer_of(size):
            raise AssertionError("the plugin returned a wrong answer")
        yield lambda: execute("peer", question)


def http_manager(server: Server, **connection: Any) -> contextlib.AbstractContextManager[BoundPlugin[Question, Answer]]:
    """The plugin at ``server``."""
    return bound(**_plugin(server), connection=connection)


def envelope_of(question: Question) -> dict[str, Any]:
    """The request of the other clients: the same fields, built anew for each call as in an application."""
    data = {"user_id": question.user_id, "token": question.token}
    return {"data": data, "request_id": "r", "timeout": "30s"}


def urllib3_pool(server: Server, **options: Any) -> Any:
    """Connection pool of urllib3, without redirects and retries."""
    import urllib3

    if server.ca_file:
        return urllib3.HTTPSConnectionPool(server.host, server.port, timeout=30, ca_certs=server.ca_file, **options)
    return urllib3.HTTPConnectionPool(server.host, server.port, timeout=30, **options)


@_row(OURS)
def _(server: Server) -> Iterator[Call]:
    with executing(server.size, **_plugin(server)) as call:
        yield call


@_row(_URLLIB3)
def _(server: Server) -> Iterator[Call]:
    question, headers = question_of(server.size), {"Content-Type": "application/json"}
    with urllib3_pool(server) as pool:

        def call() -> Any:
            body = json.dumps(envelope_of(question)).encode()
            reply = pool.urlopen("POST", server.path, body=body, headers=headers, retries=False)
            return json.loads(reply.data)

        yield call


@_row(_REQUESTS)
def _(server: Server) -> Iterator[Call]:
    import requests

    question = question_of(server.size)
    with requests.Session() as session:
        verify = server.ca_file or True
        yield lambda: session.post(server.url, json=envelope_of(question), timeout=30, verify=verify).json()


@_row(_BY_HAND, _SMALL, _LARGE)
def _(server: Server) -> Iterator[Call]:
    import limits
    import pybreaker
    import requests
    import tenacity

    question = question_of(server.size)
    limiter = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    limit = limits.RateLimitItemPerSecond(1_000_000_000)
    breaker: Any = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(30),
        wait=tenacity.wait_exponential_jitter(0.1, 5),
        retry=tenacity.retry_if_exception_type((requests.ConnectionError, requests.Timeout)),
        reraise=True,
    )
    with requests.Session() as session:

        def post() -> Any:
            reply = session.post(server.url, json=envelope_of(question), timeout=30)
            reply.raise_for_status()
            return reply.json()

        def attempt() -> Any:
            if not limiter.hit(limit, "peer"):
                raise RuntimeError("too many calls")
            return breaker.call(post)

        yield lambda: retrying(attempt)


@_row(_HTTPX, _SMALL, _LARGE)
def _(server: Server) -> Iterator[Call]:
    import httpx

    question = question_of(server.size)
    with httpx.Client(timeout=30, trust_env=False) as client:
        yield lambda: client.post(server.url, json=envelope_of(question)).json()


@_row(_ELASTIC, _SMALL, _LARGE)
def _(server: Server) -> Iterator[Call]:
    from elastic_transport import NodeConfig, Transport

    question, headers = question_of(server.size), {"content-type": "application/json", "accept": "application/json"}
    transport = Transport([NodeConfig("http", server.host, server.port)], max_retries=0)

    def call() -> Any:
        reply = transport.perform_request("POST", server.path, body=envelope_of(question), headers=headers)
        return reply.body

    with contextlib.closing(transport):
        yield call


@_row(_PYCURL, _SMALL, _LARGE)
def _(server: Server) -> Iterator[Call]:
    pycurl: Any = importlib.import_module("pycurl")

    question = question_of(server.size)
    with contextlib.closing(pycurl.Curl()) as curl:
        curl.setopt(pycurl.URL, server.url)
        # An empty Expect header: otherwise curl waits for "100 Continue" before it sends a large body.
        curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json", "Expect:"])
        curl.setopt(pycurl.TIMEOUT, 30)

        def call() -> Any:
            reply = io.BytesIO()
            curl.setopt(pycurl.POSTFIELDS, json.dumps(envelope_of(question)))
            curl.setopt(pycurl.WRITEDATA, reply)
            curl.perform()
            return json.loads(reply.getvalue())

        yield call


@_row(_RAW)
def _(server: Server) -> Iterator[Call]:
    question = question_of(server.size)
    head = f"POST {server.path} HTTP/1.1\r\nHost: a\r\nContent-Length: ".encode()
    with socket.create_connection((server.host, server.port)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = _secured(plain, server)

        def call() -> Any:
            body = json.dumps(envelope_of(question)).encode()
            sock.sendall(b"%b%d\r\n\r\n%b" % (head, len(body), body))
            reply = sock.recv(262144)
            start = reply.index(b"\r\n\r\n") + 4
            length = int(reply[reply.index(b"Content-Length: ") + 16 : start - 4])
            while len(reply) < start + length:
                reply += sock.recv(262144)
            return json.loads(reply[start:])

        with sock:
            yield call


def _secured(sock: socket.socket, server: Server) -> socket.socket:
    if not server.ca_file:
        return sock
    return ssl.create_default_context(cafile=server.ca_file).wrap_socket(sock, server_hostname=server.host)
