"""Sections connection, health_check and auth, options of the transports, and the other fields of a plugin."""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trustme

from goplugins import (
    HealthCheckConfig,
    HealthChecker,
    HealthStatus,
    HTTPPlugin,
    Manager,
    PluginConfig,
    PluginError,
    PluginStatus,
)
from tests.integration.fields.bench import Experiment, runs
from tests.servers import Peer, RawServer, ok, reply_ok
from tests.timing import until

pytestmark = pytest.mark.matrix

FOLDER = tempfile.TemporaryDirectory(prefix="gp-fields-")


@contextlib.contextmanager
def served(
    handler: Callable[[Peer], None] = reply_ok, **sections: Any
) -> Iterator[tuple[RawServer, Manager[Any, Any]]]:
    """A server, and a manager with the plugin ``p`` that calls it."""
    tls = sections.pop("tls", None)
    with RawServer(handler, tls=tls) as server, Manager() as manager:
        manager.load_from_config({"log_level": "error", "plugins": [plugin(server, **sections)]})
        yield server, manager


def plugin(server: RawServer, **sections: Any) -> dict[str, Any]:
    own = {"name": "p", "transport": "https" if server.tls else "http", "endpoint": server.url}
    return {**own, "retry": {"max_retries": 0}, "health_check": {"enabled": False}, **sections}


def outcome(manager: Manager[Any, Any], request: Any = "x", **options: Any) -> Any:
    """The answer, or the name of the error's class."""
    try:
        return manager.execute("p", request, **options)
    except PluginError as error:
        return type(error).__name__


# --- connection ------------------------------------------------------------------------------------------------------


def connections(calls: int, pause: float = 0.0, **connection: Any) -> int:
    """The number of connections that calls in a row open."""
    with served(connection=connection) as (server, manager):
        for _ in range(calls):
            manager.execute("p", "x")
            time.sleep(pause)
        return server.connections


def at_once(connection: dict[str, Any]) -> tuple[int, int]:
    """Connections of three concurrent calls: at most, and once the calls have ended."""
    together = threading.Barrier(3)

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(1.0)
            peer.send(ok(request))

    with served(handler, connection=connection) as (server, manager), ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: manager.execute("p", "x"), range(3)))
        idle = connection.get("max_idle_connections", server.open_most)
        until(lambda: server.open_now <= idle)
        return server.open_most, server.open_now


def connecting(seconds: float) -> str:
    """What ends a TLS handshake that the server never answers."""
    with served(Peer.hang, connection={"connection_timeout": seconds}) as (server, _), Manager() as manager:
        own = plugin(server, transport="https", endpoint=server.url.replace("http", "https"))
        own["connection"] = {"connection_timeout": seconds}
        manager.load_from_config({"plugins": [own]})
        started = time.monotonic()
        assert outcome(manager, timeout=1.5) == "PluginTimeoutError"
        return "connection_timeout" if time.monotonic() - started < 1.2 else "the call's deadline"


def whole_call(seconds: float) -> bool:
    """Whether a reply after 0.3 s is in time."""

    def handler(peer: Peer) -> None:
        request = peer.read_request()
        time.sleep(0.3)
        peer.send(ok(request))  # type: ignore[arg-type]

    with served(handler, connection={"request_timeout": seconds}) as (_, manager):
        return bool(outcome(manager) == "ok")


def encodings(value: bool) -> str:
    with served(connection={"disable_compression": value}) as (server, manager):
        manager.execute("p", "x")
        return server.requests[0].headers.get("accept-encoding", "identity")


def size(value: int) -> int:
    def handler(peer: Peer) -> None:
        request = peer.read_request()
        assert request is not None
        peer.send(ok(request, "x" * 2000))

    with served(handler, connection={"max_response_bytes": value}) as (_, manager):
        return len(outcome(manager))


CONNECTION = [
    Experiment(
        "ConnectionConfig.max_connections", [(1, 1), (3, 3)], lambda value: at_once({"max_connections": value})[0]
    ),
    Experiment(
        "ConnectionConfig.max_idle_connections",
        [(1, 1), (3, 3)],
        lambda value: at_once({"max_connections": 3, "max_idle_connections": value})[1],
    ),
    Experiment(
        "ConnectionConfig.idle_timeout", [(0.05, 2), (30.0, 1)], lambda value: connections(2, 0.2, idle_timeout=value)
    ),
    Experiment(
        "ConnectionConfig.max_lifetime", [(0.05, 2), (None, 1)], lambda value: connections(2, 0.2, max_lifetime=value)
    ),
    Experiment(
        "ConnectionConfig.connection_timeout",
        [(0.1, "connection_timeout"), (5.0, "the call's deadline")],
        connecting,
    ),
    Experiment("ConnectionConfig.request_timeout", [(0.1, False), (20.0, True)], whole_call),
    Experiment("ConnectionConfig.keep_alive", [(False, 3), (True, 1)], lambda value: connections(3, keep_alive=value)),
    Experiment("ConnectionConfig.disable_compression", [(False, "gzip, deflate"), (True, "identity")], encodings),
    Experiment("ConnectionConfig.max_response_bytes", [(1000, len("ReplyTooLargeError")), (9000, 2000)], size),
]


