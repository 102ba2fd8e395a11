"""The exec transport: a pool of processes of one program."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from goplugins.config.credentials import validate_auth
from goplugins.config.plugin_sections import DEFAULT_CONNECTION, ConnectionConfig
from goplugins.config.schema import merge
from goplugins.enums import PluginStatus, TransportType
from goplugins.errors import (
    ConnectionLostError,
    ExecTransportError,
    PluginError,
    PluginTimeoutError,
    TruncatedReplyError,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import register_forkable
from goplugins.transports.connection_pool import ConnectionPool
from goplugins.transports.exec.launcher import Launcher, check_options
from goplugins.transports.exec.process import Handle
from goplugins.transports.interface import Sender
from goplugins.transports.line_client import LineClient
from goplugins.transports.single_call import single_call

if TYPE_CHECKING:
    from goplugins.config import PluginConfig

__all__ = ["ExecPlugin", "ExecPluginFactory"]

_FOR_THE_END = 0.05
"""Seconds that a call waits to learn how its process ended: pipes close a moment before."""


class ExecPlugin(Sender):
    """A plugin that runs as a subprocess. Starts it when it is first called; used by many threads at once.

    Each process answers one call at a time, so there are up to ``connection.max_connections`` of them. They are
    kept however long they have nothing to do (``idle_timeout`` is for connections, which cost nothing to open),
    but no more than ``max_idle_connections`` of those. A call that ends without its reply kills its process, unless
    that had not begun to read: it is still starting, and the next call waits for it, ``connection_timeout`` seconds
    from its start at most.

    Args:
        config: what is None in ``connection`` takes the production defaults.
        clock: measures and waits.

    Raises:
        ConfigError: no program, a limit that can't be set here, or a credential that can't be used.
    """

    def __init__(self, config: PluginConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
        connection = merge(config.connection or ConnectionConfig(), DEFAULT_CONNECTION)
        self._name = config.name
        self._executable = config.executable
        self._clock = clock
        self._timeout = connection.request_timeout or 30.0
        self._idempotent = bool(config.retry is not None and config.retry.idempotent)
        self._info: PluginInfo | None = None
        self._launcher = launcher = Launcher(
            config,
            limit=connection.max_response_bytes or 0,
            start_timeout=connection.connection_timeout or 10.0,
            clock=clock,
        )
        pool: ConnectionPool[Handle] = ConnectionPool(
            launcher.launch,
            launcher.close,
            Handle.is_dead,
            drop=Handle.drop,
            abandon=lambda _: None,  # a handle that is lost lets its process go by itself
            max_connections=connection.max_connections or 1,
            max_idle=connection.max_idle_connections or 0,
            idle_timeout=float("inf"),
            clock=clock,
        )

        def explain(handle: Handle, error: PluginError, deadline: Deadline) -> None:
            process = handle.process
            process.timed_out = isinstance(error, PluginTimeoutError)
            process.failed = not process.timed_out or clock.monotonic() >= process.channel.start_ends
            if not isinstance(error, ConnectionLostError | TruncatedReplyError):
                process.fault = error.message
                return
            if not process.end:
                clock.wait(process.ended, max(0.0, min(_FOR_THE_END, deadline.remaining())))
            if process.end:
                error.message = f"{error.message}: {process.end}"

        self._client = LineClient(
            pool,
            connection,
            config.auth,
            endpoint=config.executable,
            other=ExecTransportError,
            clock=clock,
            explain=explain,
        )
        launcher.scrub = self._client.scrub
        # Ends the processes of a forgotten plugin. At interpreter exit the supervisor ends all processes.
        self._finalizer = weakref.finalize(self, _end, pool, launcher)
        self._finalizer.atexit = False
        self.watches_credentials = self._client.files is not None
        register_forkable(self)

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        """Writes the request as JSON, and refuses headers that can't be sent."""
        self._client.prepare(call)

    def send(self, call: Call) -> Any:
        """One line to a process, one line back. See :class:`goplugins.transports.interface.Sender`."""
        return self._client.send(call)

    def health(self, timeout: float) -> HealthStatus:
        """One health message to an idle process, or to the first one; UNKNOWN if all are at work; never raises."""
        pool = self._client.pool
        if pool.open and not pool.idle:
            return HealthStatus(PluginStatus.UNKNOWN, "every process is at work", self._clock.time())
        return self._client.health(timeout)

    def info(self) -> PluginInfo:
        """What the plugin says of itself; asked once, and until it has answered what the configuration says."""
        if self._info is None:
            metadata = {"transport": TransportType.EXECUTABLE.value, "executable": self._executable}
            known = PluginInfo(name=self._name, metadata=metadata)
            self._info = self._client.info(known)
            return self._info or known
        return self._info

    def close(self) -> None:
        """Has idle processes leave now, and those at work when their calls end; later calls are refused."""
        _end(self._client.pool, self._launcher)

    def renew_credentials(self) -> None:
        """Looks whether its token has changed on disk, and sends the new one if it has; for a scheduler."""
        if self._client.files is not None:
            self._client.files.renew()

    # --- Plugin ------------------------------------------------------------------------------------------------

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: what went wrong.
        """
        return single_call(
            self, request, context, timeout=self._timeout, idempotent=self._idempotent, clock=self._clock
        )

    def after_fork_in_child(self) -> None:
        """Forgets the parent's processes."""
        self._client.pool.after_fork_in_child()
        self._launcher.after_fork_in_child()

    def __repr__(self) -> str:
        return f"<ExecPlugin {self._name!r} of {self._executable}>"


def _end(pool: ConnectionPool[Handle], launcher: Launcher) -> None:
    pool.close()
    launcher.shut()


class ExecPluginFactory:
    """Makes plugins that run as subprocesses.

    Args:
        clock: for its plugins.
        resolve: not used: a program has no name to resolve. Every built-in factory is offered one.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, resolve: Callable[..., object] | None = None) -> None:
        self._clock = clock

    def create_plugin(self, config: PluginConfig) -> ExecPlugin:
        """A plugin that has not started anything yet.

        Raises:
            ConfigError: what :meth:`validate_config` raises.
        """
        return ExecPlugin(config, clock=self._clock)

    def supported_transports(self) -> Sequence[str]:
        """The value ``exec``."""
        return (TransportType.EXECUTABLE,)

    def validate_config(self, config: PluginConfig) -> None:
        """Checks program, limits and credentials; starts nothing.

        Raises:
            ConfigError: what can't be used.
        """
        check_options(config)
        validate_auth(config.auth, config.transport)
