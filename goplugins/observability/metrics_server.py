"""The metrics port: prometheus_client's HTTP server, for processes without a server of their own."""

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
from goplugins.runtime.fork import create_lock, register_forkable

logger = logging.getLogger("goplugins.metrics")


class MetricsServer:
    """Serves metrics on a port, from :meth:`start` to :meth:`close`.

    If several workers of one host are configured with the same port, one of them gets it, and another one takes over
    when that one ends. Complete numbers then need the multi-process mode of prometheus_client, as the log says.

    Args:
        port: to listen on; 0 for any free one.
        address: to listen on; all addresses if empty.
        registry: the metrics to serve; ignored in multi-process mode, which serves those of all processes.
    """

    def __init__(self, port: int, address: str = "", registry: CollectorRegistry = REGISTRY) -> None:
        self._wanted = port
        self._address = address or "0.0.0.0"  # noqa: S104 - metrics are collected from other hosts
        self._registry = registry
        self._server: Any = None
        self._lock = create_lock(self)
        self._warned = False
        self._closed = False
        register_forkable(self)

    @property
    def port(self) -> int | None:
        """The port it listens on; None if it does not listen."""
        server = self._server
        return None if server is None else int(server.server_port)

    def start(self) -> None:
        """Starts to listen. If another process has the port, warns once; call it again later. Can be repeated."""
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
                self._warn(exc)
                return
            thread.name = "goplugins-metrics"
            self._server.service_actions = _close_without(weakref.ref(self), self._server)
        logger.info("metrics are served on port %d", self.port)

    def _warn(self, exc: OSError) -> None:
        if self._warned:
            return
        self._warned = True
        hint = "" if is_multiprocess() else "; for several workers set PROMETHEUS_MULTIPROC_DIR, or each shows its own"
        logger.warning("metrics_port %d is taken (%s): tried again later%s", self._wanted, exc, hint)

    def close(self) -> None:
        """Stops listening. Can be called repeatedly."""
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def after_fork_in_child(self) -> None:
        """Closes the inherited socket, or requests to the parent's port could be answered here."""
        server, self._server = self._server, None
        if server is not None:
            os.close(server.socket.detach())


def _close_without(owner: weakref.ref[MetricsServer], server: Any) -> Callable[[], None]:
    """A hook that the server's loop calls twice a second: closes the server after its owner was collected."""

    def close() -> None:
        server.shutdown()
        server.server_close()

    def check() -> None:
        if owner() is None:
            server.service_actions = lambda: None
            # On another thread: shutdown() waits for the loop that runs this hook.
            threading.Thread(target=close, name="goplugins-metrics-end", daemon=True).start()

    return check
