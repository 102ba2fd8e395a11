"""A manager's ``reload_config`` with fixed options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from goplugins.config import ReloadOptions
from goplugins.config.diff import PluginDiff
from goplugins.manager.reloading import reload_options
from goplugins.observability.reload_report import ReloadReport

if TYPE_CHECKING:
    from goplugins.manager.manager import Manager


__all__ = ["PluginReloader"]


class PluginReloader:
    """Reloads the configuration of one manager with options of its own.

    Args:
        manager: the manager.
        options: strategy and timeouts; the defaults when left out.

    Raises:
        ConfigError: a value out of range.

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

    def __init__(self, manager: Manager[Any, Any], options: ReloadOptions | None = None) -> None:
        self.options = reload_options(None, options)
        self._manager = manager

    def reload(self, config: Any, *, dry_run: bool = False) -> ReloadReport:
        """See :meth:`goplugins.Manager.reload_config`."""
        return self._manager.reload_config(config, options=self.options, dry_run=dry_run)

    def preview(self, config: Any) -> PluginDiff:
        """What a reload would change; changes nothing.

        Raises:
            ConfigError: with every problem found.
        """
        return self.reload(config, dry_run=True).diff
