"""The server that runs a process: its workers, and its limit for a request."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

_OFF = frozenset({"0", "false", "no", "off"})


@attrs.frozen
class Host:
    """A server, as seen in the process or on its command line.

    Attributes:
        name: gunicorn, uwsgi or celery; empty for any other.
        workers: number of processes, each with a manager of its own; None if unknown.
        limit: seconds after which a worker that is busy with one request or task is ended; None for no limit.
        limit_name: the server's name for that limit.
        threads: whether background threads run between requests.
        gevent: whether gevent has patched the standard library.
        eventlet: whether eventlet has.
        grpc_gevent: whether gRPC was initialised for gevent.
        grpc_forks: whether gRPC's fork support is on.
        fork_hooks: whether Python's fork hooks run when the server forks.
    """

    name: str = ""
    workers: int | None = None
    limit: float | None = None
    limit_name: str = ""
    threads: bool = True
    gevent: bool = False
    eventlet: bool = False
    grpc_gevent: bool = False
    grpc_forks: bool = True
    fork_hooks: bool = True


def gunicorn_host(worker_class: str, workers: int | None, timeout: float) -> Host:
    """Gunicorn with these settings. Its timeout ends sync workers only: the others send heartbeats during a request."""
    kind = worker_class.rpartition(".")[2].lower()
    limit = timeout if timeout and kind in {"sync", "syncworker"} else None
    green = {"gevent": "gevent" in kind, "eventlet": "eventlet" in kind}
    return Host("gunicorn", workers, limit, "gunicorn's --timeout", **green)


def uwsgi_host(options: Mapping[str, str]) -> Host:
    """UWSGI with these options."""

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
