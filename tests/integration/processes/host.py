"""Functions for the scripts of these tests, which run in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from goplugins import Manager, PluginError
from tests import processes

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
"""The plugins that are called. ``group`` has two members, which are plugins as well."""


def configuration(where: dict[str, str], interval: float = 0.2) -> dict[str, Any]:
    """Plugins over all transports, with all policies that have a state; two have checks each ``interval`` seconds."""
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
        {"name": "python", "transport": "python", "endpoint": "tests.integration.processes.plugins:echo"},
        {
            "name": "isolated",
            "transport": "python",
            "endpoint": "tests.integration.processes.plugins:echo",
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
    """A manager of that configuration, which has made no call."""
    manager: Manager[Any, Any] = Manager()
    manager.load_from_config(configuration(where or json.loads(sys.argv[1]), interval))
    return manager


def call(manager: Manager[Any, Any], name: str, value: Any = 1, timeout: float = 5.0) -> Any:
    """The request as the plugin received it, or a text about the error."""
    try:
        return manager.execute(name, value, timeout=timeout)["request"]
    except PluginError as error:
        return f"{name}: {type(error).__name__}: {error.message}"


def call_all(manager: Manager[Any, Any], value: Any = 1, names: Iterable[str] = NAMES, within: float = 5.0) -> Any:
    """``value`` if every plugin received it twice, in at most ``within`` seconds each; else a text for each failure."""
    wrong = []
    for name in [*names, *names]:
        started = time.monotonic()
        found = call(manager, name, value)
        took = time.monotonic() - started
        if found != value or took > within:
            wrong.append(f"{name}: {found} after {took:.2f} s")
    return wrong or value


def links() -> dict[int, str]:
    """Target of each open descriptor of this process."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


def in_child(
    function: Callable[[], Any],
    fork: Callable[[], int] = os.fork,
    leave: Callable[[int], Any] = sys.exit,
    patience: float = 10.0,
) -> Any:
    """As in tests.processes, but by default the child ends as a script does: its interpreter shuts down."""
    return processes.in_child(function, fork, leave, patience)


def in_child_of_c_fork(function: Callable[[], Any], fork: Callable[[], int], leave: Callable[[int], Any]) -> Any:
    """The same for a fork by C code, in up to three tries.

    Such a fork may come while another thread requests the interpreter's lock. The child then waits for that thread,
    which it does not have, before any Python code of it runs: see docs/howto/deploy.md.
    """
    for _ in range(3):
        found = in_child(function, fork, leave, patience=5.0)
        if found != "ended with hung: ":
            break
    return found
