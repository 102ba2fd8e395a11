"""What the built-in transports share: settings, calls outside the policies, factories."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import attrs

from goplugins.config.plugin import PluginConfig
from goplugins.config.plugin_sections import DEFAULT_CONNECTION, ConnectionConfig
from goplugins.config.schema import as_mapping, merge
from goplugins.enums import TransportType
from goplugins.errors import UnsupportedTransportError
from goplugins.models.context import ExecutionContext
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.transports.interface import Sender
from goplugins.transports.single_call import single_call

logger = logging.getLogger("goplugins.plugin")

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

    Attributes:
        of_manager: a manager uses it, which validates configurations and applies their policies.
    """

    transports: ClassVar[tuple[TransportType, ...]]
    of_manager = False

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock

    def create_plugin(self, config: PluginConfig) -> P:
        """A plugin that has not connected to anything yet.

        Without a manager it makes single attempts: a warning names what then has no effect.

        Raises:
            ConfigError: what :meth:`validate_config` raises, and files or modules that can't be used.
        """
        if not self.of_manager:
            config = self._validated(config)
            if unused := _without_effect(config):
                text = "plugin %r: it makes single attempts without a manager; no effect has %s"
                logger.warning(text, config.name, ", ".join(unused))
        return self._create(config)

    def supported_transports(self) -> Sequence[str]:
        """Values of :class:`~goplugins.enums.TransportType`."""
        return self.transports

    def validate_config(self, config: PluginConfig) -> None:
        """Checks the configuration without opening, importing or starting anything.

        A manager has checked all but what only the transport can judge.

        Raises:
            ConfigError: the configuration can't be used with this transport.
        """
        self._check(config if self.of_manager else self._validated(config))

    def _validated(self, config: PluginConfig) -> PluginConfig:
        """The configuration with its transport, by default the factory's own."""
        if config.transport is None:
            secure = len(self.transports) > 1 and config.endpoint.lower().startswith("https:")
            config = attrs.evolve(config, transport=self.transports[1 if secure else 0])
        if config.transport not in self.transports:
            text = f"{type(self).__name__} does not serve transport {str(config.transport)!r}"
            fix = f"use one of {', '.join(self.transports)}"
            raise UnsupportedTransportError(text, path="transport", fix=fix)
        config.validate()
        return config

    @abstractmethod
    def _create(self, config: PluginConfig) -> P:
        """The plugin of a valid configuration."""

    @abstractmethod
    def _check(self, config: PluginConfig) -> None:
        """Checks endpoint, options and credentials as far as the transport can judge them."""


_HONOURED = {"retry": {"idempotent"}, "health_check": {"enabled", "kind", "timeout", "endpoint"}}
"""Fields of sections that a plugin without a manager honours."""

_POLICIES = ("circuit_breaker", "rate_limit", "bulkhead", "fallback", "cache", "hedge", "chaos")


def _without_effect(config: PluginConfig) -> list[str]:
    """What only a manager applies, of what the configuration says."""
    unused = []
    for section, honoured in _HONOURED.items():
        stated = getattr(config, section)
        unused += [f"{section}.{name}" for name in as_mapping(stated) if name not in honoured] if stated else []
    unused += [name for name in _POLICIES if getattr(config, name) is not None]
    if config.endpoints:
        unused.append("endpoints")
    if config.options.get("resolve"):
        unused.append("options.resolve")
    if config.enabled is False:
        unused.append("enabled")
    return unused
