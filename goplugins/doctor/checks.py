"""Known problems of plugins under the server that calls them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import attrs

from goplugins.config import PluginConfig
from goplugins.doctor.host import Host
from goplugins.enums import TransportType

_MOST_NAMES = 5


@attrs.frozen
class Finding:
    """One known problem.

    Attributes:
        kind: its stable short name.
        what: the situation.
        why: the problem that it causes.
        fix: what to do.
    """

    kind: str
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"[{self.kind}] {self.what}: {self.why}; {self.fix}"


def examine(plugins: Collection[PluginConfig], host: Host, *, bounded: bool = False) -> list[Finding]:
    """All problems found.

    Args:
        plugins: resolved.
        host: the server of the process that calls them.
        bounded: calls are bounded below the server's limit, whatever their own timeouts are.

    >>> [finding.kind for finding in examine([], Host("uwsgi", threads=False))]
    ['uwsgi-threads']
    """
    enabled = [plugin for plugin in plugins if plugin.enabled]
    names = {plugin.name for plugin in enabled}
    # The instances of a plugin with several endpoints have its timeout and none of its limits.
    own = [each for each in enabled if (base := each.name.partition("@")[0]) == each.name or base not in names]
    found = [finding for rule in _RULES for finding in rule(own, host)]
    return [each for each in found if not (bounded and each.kind == "timeout-above-worker")]


def _uwsgi_threads(plugins: Sequence[PluginConfig], host: Host) -> Iterator[Finding]:
    if host.name == "uwsgi" and not host.threads:
        yield Finding(
            "uwsgi-threads",
            "uWSGI runs without threads, the default before 2.0.27",
            "background threads do not run, so there are no health checks, files are not followed, and submit, map and "
            "hedged calls wait until their deadline",
            "start it with enable-threads = true",
        )


def _uwsgi_forks(plugins: Sequence[PluginConfig], host: Host) -> Iterator[Finding]:
    if host.name == "uwsgi" and not host.fork_hooks and _uses_grpc(plugins):
        yield Finding(
            "uwsgi-fork-hooks",
            "uWSGI forks its workers without running Python's fork hooks",
            "a gRPC plugin that is called before the fork, at import, can't be called in any worker",
            "start it with py-call-uwsgi-fork-hooks = true, or with lazy-apps = true",
        )


def _gevent(plugins: Sequence[PluginConfig], host: Host) -> Iterator[Finding]:
    if host.gevent and not host.grpc_gevent and _uses_grpc(plugins):
        yield Finding(
            "gevent-grpc",
            "gevent has patched the standard library, but gRPC was not initialised for gevent",
            "a gRPC call blocks every greenlet of its process until it is answered",
            "call grpc.experimental.gevent.init_gevent() right after gevent.monkey.patch_all()",
        )


def _eventlet(plugins: Sequence[PluginConfig], host: Host) -> Iterator[Finding]:
    if host.eventlet and _uses_grpc(plugins):
        yield Finding(
            "eventlet-grpc",
            "eventlet has patched the standard library, which gRPC does not support",
            "a gRPC call blocks every greenlet of its process until it is answered",
            "use another kind of worker, such as gthread, or another transport",
        )


def _grpc_forks(plugins: Sequence[PluginConfig], host: Host) -> Iterator[Finding]:
    if not host.grpc_forks and _uses_grpc(plugins):
        yield Finding(
            "grpc-fork-support",
            "gRPC's fork support is off",
            "a process that forks after a gRPC call leaves children that hang or crash",
            "set GRPC_ENABLE_FORK_SUPPORT=1 before anything imports grpc",
        )


def _limits(plugins: Sequence[PluginConfig], host: Host) -> Iterator[Finding]:
    workers = host.workers or 1
    if workers < 2:
        return
    limits = []
    for plugin in plugins:
        rate, bulkhead = plugin.rate_limit, plugin.bulkhead
        if rate is not None and rate.enabled and rate.requests_per_second:
            each, window = rate.requests_per_second, rate.time_window or 1.0
            per = "s" if window == 1 else f"{window:g} s"
            limits.append(f"{plugin.name} {each:g}/{per} is {each * workers:g}/{per}")
        if bulkhead is not None and bulkhead.max_concurrent:
            limits.append(f"{plugin.name} {bulkhead.max_concurrent} at once is {bulkhead.max_concurrent * workers}")
    if limits:
        yield Finding(
            "limit-per-worker",
            f"limits apply in each of {workers} workers",
            f"all workers together allow {workers} times as much ({_listed(limits)})",
            "divide the limits by the number of workers, if they protect the plugins",
        )


def _timeouts(plugins: Sequence[PluginConfig], host: Host) -> Iterator[Finding]:
    limit = host.limit
    if limit is None:
        return
    late = []
    for plugin in plugins:
        timeout = None if plugin.connection is None else plugin.connection.request_timeout
        if timeout is not None and timeout >= limit:
            late.append(f"{plugin.name} {timeout:g} s")
    if late:
        yield Finding(
            "timeout-above-worker",
            f"timeouts of calls reach {host.limit_name} of {limit:g} s ({_listed(late)})",
            "the worker is ended before the call, so the client gets no answer and the log no reason",
            "set connection.request_timeout lower, or use the middleware or install() of goplugins.contrib",
        )


_RULES: tuple[Callable[[Sequence[PluginConfig], Host], Iterator[Finding]], ...] = (
    _uwsgi_threads,
    _uwsgi_forks,
    _gevent,
    _eventlet,
    _grpc_forks,
    _limits,
    _timeouts,
)


def _uses_grpc(plugins: Sequence[PluginConfig]) -> bool:
    return any(plugin.transport in (TransportType.GRPC, TransportType.GRPC_TLS) for plugin in plugins)


def _listed(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:_MOST_NAMES])
    return shown if len(texts) <= _MOST_NAMES else f"{shown} and {len(texts) - _MOST_NAMES} more"
