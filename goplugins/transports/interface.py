"""The seam between policies and wires: everything that a transport may offer, with defaults for what it need not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from goplugins.config.operations import OperationConfig
from goplugins.config.plugin import PluginConfig
from goplugins.models.explanation import GroupExplanation
from goplugins.models.plugin import Plugin, PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.transports.resolver import Address

__all__ = ["AddressFactory", "PluginFactory", "Sender"]


class Sender(ABC):
    """A wire to one plugin: request bytes out, reply bytes in, library errors translated into ``goplugins.errors``.

    A sender makes single attempts and applies no policy. It is used by many threads at once. A transport implements
    the abstract methods and overrides only the others that it has a use for.

    Attributes:
        watches_credentials: whether credentials come from files, so that :meth:`renew_credentials` must run
            periodically.
    """

    watches_credentials: bool = False

    # --- a call ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:  # noqa: B027 - a default
        """Encodes the request into ``call.payload``, once for all attempts.

        Raises:
            PluginError: the request or a header can't be sent.
        """

    @abstractmethod
    def send(self, call: Call) -> Any:
        """Makes one attempt and returns the typed response before ``call.deadline``.

        Raises:
            PluginError: the attempt failed, or the plugin replied with an error.
        """

    # --- the plugin --------------------------------------------------------------------------------------------

    @abstractmethod
    def health(self, timeout: float) -> HealthStatus:
        """Checks the plugin's health within ``timeout`` seconds, outside all policies.

        UNKNOWN if no connection is free. Never raises.
        """

    def first_health(self, timeout: float) -> HealthStatus:
        """The health of a plugin that is about to be put into use, within ``timeout`` seconds. Never raises.

        Unlike a later check it may start what the first call would start.
        """
        return self.health(timeout)

    @abstractmethod
    def info(self) -> PluginInfo:
        """Name, version and capabilities of the plugin, as far as known."""

    def close(self) -> None:  # noqa: B027 - a default
        """Closes connections and processes; can be called repeatedly. Later calls raise a PluginClosedError."""

    # --- maintenance, run periodically by a scheduler --------------------------------------------------------------

    def sweep(self) -> None:  # noqa: B027 - a default
        """Closes connections that were idle for longer than ``connection.idle_timeout``."""

    def renew_credentials(self) -> None:  # noqa: B027 - a default
        """Loads certificates and tokens whose files have changed; calls in flight keep their connections."""

    # --- groups ------------------------------------------------------------------------------------------------

    def explain(self) -> GroupExplanation | None:
        """State of each member; None for a sender that is no group."""
        return None

    def group_health(self) -> HealthStatus | None:
        """The group's health by what is known of its members, without a check; None if it has none, or is no group."""
        return None

    @property
    def operations(self) -> Mapping[str, OperationConfig]:
        """The operations of a group's members; the configuration has those of any other plugin."""
        return {}

    def operations_with(self, name: str) -> Mapping[str, OperationConfig]:
        """Operations among which ``name`` is, where there is one of that name; else all."""
        return self.operations

    @property
    def policies(self) -> PluginConfig | None:
        """The policies that a group made in code brings along; those of its registration take precedence."""
        return None

    def operator_settings(self) -> Mapping[str, bool]:
        """Members that were enabled or disabled by hand, and whether they are enabled; empty for other senders."""
        return {}

    def apply_operator_settings(self, members: Mapping[str, bool]) -> None:  # noqa: B027 - a default
        """Enables and disables members as :meth:`operator_settings` of another group says; it may have others."""

    def reconfigure(self, config: PluginConfig) -> None:  # noqa: B027 - a default
        """Applies a resolved configuration that differs only in policies: a group passes them on to its members."""

    # --- layers ------------------------------------------------------------------------------------------------

    @property
    def wire(self) -> Sender:
        """The innermost sender: another one than ``self`` if this one is a layer around it."""
        return self

    @property
    def chaos(self) -> str:
        """Description of the faults that are injected here; empty for none."""
        return ""


class PluginFactory(Protocol):
    """Creates plugins of one kind from configuration."""

    def create_plugin(self, config: PluginConfig) -> Plugin[Any, Any]:
        """A plugin that has not opened any connection yet."""
        ...

    def supported_transports(self) -> Sequence[str]:
        """Values of :class:`~goplugins.enums.TransportType`."""
        ...

    def validate_config(self, config: PluginConfig) -> None:
        """Raises a :class:`~goplugins.errors.ConfigError` for a configuration that the factory can't use."""
        ...


@runtime_checkable
class AddressFactory(PluginFactory, Protocol):
    """A factory whose plugins can connect to one given address, which DNS groups (``options.resolve``) need."""

    def create_at(self, config: PluginConfig, address: Address) -> Plugin[Any, Any]:
        """A plugin that connects to ``address``; host names in requests and certificates stay the endpoint's."""
        ...
