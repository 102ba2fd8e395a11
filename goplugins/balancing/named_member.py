"""A plugin of a manager as a member of a group, by its name: it stays one when a reload puts another in its place."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from goplugins.enums import PluginStatus
from goplugins.errors import PluginClosedError
from goplugins.models.results import HealthStatus
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.call import Call

if TYPE_CHECKING:
    from goplugins.balancing.load_balancer import LoadBalancer

__all__ = ["NamedMember"]


class NamedMember:
    """Whoever answers to a name in a registry. A :class:`~goplugins.balancing.Member`.

    Args:
        name: the plugin's; it need not be there yet.
        registry: where it is looked up, anew for each call.
        group: of which it is a member, in the same registry. The calls that it let in before both were taken out
            still find their members.
    """

    def __init__(self, name: str, registry: Registry, group: LoadBalancer[Any, Any]) -> None:
        self.name = name
        self._registry = registry
        self._group_name = group.name
        self._group = weakref.ref(group)
        self._callbacks: list[Callable[[], object]] = []
        self._seen: GuardedPlugin | None = None  # whose news are listened to
        self._deafen: Callable[[], object] | None = None

    def call_as_member(self, call: Call) -> Any:
        """See :class:`goplugins.balancing.Member`."""
        nested = False
        while True:
            plugin = self._registry.plugins.get(self.name)
            if plugin is None:
                plugin, nested = self._leaving(), True
                if plugin is None:
                    raise PluginClosedError(f"there is no plugin {self.name!r} now")
            try:
                return plugin.call_as_member(call, nested=nested)
            except PluginClosedError as error:
                # Refused at the gate of a plugin that was just replaced or taken out.
                if nested or error.attempts or self._registry.plugins.get(self.name) is plugin:
                    raise

    def _leaving(self) -> GuardedPlugin | None:
        """A plugin on its way out, for the calls of a group that is on its way out as well."""
        group = self._registry.plugins.get(self._group_name)
        if group is not None and group.plugin is self._group():
            return None
        return self._registry.find_draining(self.name)

    def retry_after(self) -> float:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self._registry.plugins.get(self.name) or self._leaving()
        return 0.0 if plugin is None else plugin.retry_after()

    def current(self) -> GuardedPlugin | None:
        """The plugin that answers to the name now."""
        return self._registry.plugins.get(self.name)

    def admits(self) -> bool:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self._registry.plugins.get(self.name)
        if plugin is not None:
            return plugin.admits()
        plugin = self._leaving()
        return plugin is not None and plugin.retry_after() <= 0

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
