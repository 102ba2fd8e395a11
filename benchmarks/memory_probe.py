"""``python -m benchmarks.memory_probe WHAT``: KiB of memory per plugin or connection, measured in a new process."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.groups.http import SETTINGS, envelope_of, http_manager, urllib3_pool
from benchmarks.messages import Answer, Question, question_of
from benchmarks.server import Server, running_server

__all__ = ["PROBES"]

_PLUGINS, _CONNECTIONS = 400, 200

Probe = Callable[[contextlib.ExitStack], Iterator[int]]
"""Yields once the first object exists, and again, with their number, once the others exist."""

PROBES: dict[str, Probe] = {}


def _probe(name: str) -> Callable[[Probe], Probe]:
    def add(probe: Probe) -> Probe:
        PROBES[name] = probe
        return probe

    return add


def resident() -> float:
    """Resident memory of this process, in KiB."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


# --- plugins -------------------------------------------------------------------------------------------------------


def _plugins(transport: str, endpoint: str) -> Probe:
    def probe(stack: contextlib.ExitStack) -> Iterator[int]:
        from goplugins import Manager

        def load(count: int) -> None:
            manager = stack.enter_context(Manager(Question, Answer))
            plugin = {"transport": transport, "endpoint": endpoint, **SETTINGS}
            plugins = [{"name": f"peer{number}", **plugin} for number in range(count)]
            manager.load_from_config({"plugins": plugins, "log_level": "warning"})

        load(1)
        yield 0
        load(_PLUGINS)
        yield _PLUGINS

    return probe


PROBES["goplugins: an HTTP plugin"] = _plugins("http", "http://127.0.0.1:1/plugin")
PROBES["goplugins: an HTTPS plugin"] = _plugins("https", "https://127.0.0.1:1/plugin")
PROBES["goplugins: a Unix socket plugin"] = _plugins("unix", "/tmp/none.sock")  # never connected to
PROBES["goplugins: a gRPC plugin"] = _plugins("grpc", "127.0.0.1:1")


@_probe("requests.Session")
def _(stack: contextlib.ExitStack) -> Iterator[int]:
    import requests

    stack.enter_context(requests.Session())
    yield 0
    for _ in range(_PLUGINS):
        stack.enter_context(requests.Session())
    yield _PLUGINS


@_probe("httpx.Client")
def _(stack: contextlib.ExitStack) -> Iterator[int]:
    import httpx

    stack.enter_context(httpx.Client())
    yield 0
    for _ in range(_PLUGINS // 10):  # each loads the certificates of all authorities
        stack.enter_context(httpx.Client())
    yield _PLUGINS // 10


# --- connections ---------------------------------------------------------------------------------------------------


def _idle(server: Server, stack: contextlib.ExitStack) -> Iterator[int]:
    """Idle connections in the pool of a plugin, each used once."""
    from goplugins.runtime.call import Call
    from goplugins.runtime.deadline import Deadline
    from goplugins.transports.json_codec import codec_for

    bound = stack.enter_context(http_manager(server, max_connections=500, max_idle_connections=500))
    bound(question_of(server.size))
    plugin: Any = bound._dispatcher._registry.plugins["peer"].sender
    engine, writer = plugin._engine, plugin._writer
    call = Call(None, codec_for(), Deadline.after(60.0), "r")
    call.payload = b"{}"
    yield 0
    leases = [engine.pool.acquire(call.deadline) for _ in range(_CONNECTIONS + 1)]
    for lease in leases:
        lease.connection.exchange(writer.message(call), call.deadline)
    for lease in leases:
        engine.pool.release(lease, reusable=True)
    yield _CONNECTIONS


@_probe("goplugins: an idle HTTP connection")
def _(stack: contextlib.ExitStack) -> Iterator[int]:
    yield from _idle(stack.enter_context(running_server(64)), stack)


@_probe("goplugins: an idle HTTPS connection")
def _(stack: contextlib.ExitStack) -> Iterator[int]:
    yield from _idle(stack.enter_context(running_server(64, tls=True)), stack)


def _idle_urllib3(server: Server, stack: contextlib.ExitStack) -> Iterator[int]:
    pool = stack.enter_context(urllib3_pool(server, maxsize=500))
    body = json.dumps(envelope_of(question_of(server.size))).encode()

    def use(count: int) -> None:
        connections = [pool._get_conn() for _ in range(count)]
        for connection in connections:
            connection.request("POST", server.path, body=body)
            connection.getresponse().read()
        for connection in connections:
            pool._put_conn(connection)

    use(1)
    yield 0
    use(_CONNECTIONS + 1)
    yield _CONNECTIONS


@_probe("urllib3: an idle HTTP connection")
def _(stack: contextlib.ExitStack) -> Iterator[int]:
    yield from _idle_urllib3(stack.enter_context(running_server(64)), stack)


@_probe("urllib3: an idle HTTPS connection")
def _(stack: contextlib.ExitStack) -> Iterator[int]:
    yield from _idle_urllib3(stack.enter_context(running_server(64, tls=True)), stack)


def main() -> None:
    with contextlib.ExitStack() as stack:
        steps = PROBES[sys.argv[1]](stack)
        next(steps)
        before = resident()
        count = next(steps)
        sys.stdout.write(f"{(resident() - before) / count}\n")
        sys.stdout.flush()
        os._exit(0)  # skips the clean-up of hundreds of objects


if __name__ == "__main__":
    main()
