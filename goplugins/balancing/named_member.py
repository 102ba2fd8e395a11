"""A manager's plugin as a member of a group, by its name: a reload may replace the plugin, the member stays."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from goplugins.config.operations import OperationConfig
from goplugins.enums import PluginStatus
from goplugins.errors import PluginClosedError
from goplugins.models.results import HealthStatus
from goplugins.pipeline.attempts import Checker
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.call import Call
from goplugins.runtime.callbacks import Subscribers
from goplugins.transports.interface import Sender


class NamedMember:
    """The plugin that is registered under a name. A :class:`~goplugins.balancing.Member`.

    Args:
        name: the plugin's; it need not be registered yet.
        registry: where the plugin is found, anew for each call.
        group_name: the group's name in the same registry.
        group: the group itself. Calls that it had admitted before both were removed still reach their members.
    """

    def __init__(self, name: str, registry: Registry, group_name: str, group: Sender) -> None:
        self.name = name
        self._registry = registry
        self._group_name = group_name
        self._group = weakref.ref(group)
        self._subscribers = Subscribers()
        self._leave_registry: Callable[[], object] | None = None
        self._subscribed_to: GuardedPlugin | None = None
        self._unsubscribe: Callable[[], object] | None = None

    @property
    def plugin(self) -> GuardedPlugin | None:
        """The plugin that is registered now; None if there is none."""
        return self._registry.plugins.get(self.name)

    @property
    def endpoint(self) -> str:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self.plugin
        return "" if plugin is None else plugin.endpoint

    @property
    def checker(self) -> Checker | None:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self.plugin
        return None if plugin is None else plugin.checker

    @property
    def operations(self) -> Mapping[str, OperationConfig]:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self.plugin
        return {} if plugin is None else plugin.pipeline.operations

    def call_as_member(self, call: Call) -> Any:
        """See :class:`goplugins.balancing.Member`."""
        nested = False
        while True:
            plugin = self._registry.plugins.get(self.name)
            if plugin is None:
                plugin, nested = self._draining(), True
                if plugin is None:
                    raise PluginClosedError(f"no plugin {self.name!r} is registered")
            if call.operation:
                plugin.pipeline.usual_of(call.operation)  # raises if it has others only: another member takes the call
            try:
                return plugin.call_as_member(call, nested=nested)
            except PluginClosedError as error:
                # Refused by a plugin that was just replaced or removed.
                if nested or error.attempts or self._registry.plugins.get(self.name) is plugin:
                    raise

    def _draining(self) -> GuardedPlugin | None:
        """The removed plugin that is still draining, for calls of a group that was removed as well."""
        group = self._registry.plugins.get(self._group_name)
        if group is not None and group.plugin is self._group():
            return None
        return self._registry.find_draining(self.name)

    def retry_after(self) -> float:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self.plugin or self._draining()
        return 0.0 if plugin is None else plugin.retry_after()

    def admits(self) -> bool:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self.plugin
        if plugin is not None:
            return plugin.admits()
        plugin = self._draining()
        return plugin is not None and plugin.retry_after() <= 0

    def status(self) -> PluginStatus:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self.plugin
        return PluginStatus.UNKNOWN if plugin is None else plugin.status()

    def health(self, timeout: float) -> HealthStatus:
        """See :class:`goplugins.balancing.Member`."""
        plugin = self.plugin
        return HealthStatus(message="the plugin is not registered") if plugin is None else plugin.health(timeout)

    def subscribe(self, callback: Callable[[], object], /) -> Callable[[], object]:
        """See :class:`goplugins.balancing.Member`."""
        if self._leave_registry is None:
            self._leave_registry = self._registry.subscribe(self._registry_changed)
            self._registry_changed()
        remove = self._subscribers.add(callback)

        def unsubscribe() -> None:
            remove()
            leave = self._leave_registry
            if leave is not None and not self._subscribers:
                self._leave_registry = None
                leave()
                self._subscribe_to(None)

        return unsubscribe

    def _registry_changed(self) -> None:
        plugin = self.plugin
        if plugin is not self._subscribed_to:
            self._subscribe_to(plugin)
            self._subscribers.notify()

    def _subscribe_to(self, plugin: GuardedPlugin | None) -> None:
        unsubscribe, self._unsubscribe, self._subscribed_to = self._unsubscribe, None, plugin
        if unsubscribe is not None:
            unsubscribe()
        if plugin is not None:
            self._unsubscribe = plugin.subscribe(self._subscribers.notify)
