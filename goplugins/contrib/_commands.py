"""What ``manage.py plugins`` and ``flask plugins`` do, apart from how they are asked and where they write."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goplugins.cli._common import printable, request_of
from goplugins.contrib._settings import HostSettings
from goplugins.enums import PluginStatus
from goplugins.errors import InvalidArgumentError
from goplugins.manager.manager import Manager

__all__ = ["CALL_HELP", "EXPLAIN_HELP", "RELOAD_HELP", "STATUS_HELP", "call", "explain", "reload", "status"]

STATUS_HELP = "look at every plugin's health from here; fails if one is unwell"
CALL_HELP = "call a plugin with a JSON request"
EXPLAIN_HELP = "why a plugin would or would not take a call from here"
RELOAD_HELP = "check the configuration, and have running workers take it"

Write = Callable[[str], object]
"""Takes a line."""

_UNWELL = {PluginStatus.UNHEALTHY, PluginStatus.OFFLINE}


def status(manager: Manager[Any, Any], write: Write) -> bool:
    """Writes a line a plugin; True if none is unwell."""
    found = manager.health()
    width = max(map(len, found), default=0)
    for name, health in sorted(found.items()):
        write(f"{name:<{width}}  {health.status:<9}  {printable(health.message)}".rstrip())
    if not found:
        write("no plugins")
    return not any(health.status in _UNWELL for health in found.values())


def call(
    manager: Manager[Any, Any], write: Write, name: str, request: str, timeout: float | None, idempotent: bool
) -> None:
    """Calls a plugin and writes its answer as JSON; ``request`` is JSON, or ``-`` for JSON on stdin.

    Raises:
        PluginError: what a call raises, and a request that is no JSON.
    """
    answer = manager.execute(name, request_of(request), timeout=timeout, idempotent=idempotent or None)
    write(json.dumps(answer, indent=2, ensure_ascii=False))


def explain(manager: Manager[Any, Any], write: Write, name: str) -> None:
    """Writes why a plugin would or would not take a call.

    Raises:
        PluginNotFoundError: there is none of that name.
    """
    for line in str(manager.explain(name)).splitlines():
        write(printable(line) if line[:1] != " " else f"  {printable(line)}")


def reload(manager: Manager[Any, Any], settings: HostSettings, write: Write, server: str | None) -> None:
    """Has running workers take the configuration, once it was loaded here and nothing is wrong with it.

    Workers that follow the file (``WATCH``) have it already. Others are replaced by their server: gunicorn, uWSGI and
    Celery do that, one by one and without losing a request, when their main process gets SIGHUP.

    Args:
        manager: with the configuration, freshly loaded.
        settings: the application's.
        write: takes a line.
        server: the main process of the server, or the path of a file that holds its number.

    Raises:
        InvalidArgumentError: there is nobody who would take it, or no such process.
    """
    write(f"the configuration is right: {len(manager.list_plugins())} plugins")
    if server is not None:
        _tell(server)
        write(f"told the server ({server}) to replace its workers")
    elif settings.watched is not None:
        write(f"workers follow {settings.watched}, and take what is new in it within two seconds")
    else:
        raise InvalidArgumentError(
            "running workers don't follow the configuration: set WATCH, or say whom to tell with --pid (the server's "
            "main process, or its pid file)"
        )


def _tell(server: str) -> None:
    try:
        text = server if server.isdigit() else Path(server).read_text(encoding="ascii").strip()
        process = int(text)
        # kill() takes 0 and below for whole groups of processes, and 1 is everybody's parent.
        if process > 1:
            os.kill(process, signal.SIGHUP)
            return
    except (OSError, ValueError) as exc:
        raise InvalidArgumentError(f"--pid {server}: {exc}") from exc
    raise InvalidArgumentError(f"--pid {server}: {process} is no server")