# --- health_check ----------------------------------------------------------------------------------------------------


class Sick:
    """Always unhealthy; remembers the timeouts of its checks."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    def health(self, timeout: float) -> HealthStatus:
        self.timeouts.append(timeout)
        return HealthStatus(PluginStatus.UNHEALTHY)


def checker(**fields: Any) -> tuple[HealthChecker, Sick]:
    sick = Sick()
    return HealthChecker(sick, HealthCheckConfig(**fields)), sick


def running(enabled: bool) -> bool:
    found, _ = checker(enabled=enabled)
    found.start()
    is_running = found.is_running
    found.stop()
    return is_running


def next_check(interval: float) -> bool:
    """Whether the next regular check begins within ten seconds."""
    found, _ = checker(interval=interval)
    found.check()
    found.start()
    until(lambda: found.next_check)  # type: ignore[return-value]
    seconds = found.next_check
    found.stop()
    return seconds is not None and seconds < 10


def timeout_of_check(seconds: float) -> float:
    found, sick = checker(timeout=seconds)
    found.check()
    return sick.timeouts[0]


def checks_until_offline(limit: int) -> int:
    found, sick = checker(failure_limit=limit)
    while found.check().status is not PluginStatus.OFFLINE:
        assert len(sick.timeouts) < 10
    return len(sick.timeouts)


def check_requests(**health: Any) -> list[str]:
    """The paths of the requests of one check."""
    with RawServer() as server:
        checked = HTTPPlugin(PluginConfig.from_mapping(plugin(server, health_check={"enabled": True, **health})))
        checked.health(2.0)
        checked.close()
        return [request.path for request in server.requests]


HEALTH = [
    Experiment("HealthCheckConfig.enabled", [(False, False), (True, True)], running),
    Experiment("HealthCheckConfig.interval", [(5.0, True), (60.0, False)], next_check),
    Experiment("HealthCheckConfig.timeout", [(1.0, 1.0), (2.0, 2.0)], timeout_of_check),
    Experiment("HealthCheckConfig.failure_limit", [(1, 1), (3, 3)], checks_until_offline),
    Experiment(
        "HealthCheckConfig.endpoint", [("/a", ["/a"]), ("/b", ["/b"])], lambda value: check_requests(endpoint=value)
    ),
    Experiment(
        "HealthCheckConfig.kind",
        [("connect", []), ("auto", ["/plugin/health"])],
        lambda value: check_requests(kind=value),
    ),
]


# --- auth ------------------------------------------------------------------------------------------------------------


def sent(*names: str) -> Callable[[Any], Any]:
    """A function that returns the headers of these names, which a call with an auth section sends."""

    def observe(auth: dict[str, Any]) -> Any:
        with served(auth=auth) as (server, manager):
            manager.execute("p", "x")
            return [server.requests[0].headers.get(name) for name in names]

    return observe


def file(name: str, text: str = "") -> str:
    path = Path(FOLDER.name, name)
    if text:
        path.write_text(text)
    return str(path)


@functools.cache
def certificates(name: str) -> tuple[trustme.CA, str, str, str]:
    """An authority, and the files of its certificate, of a client's certificate, and of the client's key."""
    authority = trustme.CA()
    client = authority.issue_cert("client@example.org")
    files = [file(f"{name}-{kind}.pem") for kind in ("ca", "cert", "key")]
    authority.cert_pem.write_to_path(files[0])
    client.cert_chain_pems[0].write_to_path(files[1])
    client.private_key_pem.write_to_path(files[2])
    return authority, files[0], files[1], files[2]


def over_tls(client: str = "ours", key: str = "ours", trusted: bool = True) -> Any:
    """The outcome of a call to a server that requires a client certificate of our authority."""
    authority, ca_file, *_ = certificates("ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    auth = {"method": "mtls", "cert_file": certificates(client)[2], "key_file": certificates(key)[3]}
    try:
        with served(tls=context, auth={**auth, **({"ca_file": ca_file} if trusted else {})}) as (_, manager):
            return outcome(manager)
    except PluginError as error:
        return type(error).__name__


AUTH = [
    Experiment(
        "AuthConfig.method",
        [({"method": "none", "token": "t"}, [None]), ({"method": "bearer", "token": "t"}, ["Bearer t"])],
        sent("authorization"),
    ),
    Experiment(
        "AuthConfig.api_key",
        [({"method": "api-key", "api_key": key}, [key]) for key in ("k1", "k2")],
        sent("x-api-key"),
    ),
    Experiment(
        "AuthConfig.token",
        [({"method": "bearer", "token": token}, [f"Bearer {token}"]) for token in ("t1", "t2")],
        sent("authorization"),
    ),
    Experiment(
        "AuthConfig.token_file",
        [({"method": "bearer", "token_file": file(name, name)}, [f"Bearer {name}"]) for name in ("f1", "f2")],
        sent("authorization"),
    ),
    Experiment(
        "AuthConfig.username",
        [
            ({"method": "basic", "username": "u", "password": "p"}, ["Basic dTpw"]),
            ({"method": "basic", "username": "v", "password": "p"}, ["Basic djpw"]),
        ],
        sent("authorization"),
    ),
    Experiment(
        "AuthConfig.password",
        [
            ({"method": "basic", "username": "u", "password": "p"}, ["Basic dTpw"]),
            ({"method": "basic", "username": "u", "password": "q"}, ["Basic dTpx"]),
        ],
        sent("authorization"),
    ),
    Experiment(
        "AuthConfig.headers",
        [({"method": "custom", "headers": {"X-Team": team}}, [team]) for team in ("a", "b")],
        sent("x-team"),
    ),
    Experiment("AuthConfig.cert_file", [("ours", "ok"), ("theirs", "TLSError")], lambda value: over_tls(value, value)),
    Experiment(
        "AuthConfig.key_file",
        [("ours", "ok"), ("theirs", "InvalidCertificateError")],
        lambda value: over_tls(key=value),
    ),
    Experiment(
        "AuthConfig.ca_file", [(True, "ok"), (False, "CertificateError")], lambda value: over_tls(trusted=value)
    ),
]


# --- programs and objects --------------------------------------------------------------------------------------------

PROGRAM = """
import json, os, resource, sys
for line in sys.stdin:
    request = json.loads(line)
    data = {
        "args": sys.argv[1:],
        "dir": os.getcwd(),
        "inherited": os.environ.get("GP_INHERITED"),
        "limits": [resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in ("AS", "CPU", "NOFILE")],
        "mark": os.environ.get("MARK"),
        "program": os.path.basename(sys.argv[0]),
    }
    reply = {"type": request["type"], "request_id": request["request_id"], "success": True, "data": data}
    print(json.dumps(reply), flush=True)
