"""The server of this process, and warnings about known problems with it: once a process, with its first call."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from goplugins.config import PluginConfig
from goplugins.doctor.checks import examine
from goplugins.doctor.host import Host, gunicorn_host, uwsgi_host

logger = logging.getLogger("goplugins.doctor")

_SIGNALS = ("SIGTERM", "SIGQUIT", "SIGINT", "SIGABRT", "SIGUSR1", "SIGWINCH")
_ON = frozenset({"1", "true", "yes"})  # as gRPC reads them

# Written before any fork or request.
_declared: list[Host] = []
_limits: dict[int, float | None] = {}  # process -> its server's limit for a request, in seconds


def declare(host: Host) -> None:
    """Names the server of this process and its children, where it can't be detected."""
    _declared[:] = [host]


def host_here() -> Host:
    """The server of this process."""
    found = _gunicorn() or _uwsgi() or (_declared[0] if _declared else None) or _celery() or Host()
    grpc: Any = sys.modules.get("grpc._cython.cygrpc")
    return attrs.evolve(
        found,
        gevent=found.gevent or _has_patched("gevent.monkey", "is_module_patched"),
        eventlet=found.eventlet or _has_patched("eventlet.patcher", "is_monkey_patched"),
        grpc_gevent=bool(getattr(grpc, "g_gevent_activated", False)),
        grpc_forks=_grpc_forks(grpc),
    )


def server_limit() -> float | None:
    """Seconds that a call may take within a request to this process's web server; None for no limit."""
    pid = os.getpid()
    if pid not in _limits:
        found = _gunicorn() or _uwsgi() or Host()
        limit = found.limit
        if limit is not None and found.name == "uwsgi":
            limit = max(limit - 1.0, limit / 2)  # uWSGI counts whole seconds, and may be up to one early
        _limits.clear()
        _limits[pid] = None if limit is None else call_limit(limit)
    return _limits[pid]


def call_limit(limit: float) -> float:
    """``limit`` less the time to answer with an error: a tenth of it, at most 2 s."""
    return limit - min(0.1 * limit, 2.0)


# --- servers -------------------------------------------------------------------------------------------------------


def _gunicorn() -> Host | None:
    """Found by a worker's signal handlers, which are methods; nothing else refers to its settings."""
    if "gunicorn" not in sys.modules:
        return None
    for name in _SIGNALS:
        owner = getattr(signal.getsignal(getattr(signal, name)), "__self__", None)
        settings: Any = getattr(owner, "cfg", None)
        if settings is not None and hasattr(settings, "worker_class_str"):
            return gunicorn_host(settings.worker_class_str, settings.workers, settings.timeout)
    return None


def _uwsgi() -> Host | None:
    module: Any = sys.modules.get("uwsgi")  # exists within uWSGI only
    options = getattr(module, "opt", None)
    if not isinstance(options, Mapping):
        return None
    found = uwsgi_host({_text(name): _text(value) for name, value in options.items()})
    return attrs.evolve(
        found,
        workers=int(getattr(module, "numproc", 1)),
        threads=bool(getattr(module, "has_threads", found.threads)),
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        value = value[-1] if value else ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _celery() -> Host | None:
    if "celery" not in sys.modules or "worker" not in sys.argv:
        return None
    from goplugins.doctor.server_command import host_of

    found = host_of([os.path.basename(sys.argv[0]), *sys.argv[1:]], {})
    return found if found.name == "celery" else None


# --- libraries -----------------------------------------------------------------------------------------------------


def _has_patched(module: str, question: str) -> bool:
    return bool(getattr(sys.modules.get(module), question, lambda _: False)("socket"))


def _grpc_forks(grpc: Any) -> bool:
    enabled = getattr(grpc, "is_fork_support_enabled", None)
    if enabled is not None:
        return bool(enabled())
    return os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "1").lower() in _ON  # goplugins sets it where it is not set


# --- warnings ------------------------------------------------------------------------------------------------------

# Process -> kinds of the findings logged in it. A child process warns itself: much is decided only after the fork.
_logged: dict[int, set[str]] = {}
_bounded = False


def bounded_here() -> None:
    """Calls of this process are bounded below the server's limit by other means: no warning about their timeouts."""
    global _bounded  # noqa: PLW0603 - a fact of the process
    _bounded = True


def warn_once(plugins: Collection[PluginConfig], *, loading: bool = False) -> None:
    """Logs the findings of :func:`examine`, each kind once a process. Never raises.

    Args:
        plugins: of one manager, resolved.
        loading: no call was made yet. Timeouts are left to the first call: what bounds them may follow the loading.
    """
    pid = os.getpid()
    if pid not in _logged:
        _logged.clear()
    logged = _logged.setdefault(pid, set())
    try:
        for finding in examine(plugins, host_here(), bounded=_bounded or loading):
            if finding.kind not in logged:
                logged.add(finding.kind)
                logger.warning("%s", finding)
    except Exception:
        # It reads internals of servers and libraries. A call must not fail for that.
        logger.exception("the checks of goplugins doctor failed in this process")
