"""A plugin of a manager as a member of a group, by its name: it stays one when a reload puts another in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from goplugins._call import Call
from goplugins.errors import PluginClosedError, PluginError
from goplugins.models import HealthStatus, PluginStatus
from goplugins.plugin import GuardedPlugin
from goplugins.registry import Registry

__all__ = ["NamedMember"]


class NamedMember:
    """Whoever answers to a name in a registry. A :class:`~goplugins.balancing.Member`.

    Args:
        name: the plugin's; it need not be there yet.
        registry: where it is looked up, anew for each call.
    """

    def __init__(self, name: str, registry: Registry) -> None:
        self.name = name
        self._registry = registry
        self._callbacks: list[Callable[[], object]] = []
        self._seen: GuardedPlugin | None = None  # whose news are listened to
        self._deafen: Callable[[], object] | None = None

    def offer(self, call: Call) -> Any:
        """See :class:`goplugins.balancing.Member`."""
        while True:
            plugin = self._registry.plugins.get(self.name) or self._retiring(call)
            try:
                return plugin.offer(call)
            except PluginClosedError as error:
                # Refused at the gate of a plugin that was just replaced: its successor takes the call.
                if error.attempts or self._registry.plugins.get(self.name) in (plugin, None):
                    raise

    def _retiring(self, call: Call) -> GuardedPlugin:
        """A plugin on its way out, for a call that the group had let in before."""
        try:
            plugin = self._registry.retiring(self.name)
        except PluginError as exc:
            raise PluginClosedError(f"there is no plugin {self.name!r} now") from exc
        call.nested = True
        return plugin

    def retry_after(self) -> float:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self._registry.plugins.get(self.name)
        return 0.0 if plugin is None else plugin.retry_after()

    def admits(self) -> bool:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self._registry.plugins.get(self.name)
        return plugin is not None and plugin.admits()

    def status(self) -> PluginStatus:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self._registry.plugins.get(self.name)
        return PluginStatus.UNKNOWN if plugin is None else plugin.status()

    def health(self, timeout: float) -> HealthStatus:
        """Looks at the plugin's health."""
        plugin = self._registry.plugins.get(self.name)
        return HealthStatus(message="it is not there") if plugin is None else plugin.health(timeout)

    def subscribe(self, callback: Callable[[], object], /) -> Callable[[], object]:
        """See :class:`goplugins.balancing.Member`."""
        if not self._callbacks:
            self._registry.subscribe(self._renamed)
            self._renamed()
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)
            if not self._callbacks:
                self._registry.unsubscribe(self._renamed)
                self._listen_to(None)

        return unsubscribe

    def _renamed(self) -> None:
        """The registry has changed."""
        plugin = self._registry.plugins.get(self.name)
        if plugin is not self._seen:
            self._listen_to(plugin)
            self._tell()

    def _listen_to(self, plugin: GuardedPlugin | None) -> None:
        deafen, self._deafen, self._seen = self._deafen, None, plugin
        if deafen is not None:
            deafen()
        if plugin is not None:
            self._deafen = plugin.subscribe(self._tell)

    def _tell(self) -> None:
        for callback in tuple(self._callbacks):
            callback()
