"""What the scripts of these tests are made of. They run in processes of their own: a fork leaves traces."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from goplugins import Manager, PluginError

PROGRAM = str(Path(__file__).with_name("program.py"))

NAMES = (
    "http",
    "requests",
    "https",
    "grpc",
    "unix",
    "exec",
    "python",
    "isolated",
    "group",
    "hedged",
    "cached",
    "limited",
)
"""All plugins that calls are made to; ``group`` has two members more."""


def configuration(where: dict[str, str], interval: float = 0.2) -> dict[str, Any]:
    """Plugins over all wires, and with all policies that have a state; two are looked at every ``interval`` seconds."""
    http = {"transport": "http", "endpoint": where["http"]}
    health = {"enabled": True, "interval": interval, "timeout": 1}
    idempotent = {"idempotent": True, "initial_interval": 0.01}
    auth = {"ca_file": where["ca"]}
    plugins = [
        {"name": "http", **http},
        {"name": "requests", **http, "options": {"engine": "requests"}},
        {"name": "https", "transport": "https", "endpoint": where["https"], "auth": auth},
        {"name": "grpc", "transport": "grpc", "endpoint": where["grpc"].removeprefix("grpc://")},
        {"name": "unix", "transport": "unix", "endpoint": where["unix"].removeprefix("unix://")},
        {"name": "exec", "transport": "exec", "executable": sys.executable, "args": ["-I", "-S", PROGRAM]},
        {"name": "python", "transport": "python", "endpoint": "tests.integration.processes.plugins:tell"},
        {
            "name": "isolated",
            "transport": "python",
            "endpoint": "tests.integration.processes.plugins:tell",
            "options": {"isolate": True},
        },
        {"name": "first", **http, "health_check": health},
        {
            "name": "second",
            "transport": "unix",
            "endpoint": where["unix"].removeprefix("unix://"),
            "health_check": health,
        },
        {"name": "hedged", **http, "retry": idempotent, "hedge": {"enabled": True, "delay": 0.05}},
        {"name": "cached", **http, "retry": idempotent, "cache": {"ttl": 0.001}},
        {
            "name": "limited",
            **http,
            "rate_limit": {"enabled": True, "requests_per_second": 500, "burst_size": 5, "max_wait": 5},
            "bulkhead": {"max_concurrent": 8, "max_waiting": 100},
        },
    ]
    return {
        "default_health_check": {"enabled": False},
        "plugins": plugins,
        "load_balancers": [{"name": "group", "members": ["first", "second"]}],
        "log_level": "error",
    }


def everything(where: dict[str, str] | None = None, interval: float = 0.2) -> Manager[Any, Any]:
    """A manager of all that, which has called nobody."""
    manager: Manager[Any, Any] = Manager()
    manager.load_from_config(configuration(where or json.loads(sys.argv[1]), interval))
    return manager


def call(manager: Manager[Any, Any], name: str, value: Any = 1, timeout: float = 5.0) -> Any:
    """What the plugin says that it was asked, or the error."""
    try:
        return manager.execute(name, value, timeout=timeout)["said"]
    except PluginError as error:
        return f"{name}: {type(error).__name__}: {error.message}"


def call_all(manager: Manager[Any, Any], value: Any = 1, names: Iterable[str] = NAMES, within: float = 5.0) -> Any:
    """``value`` if every plugin says so, twice, and within so many seconds each time; else who does not."""
    wrong = []
    for name in [*names, *names]:
        started = time.monotonic()
        found = call(manager, name, value)
        took = time.monotonic() - started
        if found != value or took > within:
            wrong.append(f"{name}: {found} after {took:.2f} s")
    return wrong or value


def links() -> dict[int, str]:
    """What this process's descriptors lead to."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


def told_by_child(
    function: Callable[[], Any],
    fork: Callable[[], int] = os.fork,
    leave: Callable[[int], Any] = sys.exit,
    patience: float = 10.0,
) -> Any:
    """What ``function`` returns in a forked child, which then ends with 7; killed if it hangs."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(reader)
        try:
            told = function()
        except SystemExit:
            raise  # that of a child of its own
        except BaseException:
            told = traceback.format_exc()
        os.write(writer, json.dumps(told).encode())
        os.close(writer)
        leave(7)
    os.close(writer)
    end = time.monotonic() + patience
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.002)
    if ended == (0, 0):
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    with os.fdopen(reader) as stream:
        text = stream.read()
    code = "hung" if ended == (0, 0) else os.waitstatus_to_exitcode(ended[1])
    return json.loads(text) if text and code == 7 else f"ended with {code}: {text}"
