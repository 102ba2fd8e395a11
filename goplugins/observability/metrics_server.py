"""The metrics port: prometheus_client's own little server, for processes that have no other."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from goplugins.observability.prometheus import is_multiprocess
from goplugins.runtime.fork import register_forkable

__all__ = ["MetricsServer"]

logger = logging.getLogger("goplugins.metrics")


class MetricsServer:
    """Serves metrics on a port, from :meth:`start` to :meth:`close`.

    Several workers of one host want the same port: one of them gets it, and another takes over when that one is
    gone. So the numbers are only right in the multi-process mode of prometheus_client, which the log says.

    Args:
        port: to listen on; 0 for any.
        address: to listen at; all addresses if empty.
        registry: what is served, save in multi-process mode: there, all processes' metrics are.
    """

    def __init__(self, port: int, address: str = "", registry: CollectorRegistry = REGISTRY) -> None:
        self._wanted = port
        self._address = address or "0.0.0.0"  # noqa: S104 - whoever collects is another host
        self._registry = registry
        self._server: Any = None
        self._lock = threading.Lock()
        self._told = False
        self._closed = False
        register_forkable(self)

    @property
    def port(self) -> int | None:
        """The port it listens on; None while it does not."""
        server = self._server
        return None if server is None else int(server.server_port)

    def start(self) -> None:
        """Listens, unless it does already, or another process has the port: then call it again later."""
        with self._lock:
            if self._server is not None or self._closed:
                return
            registry = self._registry
            if is_multiprocess():
                registry = CollectorRegistry()
                MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            try:
                self._server, thread = start_http_server(self._wanted, self._address, registry)
            except OSError as exc:
                self._complain(exc)
                return
            thread.name = "goplugins-metrics"
            self._server.service_actions = _ending_with(weakref.ref(self), self._server)
        logger.info("metrics are served on port %d", self.port)

    def _complain(self, exc: OSError) -> None:
        if self._told:
            return
        self._told = True
        hint = "" if is_multiprocess() else "; with several workers set PROMETHEUS_MULTIPROC_DIR, or each shows its own"
        logger.warning("metrics_port %d is taken (%s): tried again later%s", self._wanted, exc, hint)

    def close(self) -> None:
        """Stops; harmless when repeated."""
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def after_fork_in_child(self) -> None:
        """The port is the parent's, or the parent's metrics would come from here at times."""
        self._lock = threading.Lock()
        server, self._server = self._server, None
        if server is not None:
            os.close(server.socket.detach())


def _ending_with(owner: weakref.ref[MetricsServer], server: Any) -> Callable[[], None]:
    """Called by the server's own loop twice a second: ends it when its manager was forgotten without shutdown."""

    def end() -> None:
        server.shutdown()
        server.server_close()

    def look() -> None:
        if owner() is None:
            server.service_actions = lambda: None
            # shutdown() waits for the loop, which is what runs here.
            threading.Thread(target=end, name="goplugins-metrics-end", daemon=True).start()

    return look
