"""Code of all applications under test: one manager per process, created, loaded and called at import.

Each call writes a line to a ledger file at its start and at its end, so that lost calls are detected. Environment
variables: ``HOSTS_FOLDER`` has ``config.json`` and the ledger, ``HOSTS_IMPORT_CALLS`` is the number of calls of each
plugin at import, ``HOSTS_GEVENT`` is set where gRPC needs its gevent hook. With ``HOSTS_FIRST`` only this plugin is
called, once, and the import ends ``HOSTS_DELAY`` seconds later.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from goplugins import BoundPlugin, Manager, PluginError
from tests.hosts.plugins import PLUGINS, Answer, Ask

__all__ = ["CELERY", "CONFIG", "answer", "call", "prepare", "sockets"]

_folder = Path(os.environ["HOSTS_FOLDER"])
CONFIG = str(_folder / "config.json")

CELERY = {
    "broker_connection_retry_on_startup": True,
    # A worker that stops returns its unfinished tasks to the queue. Without this setting Celery loses them.
    "task_acks_late": True,
}

_bound: dict[str, BoundPlugin[Ask, Answer]] = {}


def _write_ledger(*words: object) -> None:
    line = " ".join(map(str, (os.getpid(), *words))) + "\n"
    descriptor = os.open(_folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def call(
    plugin: str, number: str, *, seconds: float = 0.0, refuse: bool = False, timeout: float = 10.0
) -> dict[str, Any]:
    """Makes one call; returns process id, error if there is one, and duration in seconds."""
    value = zlib.crc32(number.encode())
    _write_ledger(number, plugin, "begins")
    started, error = time.monotonic(), ""
    try:
        answer = _bound[plugin](Ask(value, seconds, refuse), timeout=timeout)
        if answer.value != value * 2:
            error = f"wrong reply: {answer.value}, not {value * 2}"
    except PluginError as exc:
        error = f"{type(exc).__name__}: {exc} (cause: {exc.__cause__!r})"
    took = time.monotonic() - started
    _write_ledger(number, plugin, "ends", f"{took:.3f}", error.replace("\n", " "))
    return {"pid": os.getpid(), "plugin": plugin, "error": error, "seconds": took}


def sockets() -> dict[str, Any]:
    """The process id, and the sockets that are connected to a plugin, as in /proc: ``socket:[4711]``."""
    ports, paths = set(), set()
    for plugin in json.loads(Path(CONFIG).read_text())["plugins"]:
        for endpoint in (plugin.get("endpoint", ""), *plugin.get("endpoints", ())):
            if endpoint.startswith("/"):
                paths.add(endpoint)
            elif "127.0.0.1:" in endpoint:
                ports.add(int(endpoint.partition("127.0.0.1:")[2].partition("/")[0]))
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{entry}")
            if not link.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as sock:
                peer = sock.getpeername()
        except OSError:  # closed meanwhile, or not connected
            continue
        if (isinstance(peer, str) and peer in paths) or (
            isinstance(peer, tuple) and len(peer) >= 2 and peer[1] in ports
        ):
            found.append(link)
    return {"pid": os.getpid(), "sockets": found}


def longest_gap(plugin: str) -> float:
    """Longest time, in seconds, for which a call of one second blocked another greenlet; for gevent workers."""
    import gevent  # type: ignore[import-untyped]

    ticks = [time.monotonic()]

    def tick() -> None:
        while True:
            gevent.sleep(0.01)
            ticks.append(time.monotonic())

    ticker = gevent.spawn(tick)
    error = call(plugin, "gap", seconds=1.0)["error"]
    ticks.append(time.monotonic())
    ticker.kill()
    if error:
        raise RuntimeError(error)
    return max(after - before for before, after in itertools.pairwise(ticks))


def answer(path: str, query: str) -> Any:
    """Reply of a web application for ``/call/<plugin>/<number>``, ``/sockets``, ``/gap/<plugin>``, ``/ping``."""
    what, *words = path.strip("/").split("/")
    options = parse_qs(query)
    if what == "call":
        seconds, timeout = (float(options[name][0]) for name in ("seconds", "timeout"))
        return call(words[0], words[1], seconds=seconds, refuse="refuse" in options, timeout=timeout)
    if what == "sockets":
        return sockets()
    if what == "gap":
        return longest_gap(words[0])
    return {"pid": os.getpid()}


def prepare(manager: Manager[Any, Any]) -> None:
    """Binds the plugins and makes ``HOSTS_IMPORT_CALLS`` calls of each, at import as in some applications."""
    if os.environ.get("HOSTS_GEVENT"):
        from grpc.experimental import gevent

        gevent.init_gevent()
    _bound.update({plugin: manager.bind(plugin, Ask, Answer) for plugin in PLUGINS})
    if first := os.environ.get("HOSTS_FIRST"):
        call(first, "import-0")
        time.sleep(float(os.environ["HOSTS_DELAY"]))
        return
    for number in range(int(os.environ.get("HOSTS_IMPORT_CALLS", "0"))):
        for plugin in PLUGINS:
            call(plugin, f"import-{number}")
    (_folder / f"imported-{os.getpid()}").write_text(json.dumps(sockets()["sockets"]))
