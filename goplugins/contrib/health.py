"""``/healthz`` and ``/readyz`` for orchestrators such as Kubernetes. Cheap: no plugin is called.

>>> from goplugins import Manager
>>> from wsgiref.util import setup_testing_defaults
>>> environ = {"PATH_INFO": "/healthz"}
>>> setup_testing_defaults(environ)
>>> wsgi(Manager())(environ, lambda status, headers: print(status))
200 OK
[b'{"status": "alive"}']
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from goplugins.enums import PluginStatus
from goplugins.errors import ConfigError
from goplugins.manager.control import PluginState, is_shut_down, plugin_states, start_health_checks
from goplugins.manager.standing import standing

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from goplugins.manager.manager import Manager

__all__ = ["culprits", "wsgi"]

logger = logging.getLogger("goplugins.health")


def culprits(manager: Manager[Any, Any], required: Collection[str] | None = None) -> dict[str, str]:
    """The plugins because of which this process is not ready for requests, with the reason.

    A plugin is a culprit while its circuit breaker is open, while its last health is UNHEALTHY or OFFLINE, and until
    its first health check has ended (unless its checks are switched off). A group is a culprit while it has no
    eligible member. DEGRADED counts as ready.

    Args:
        manager: the manager. Its health checks start now, if they have not started yet.
        required: the names that count; all plugins when None. An unknown name is a culprit.

    Returns:
        Name to reason, without secrets; empty if the process is ready.
    """
    if is_shut_down(manager):
        return {"manager": "shut down"}
    start_health_checks(manager)
    found = {view.name: view for view in plugin_states(manager)}
    if required is None:
        names: Iterable[str] = [name for name, view in found.items() if not view.instance]
    else:
        names = required
    states = {name: _reason(found[name]) if name in found else "not there" for name in names}
    return {name: state for name, state in states.items() if state}


def _reason(view: PluginState) -> str:
    judged = standing(view)
    if judged.severity == "down":
        return judged.word
    checker: Any = view.plugin.checker
    is_checked = getattr(checker, "enabled", False)
    health = view.explanation.health
    if is_checked and view.explanation.group is None and health.status is PluginStatus.UNKNOWN and health.reported:
        return "not checked yet"
    return ""


def wsgi(manager: Manager[Any, Any], *, required: Collection[str] | None = None) -> WSGIApplication:
    """A WSGI application that answers ``/healthz`` and ``/readyz``, at any prefix.

    ``/healthz`` is 200 as long as the process answers: a plugin that is down is no reason to restart the process.
    ``/readyz`` is 503 while :func:`culprits` finds some, with their names and states, and after ``shutdown``.

    Args:
        manager: the manager.
        required: as for :func:`culprits`.
    """

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}".rstrip("/")
        what, method = path.rpartition("/")[2], environ["REQUEST_METHOD"]
        if what not in {"healthz", "readyz"}:
            status, answer = "404 Not Found", {"error": "only /healthz and /readyz"}
        elif method not in {"GET", "HEAD"}:
            status, answer = "405 Method Not Allowed", {"error": "only GET and HEAD"}
        elif what == "healthz":
            status, answer = "200 OK", {"status": "alive"}
        else:
            status, answer = _readiness(culprits(manager, required))
        body = json.dumps(answer, ensure_ascii=False).encode()
        headers = [
            ("Content-Type", "application/json; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(status, headers)
        return [] if method == "HEAD" else [body]

    return application


def _readiness(found: dict[str, str]) -> tuple[str, dict[str, Any]]:
    if not found:
        return "200 OK", {"status": "ready"}
    return "503 Service Unavailable", {"status": "not ready", "culprits": found}


def readiness(
    find: Callable[[], Manager[Any, Any]], required: Callable[[], Collection[str] | None]
) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of a readiness view.

    Args:
        find: returns the application's manager, and creates it if need be.
        required: returns the names that count; None for all.
    """
    try:
        found = culprits(find(), required())
    except ConfigError as error:
        logger.error("not ready: %s", error)  # noqa: TRY400 - a traceback would hide the problems
        found = {"configuration": "can't be used"}  # the problems are for the log, not for the client
    status, body = _readiness(found)
    return int(status[:3]), body
