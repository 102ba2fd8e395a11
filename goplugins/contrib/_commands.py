"""Commands on a manager, for ``manage.py plugins``, ``flask plugins`` and the command line of goplugins."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from goplugins.config.problems import counted
from goplugins.contrib._settings import HostSettings
from goplugins.enums import PluginStatus
from goplugins.errors import InvalidArgumentError
from goplugins.manager.manager import Manager
from goplugins.models.results import CallResult
from goplugins.runtime.text import printable

STATUS_HELP = "check the health of all plugins; fails if one is unhealthy or offline"
CALL_HELP = "call a plugin with a JSON request"
OPERATION_HELP = "the operation of a plugin that has several"
EXPLAIN_HELP = "show whether a plugin would accept a call now, and why"
RELOAD_HELP = "check the configuration, and have running workers load it"

Write = Callable[[str], object]
"""Writes a line."""

_NOT_SERVING = {PluginStatus.UNHEALTHY, PluginStatus.OFFLINE}


def status(manager: Manager[Any, Any], write: Write) -> bool:
    """Checks the health of all plugins, and writes a line for each; True if none is unhealthy or offline."""
    found = manager.health()
    width = max(map(len, found), default=0)
    for name, health in sorted(found.items()):
        write(f"{name:<{width}}  {health.status:<9}  {printable(health.message)}".rstrip())
    if not found:
        write("no plugins")
    return not any(health.status in _NOT_SERVING for health in found.values())


def request_of(text: str) -> Any:
    """The request of a command: ``text`` is JSON, or ``-`` for JSON on stdin.

    Raises:
        InvalidArgumentError: it is not JSON.
    """
    try:
        return json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as exc:
        where = "stdin" if text == "-" else "the request"
        raise InvalidArgumentError(f"{where} is not JSON: {exc}; a text needs quotes: '\"hello\"'") from exc


def call(
    manager: Manager[Any, Any],
    write: Write,
    name: str,
    request: str,
    timeout: float | None,
    idempotent: bool,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    operation: str | None = None,
) -> CallResult[Any]:
    """Calls a plugin and writes its answer as JSON; ``request`` as for :func:`request_of`.

    Raises:
        PluginError: the call failed, or an argument is not valid.
    """
    value = request_of(request)
    result = manager.execute_result(
        name,
        value,
        timeout=timeout,
        idempotent=idempotent or None,
        key=key,
        headers=headers or None,
        operation=operation,
    )
    write(json.dumps(result.value, indent=2, ensure_ascii=False))
    return result


def explain(manager: Manager[Any, Any], write: Write, name: str) -> None:
    """Writes whether a plugin would accept a call now, and why.

    Raises:
        PluginNotFoundError: no plugin has that name.
    """
    for line in str(manager.explain(name)).splitlines():
        write(printable(line) if line[:1] != " " else f"  {printable(line)}")


def reload(manager: Manager[Any, Any], settings: HostSettings, write: Write, server: str | None) -> None:
    """Makes running workers load the configuration, after it was loaded here without a problem.

    Workers that watch the file (``WATCH``) load it by themselves. Others are replaced by their server: gunicorn, uWSGI
    and Celery replace them one by one, without losing a request, when their main process receives SIGHUP.

    Args:
        manager: has loaded the configuration.
        settings: of the application.
        write: writes a line.
        server: process id of the server's main process, or the path of its pid file.

    Raises:
        InvalidArgumentError: no worker would load the configuration, or there is no such process.
    """
    write(f"the configuration is valid: {counted(manager.list_plugins(), 'plugin')}")
    if server is not None:
        _send_hangup(server)
        write(f"sent SIGHUP to the server ({server}), which replaces its workers")
    elif settings.watched is not None:
        write(f"workers watch {settings.watched}, and load changes within two seconds")
    else:
        raise InvalidArgumentError(
            "running workers don't watch the configuration: set WATCH, or name the server's main process, or its pid "
            "file, by --pid"
        )


def _send_hangup(server: str) -> None:
    try:
        text = server if server.isdigit() else Path(server).read_text(encoding="ascii").strip()
        process = int(text)
        # For kill(), 0 and less are groups of processes; process 1 is init.
        if process > 1:
            os.kill(process, signal.SIGHUP)
            return
    except (OSError, ValueError) as exc:
        raise InvalidArgumentError(f"--pid {server}: {exc}") from exc
    raise InvalidArgumentError(f"--pid {server}: {process} is not a server's process")
