"""``/healthz`` and ``/readyz`` for whoever starts and stops the process. Cheap: nothing is asked over a wire.

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
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from goplugins.enums import PluginStatus
from goplugins.manager.control import PluginState, is_shut_down, plugin_states, start_health_checks
from goplugins.manager.standing import standing

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from goplugins.manager.manager import Manager

__all__ = ["culprits", "wsgi"]


def culprits(manager: Manager[Any, Any], required: Collection[str] | None = None) -> dict[str, str]:
    """The plugins for which this process should get no requests yet, or no more, and what the matter is.

    A plugin stands in the way while its circuit breaker is open, while its health was last seen UNHEALTHY or OFFLINE,
    and until somebody has looked at it for the first time; one whose health checks are switched off is not waited
    for. A group stands in the way when it has no member that takes calls. DEGRADED is good enough.

    Args:
        manager: whose plugins. Its health checks start now, if they have not yet.
        required: names without which nothing works; all plugins when None. One that is not there is a culprit.

    Returns:
        Name to state, in words that hold no secret; empty if all is well.
    """
    if is_shut_down(manager):
        return {"manager": "shut down"}
    start_health_checks(manager)
    found = {view.name: view for view in plugin_states(manager)}
    if required is None:
        names: Iterable[str] = [name for name, view in found.items() if not view.instance]
    else:
        names = required
    states = {name: _trouble(found[name]) if name in found else "not there" for name in names}
    return {name: state for name, state in states.items() if state}


def _trouble(view: PluginState) -> str:
    judged = standing(view)
    if judged.severity == "down":
        return judged.word
    looker: Any = view.plugin.attempts.watcher
    looks = getattr(looker, "enabled", False)
    if looks and view.explanation.group is None and view.explanation.health.status is PluginStatus.UNKNOWN:
        return "not looked at yet"
    return ""


def wsgi(manager: Manager[Any, Any], *, required: Collection[str] | None = None) -> WSGIApplication:
    """A WSGI application that answers ``/healthz`` and ``/readyz``, at any prefix.

    ``/healthz`` is 200 as long as the process answers at all: a plugin that is down is no reason to start this
    process anew. ``/readyz`` is 503 while :func:`culprits` finds some, with their names and states, and after
    ``shutdown``.

    Args:
        manager: whose plugins.
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
