"""The exec transport: a pool of processes of one program."""

from __future__ import annotations

import weakref

from goplugins.config.credentials import validate_auth
from goplugins.config.plugin import PluginConfig
from goplugins.enums import PluginStatus, TransportType
from goplugins.errors import ExecTransportError
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.transports.base import TransportFactory, TransportSettings
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.credential_rotation import PluginCredentials
from goplugins.transports.exec.launcher import Launcher, check_options
from goplugins.transports.exec.process_handle import Handle
from goplugins.transports.line_client import LineClient

_MIN_CLOSING = 8
"""Processes beside those in use that may take their time to exit, whatever ``max_connections`` is."""


class ExecPlugin(LineClient[Handle]):
    """A plugin that runs as a subprocess, started at the first call; used by many threads at once.

    A process handles one call at a time, so there are up to ``connection.max_connections`` processes. Up to
    ``max_idle_connections`` of them are kept while idle, for any time: ``idle_timeout`` does not apply, since a start
    is expensive. A call that ends without its reply kills its process, unless the process has not begun to read: then
    it is still starting, and the next call waits for it, until ``connection_timeout`` seconds after its start.

    Args:
        config: fields of ``connection`` that are None take the production defaults.
        clock: source of time.

    Raises:
        ConfigError: no program, a limit that this system can't set, or a credential that can't be used.
    """

    def __init__(self, config: PluginConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
        settings = TransportSettings.of(config, clock)
        connection = settings.connection
        credentials = PluginCredentials(config.auth, clock, config.name)
        self._launcher = launcher = Launcher(
            config,
            limit=connection.max_response_bytes or 0,
            start_timeout=connection.connection_timeout or 10.0,
            max_closing=max(_MIN_CLOSING, connection.max_connections or 1),
            clock=clock,
            scrub=credentials.scrub,
        )
        pool: ConnectionPool[Handle] = ConnectionPool(
            launcher.launch,
            launcher.close,
            Handle.is_dead,
            drop=Handle.drop,
            abandon=lambda _: None,  # a handle that is lost ends its process by itself
            max_connections=connection.max_connections or 1,
            max_idle=connection.max_idle_connections or 0,
            idle_timeout=float("inf"),
            max_lifetime=connection.max_lifetime,
            clock=clock,
        )
        self._keeps_idle = bool(connection.keep_alive is not False and connection.max_idle_connections)
        super().__init__(config, settings, pool, error=ExecTransportError, credentials=credentials)
        # Ends the processes of a forgotten plugin. At interpreter exit the supervisor ends all processes.
        self._finalizer = weakref.finalize(self, _end, pool, launcher)
        self._finalizer.atexit = False
        register_forkable(launcher)

    def _check(self, deadline: Deadline) -> HealthStatus:
        """Whether a process runs. None is started for it, and none reads a line unless the configuration says so."""
        if not self._launcher.has_process:
            return self._launcher.health_without_process()
        if not self.pool.idle:
            return HealthStatus(message="all processes are busy", reported=False)
        if self._settings.health_kind == "message":
            return super()._check(deadline)
        return HealthStatus(PluginStatus.HEALTHY, "a process runs")

    def _check_new(self, deadline: Deadline) -> HealthStatus:
        """Starts the first process, which the first call will use: a program that can't start is found out now."""
        if not self._keeps_idle:
            return self._check(deadline)
        if self._settings.health_kind == "message":
            return self._ask(deadline)
        lease = self.pool.acquire_free(deadline)
        started = False
        try:
            self._launcher.await_start(lease.connection.process, deadline)
            started = True
        finally:
            self.pool.release(lease, reusable=started)
        return HealthStatus(PluginStatus.HEALTHY, "a process runs")

    def close(self) -> None:
        """Ends idle processes now, and busy ones after their calls; later calls are rejected."""
        _end(self.pool, self._launcher)

    def __repr__(self) -> str:
        return f"<ExecPlugin {self._settings.name!r} of {self._endpoint}>"


def _end(pool: ConnectionPool[Handle], launcher: Launcher) -> None:
    pool.close()
    launcher.shut()


class ExecPluginFactory(TransportFactory[ExecPlugin]):
    """Creates plugins that run as subprocesses.

    Args:
        clock: for its plugins.
    """

    transports = (TransportType.EXECUTABLE,)

    def _create(self, config: PluginConfig) -> ExecPlugin:
        return ExecPlugin(config, clock=self._clock)

    def _check(self, config: PluginConfig) -> None:
        check_options(config)
        validate_auth(config.auth, config.transport)
