"""Reloading always in the same way: the manager's method with its options remembered."""

from __future__ import annotations

from typing import Any, Protocol

import attrs

from goplugins.config import ReloadOptions
from goplugins.config.diff import PluginDiff
from goplugins.enums import ReloadStrategy
from goplugins.errors import InvalidArgumentError
from goplugins.observability.reload_report import ReloadReport

__all__ = ["PluginReloader", "Reloadable", "reload_options"]


class Reloadable(Protocol):
    """A :class:`~goplugins.Manager`, as far as reloads go."""

    def reload_config(
        self, config: Any, strategy: Any = None, options: ReloadOptions | None = None, *, dry_run: bool = False
    ) -> ReloadReport:
        """See :meth:`goplugins.Manager.reload_config`."""
        ...


def reload_options(strategy: ReloadStrategy | str | None, options: object) -> ReloadOptions:
    """The options with that strategy, checked; the defaults where there are none.

    Raises:
        ConfigError: options that can't be used.
        InvalidArgumentError: they are none.
    """
    found = ReloadOptions() if options is None else options
    if not isinstance(found, ReloadOptions):
        raise InvalidArgumentError(f"options: expected ReloadOptions, got a {type(found).__name__}")
    if strategy is not None:
        found = attrs.evolve(found, strategy=strategy)
    found.validate()
    return found


class PluginReloader:
    """Reloads one manager's configuration with options of its own.

    Args:
        manager: whose configuration.
        options: how; the defaults when left out.

    Raises:
        ConfigError: options that can't be used.

    >>> from goplugins import Manager
    >>> manager = Manager()
    >>> reloader = PluginReloader(manager, ReloadOptions(strategy="rolling", max_concurrent_reloads=1))
    >>> config = {"plugins": [{"name": "auth", "transport": "unix", "endpoint": "/run/auth.sock"}]}
    >>> reloader.reload(config).added
    ('auth',)
    >>> config["plugins"][0]["rate_limit"] = {"enabled": True, "burst_size": 50}
    >>> print(reloader.preview(config))
    ~ auth: in place
        rate_limit.enabled: False -> True
        rate_limit.burst_size: 20 -> 50
    >>> manager.shutdown()
    """

    def __init__(self, manager: Reloadable, options: ReloadOptions | None = None) -> None:
        self.options = reload_options(None, options)
        self._manager = manager

    def reload(self, config: Any, *, dry_run: bool = False) -> ReloadReport:
        """See :meth:`goplugins.Manager.reload_config`."""
        return self._manager.reload_config(config, options=self.options, dry_run=dry_run)

    def preview(self, config: Any) -> PluginDiff:
        """What a reload would change; does nothing.

        Raises:
            ConfigError: with every problem found.
        """
        return self.reload(config, dry_run=True).diff