"""
PYTHON = os.path.realpath(sys.executable)


def program(name: str = "program") -> str:
    path = file(name, f"#!{PYTHON} -IS\n{PROGRAM}")
    Path(path).chmod(0o755)
    return path


def ran(seen: str | int, **fields: Any) -> Any:
    """What a program reports of itself."""
    own = {"name": "p", "transport": "exec", "executable": program(), "health_check": {"enabled": False}, **fields}
    with mock.patch.dict(os.environ, {"GP_INHERITED": "yes"}), Manager() as manager:
        try:
            manager.load_from_config({"log_level": "error", "plugins": [own]})
            found = manager.execute("p", "x")
        except PluginError as error:
            return type(error).__name__
        return found["limits"][seen] if isinstance(seen, int) else found[seen]


def sha256(valid: bool) -> Any:
    import hashlib

    digest = hashlib.sha256(Path(program()).read_bytes()).hexdigest()
    return ran("args", args=["-v"], options={"sha256": digest if valid else "0" * 64})


def thread_name(request: Any) -> str:
    return threading.current_thread().name


def isolated(value: bool) -> bool:
    """Whether the call runs on another thread."""
    endpoint = f"{__name__}:thread_name"
    with Manager() as manager:
        own = {"name": "p", "transport": "python", "endpoint": endpoint, "options": {"isolate": value}}
        manager.load_from_config({"plugins": [own]})
        return bool(manager.execute("p", "x") != threading.current_thread().name)


PROCESS = [
    Experiment(
        "PluginConfig.executable",
        [("one", "one"), ("two", "two")],
        lambda value: ran("program", executable=program(value)),
    ),
    Experiment("PluginConfig.args", [([], []), (["-v"], ["-v"])], lambda value: ran("args", args=value)),
    Experiment("PluginConfig.env", [([], None), (["MARK=a"], "a")], lambda value: ran("mark", env=value)),
    Experiment("PluginConfig.work_dir", [("/", "/"), ("/usr", "/usr")], lambda value: ran("dir", work_dir=value)),
    Experiment(
        "options.exec.inherit_env",
        [(False, None), (True, "yes")],
        lambda value: ran("inherited", options={"inherit_env": value}),
    ),
    Experiment("options.exec.sha256", [(True, ["-v"]), (False, "PluginConnectionError")], sha256),
    Experiment(
        "options.exec.max_memory",
        [(2**30, 2**30), (2**31, 2**31)],
        lambda value: ran(0, options={"max_memory": value}),
    ),
    Experiment(
        "options.exec.max_cpu_seconds", [(50, 50), (60, 60)], lambda value: ran(1, options={"max_cpu_seconds": value})
    ),
    Experiment(
        "options.exec.max_open_files", [(50, 50), (60, 60)], lambda value: ran(2, options={"max_open_files": value})
    ),
    Experiment("options.python.isolate", [(False, False), (True, True)], isolated),
]

EXPERIMENTS = [*CONNECTION, *HEALTH, *AUTH, *PROCESS]


@runs(EXPERIMENTS)
def test_a_field_changes(observe: Any, value: Any, seen: Any) -> None:
    assert observe(value) == seen
