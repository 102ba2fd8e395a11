"""What runs this process: which server, how many workers, and what it would do to a call that takes too long."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Host", "declare", "host_here", "leave_room", "server_limit"]

_SIGNALS = ("SIGTERM", "SIGQUIT", "SIGINT", "SIGABRT", "SIGUSR1", "SIGWINCH")
_OFF = frozenset({"0", "false", "no", "off"})
_ON = frozenset({"1", "true", "yes"})  # as gRPC reads them


@attrs.frozen
class Host:
    """What is known of a host, by looking at the process or at a command line.

    Attributes:
        name: gunicorn, uwsgi or celery; empty for anything else.
        workers: processes, each with a manager of its own; None if that is not known.
        limit: seconds after which a worker that is still busy with a request or task is ended; None if it never is.
        limit_name: what that limit is called.
        threads: whether threads run while no request is served.
        gevent: whether the standard library is patched by gevent.
        grpc_gevent: whether gRPC was told of it.
        grpc_forks: whether gRPC is prepared for forks.
        fork_hooks: whether Python is told of forks.
    """

    name: str = ""
    workers: int | None = None
    limit: float | None = None
    limit_name: str = ""
    threads: bool = True
    gevent: bool = False
    grpc_gevent: bool = False
    grpc_forks: bool = True
    fork_hooks: bool = True


# Written before any fork or request, read by whoever asks.
_declared: list[Host] = []
_limits: dict[int, float | None] = {}  # process -> what its server allows a request


def declare(host: Host) -> None:
    """For a host that can't be found out from anywhere: says what this process runs in, as do its children."""
    _declared[:] = [host]


def host_here() -> Host:
    """This process's."""
    found = _gunicorn() or _uwsgi() or (_declared[0] if _declared else None) or _celery() or Host()
    grpc: Any = sys.modules.get("grpc._cython.cygrpc")
    return attrs.evolve(
        found,
        gevent=found.gevent or _is_patched(),
        grpc_gevent=bool(getattr(grpc, "g_gevent_activated", False)),
        grpc_forks=_grpc_forks(grpc),
    )


def server_limit() -> float | None:
    """Seconds that the web server of this process gives a request, less some for the answer; None for no limit."""
    pid = os.getpid()
    if pid not in _limits:
        found = _gunicorn() or _uwsgi() or Host()
        limit = found.limit
        if limit is not None and found.name == "uwsgi":
            limit = max(limit - 1.0, limit / 2)  # it counts whole seconds, and may be up to one early
        _limits.clear()
        _limits[pid] = None if limit is None else leave_room(limit)
    return _limits[pid]


def leave_room(limit: float) -> float:
    """What a call may take of ``limit`` seconds, so that time is left to say that it failed: a tenth, at most 2 s."""
    return limit - min(0.1 * limit, 2.0)


# --- hosts -------------------------------------------------------------------------------------------------------


def _gunicorn() -> Host | None:
    """A worker has its own methods called for signals; nothing else leads to its settings."""
    if "gunicorn" not in sys.modules:
        return None
    for name in _SIGNALS:
        owner = getattr(signal.getsignal(getattr(signal, name)), "__self__", None)
        settings: Any = getattr(owner, "cfg", None)
        if settings is not None and hasattr(settings, "worker_class_str"):
            return gunicorn_host(settings.worker_class_str, settings.workers, settings.timeout)
    return None


def gunicorn_host(worker_class: str, workers: int | None, timeout: float) -> Host:
    """gunicorn's, by its settings. Only a sync worker is ended for one request: others go on telling they are alive."""
    kind = worker_class.rpartition(".")[2].lower()
    limit = timeout if timeout and kind in {"sync", "syncworker"} else None
    return Host("gunicorn", workers, limit, "gunicorn's --timeout", gevent="gevent" in kind)


def _uwsgi() -> Host | None:
    module: Any = sys.modules.get("uwsgi")  # there only within uWSGI
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


def uwsgi_host(options: Mapping[str, str]) -> Host:
    """uWSGI's, by its options."""

    def number(*names: str) -> int | None:
        for name in names:
            text = options.get(name, "")
            if text.isascii() and text.isdigit():
                return int(text)
        return None

    def switched_on(*names: str) -> bool:
        return any(name in options and options[name].lower() not in _OFF for name in names)

    own_forks = ("lazy-apps", "lazy", "py-call-uwsgi-fork-hooks", "py-call-osafterfork")
    return Host(
        "uwsgi",
        number("processes", "workers", "p") or 1,
        number("harakiri", "t") or None,
        "uWSGI's harakiri",
        threads=switched_on("enable-threads", "T") or bool(number("threads")),
        gevent=switched_on("gevent"),
        fork_hooks=switched_on(*own_forks) or not switched_on("master", "M"),
    )


def _celery() -> Host | None:
    if "celery" not in sys.modules or "worker" not in sys.argv:
        return None
    from goplugins.doctor.server_command import host_of

    found = host_of([os.path.basename(sys.argv[0]), *sys.argv[1:]], {})
    return found if found.name == "celery" else None


# --- libraries -----------------------------------------------------------------------------------------------------


def _is_patched() -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


def _grpc_forks(grpc: Any) -> bool:
    enabled = getattr(grpc, "is_fork_support_enabled", None)
    if enabled is not None:
        return bool(enabled())
    return os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "1").lower() in _ON  # when it is not set, we set it
