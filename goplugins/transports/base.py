"""What the built-in transports share: settings, calls outside the policies, factories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import attrs

from goplugins.config.plugin import PluginConfig
from goplugins.config.plugin_sections import DEFAULT_CONNECTION, ConnectionConfig
from goplugins.config.schema import merge
from goplugins.enums import TransportType
from goplugins.models.context import ExecutionContext
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.transports.interface import Sender
from goplugins.transports.single_call import single_call

P = TypeVar("P", bound=Sender)


@attrs.frozen
class TransportSettings:
    """The part of a plugin's configuration that every transport reads.

    Attributes:
        name: the plugin's.
        clock: measures and waits.
        connection: limits and times, with the production defaults where the plugin's section says None.
        timeout: seconds of a call that has no timeout of its own.
        idempotent: whether calls are idempotent that do not say so themselves.
        health_kind: the kind of health checks.
    """

    name: str
    clock: Clock
    connection: ConnectionConfig
    timeout: float
    idempotent: bool
    health_kind: str

    @classmethod
    def of(cls, config: PluginConfig, clock: Clock) -> TransportSettings:
        """The settings in ``config``, which need not be resolved."""
        connection = merge(config.connection or ConnectionConfig(), DEFAULT_CONNECTION)
        idempotent = config.retry is not None and config.retry.idempotent
        kind = config.health_check.kind if config.health_check is not None else None
        timeout = connection.request_timeout or 30.0
        return cls(config.name, clock, connection, timeout, bool(idempotent), kind or "auto")

    def execute(self, sender: Sender, request: Any, context: ExecutionContext) -> Any:
        """One attempt with plain JSON values over ``sender``, outside the policies.

        Raises:
            PluginError: the attempt failed.
        """
        return single_call(sender, request, context, timeout=self.timeout, idempotent=self.idempotent, clock=self.clock)


class TransportFactory(ABC, Generic[P]):
    """Creates the plugins of one built-in transport.

    Args:
        clock: for its plugins.
        resolve: runs a function on another thread, such as a worker pool's ``submit``, for name resolution. Factories
            of transports without it ignore it.
    """

    transports: ClassVar[tuple[TransportType, ...]]

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, resolve: Callable[..., object] | None = None) -> None:
        self._clock = clock

    @abstractmethod
    def create_plugin(self, config: PluginConfig) -> P:
        """A plugin that has not connected to anything yet.

        Raises:
            ConfigError: what :meth:`validate_config` raises, and files or modules that can't be used.
        """

    def supported_transports(self) -> Sequence[str]:
        """Values of :class:`~goplugins.enums.TransportType`."""
        return self.transports

    @abstractmethod
    def validate_config(self, config: PluginConfig) -> None:
        """Checks endpoint, options and credentials without opening, importing or starting anything.

        Raises:
            ConfigError: the configuration can't be used with this transport.
        """
