"""Plugins by name: an immutable snapshot, replaced under a lock and read without one."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from goplugins.errors import (
    DuplicatePluginNameError,
    InvalidArgumentError,
    ManagerClosedError,
    PluginError,
    PluginNotEnabledError,
    PluginNotFoundError,
)
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.callbacks import Subscribers
from goplugins.runtime.fork import create_lock

_COMPARABLE = 200
"""Up to so many names an unknown one is compared with all for a suggestion: about 40 microseconds each."""


class Registry:
    """The plugins of a manager by name.

    Args:
        load: called before a name counts as unknown; loads the configuration of a manager that was unpickled.

    Attributes:
        plugins: the snapshot; use ``plugins.get(name)`` and, if that finds nothing, raise ``not_found(name)``.
    """

    def __init__(self, load: Callable[[], object] | None = None) -> None:
        self._lock = create_lock(self)
        self._disabled: frozenset[str] = frozenset()
        self._draining: dict[int, GuardedPlugin] = {}
        self.closed = False
        self._load = load
        self._subscribers = Subscribers()
        self.plugins: Mapping[str, GuardedPlugin] = MappingProxyType({})

    def add(self, plugins: Iterable[GuardedPlugin], disabled: Iterable[str] = ()) -> None:
        """Adds all of them or none.

        Raises:
            DuplicatePluginNameError: one of the names is taken.
            ManagerClosedError: the manager was shut down.
        """
        added = list(plugins)
        with self._lock:
            if self.closed:
                raise ManagerClosedError("the manager was shut down")
            names = dict(self.plugins)
            for plugin in added:
                if plugin.name in names:
                    raise DuplicatePluginNameError(
                        f"there is a plugin {plugin.name!r} already", fix="unregister it first, or choose another name"
                    )
                names[plugin.name] = plugin
            self.plugins = MappingProxyType(names)
            self._disabled |= frozenset(disabled)
        self._subscribers.notify()

    def replace(
        self,
        plugins: Iterable[GuardedPlugin],
        removed: Iterable[GuardedPlugin] = (),
        disabled: Iterable[str] | None = None,
    ) -> list[GuardedPlugin]:
        """Replaces plugins by new ones of the same names, and removes others, in one step.

        A call never finds a name without a plugin, or only some of the new plugins.

        Args:
            plugins: the new ones; a name that is not taken is added.
            removed: plugins to remove, unless code has replaced them meanwhile.
            disabled: names whose configuration disables them from now on; None keeps the present ones.

        Returns:
            The replaced and removed plugins; the caller drains and closes them, then calls :meth:`discard`.

        Raises:
            DuplicatePluginNameError: a name belongs to a plugin that was registered in code.
            ManagerClosedError: the manager was shut down.
        """
        with self._lock:
            if self.closed:
                raise ManagerClosedError("the manager was shut down")
            names = dict(self.plugins)
            old = [names.pop(plugin.name) for plugin in removed if names.get(plugin.name) is plugin]
            for plugin in plugins:
                before = names.get(plugin.name)
                if before is not None and not before.from_config:
                    raise DuplicatePluginNameError(
                        f"plugin {plugin.name!r} was registered in code meanwhile", fix="choose another name"
                    )
                if before is not None:
                    old.append(before)
                names[plugin.name] = plugin
            self._draining |= {id(plugin): plugin for plugin in old}
            self.plugins = MappingProxyType(names)
            if disabled is not None:
                self._disabled = frozenset(disabled)
        self._subscribers.notify()
        return old

    @property
    def disabled(self) -> frozenset[str]:
        """Names of plugins that their configuration disables."""
        return self._disabled

    def restore(
        self, old: Iterable[GuardedPlugin], new: Iterable[GuardedPlugin], disabled: frozenset[str]
    ) -> tuple[list[GuardedPlugin], list[GuardedPlugin]]:
        """Undoes :meth:`replace`, in one step.

        Args:
            old: what it returned.
            new: the plugins that it put in.
            disabled: the names that were disabled before.

        Returns:
            The plugins that are back in place, and those that are removed.
        """
        places = {plugin.name: plugin for plugin in old}
        back: list[GuardedPlugin] = []
        gone: list[GuardedPlugin] = []
        with self._lock:
            names = dict(self.plugins)
            if self.closed:
                return [], [*old, *new]
            for plugin in new:
                gone.append(plugin)
                before = places.pop(plugin.name, None)
                if names.get(plugin.name) is not plugin:  # code has unregistered it meanwhile: the name stays free
                    gone += [] if before is None else [before]
                    continue
                self._draining[id(plugin)] = plugin
                if before is None:
                    del names[plugin.name]
                else:
                    names[plugin.name] = before
                    back.append(before)
            for before in places.values():  # it was removed
                if names.setdefault(before.name, before) is before:
                    back.append(before)
                else:
                    gone.append(before)
            for plugin in back:
                self._draining.pop(id(plugin), None)
            self.plugins = MappingProxyType(names)
            self._disabled = disabled
        self._subscribers.notify()
        return back, gone

    def remove(self, name: str) -> GuardedPlugin:
        """Removes a plugin; the caller drains and closes it, then calls :meth:`discard`.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        with self._lock:
            names = dict(self.plugins)
            plugin = names.pop(name, None)
            if plugin is not None:
                self._draining[id(plugin)] = plugin
                self.plugins = MappingProxyType(names)
        if plugin is None:
            raise self.not_found(name)
        self._subscribers.notify()
        return plugin

    def close(self) -> Sequence[GuardedPlugin]:
        """Empties the registry for good; returns all plugins to be drained, those of earlier removals included."""
        with self._lock:
            self.closed = True
            self._draining |= {id(plugin): plugin for plugin in self.plugins.values()}
            self.plugins = MappingProxyType({})
            return list(self._draining.values())

    def subscribe(self, listener: Callable[[], object]) -> Callable[[], object]:
        """Has ``listener`` called, outside the lock, after names were added, removed or replaced.

        Returns:
            A function that ends the subscription.
        """
        return self._subscribers.add(listener)

    def discard(self, plugin: GuardedPlugin) -> bool:
        """Forgets a removed plugin that is closed now; True for the first time."""
        with self._lock:
            return self._draining.pop(id(plugin), None) is not None

    @property
    def all(self) -> Sequence[GuardedPlugin]:
        """The plugins, and the removed ones that are not closed yet."""
        with self._lock:
            return (*self.plugins.values(), *self._draining.values())

    def get_for_nested_call(self, name: str) -> GuardedPlugin:
        """A plugin that is being drained, for a call made within a call that it or another such plugin has admitted.

        Raises:
            PluginError: the thread is in no such call, or there is no such plugin; see :meth:`not_found`.
        """
        thread = threading.get_ident()
        with self._lock:
            draining = list(self._draining.values())
        if any(each.tracker.holds(thread) for each in draining):
            plugin = self.find_draining(name)
            if plugin is not None:
                return plugin
        raise self.not_found(name)

    def find_draining(self, name: str) -> GuardedPlugin | None:
        """The plugin of that name that was removed last, until it is closed. Takes the lock."""
        with self._lock:
            for plugin in reversed(self._draining.values()):
                if plugin.name == name:
                    return plugin
        return None

    def get(self, name: str) -> GuardedPlugin:
        """The plugin of that name; loads a configuration that is still to be loaded. Takes no lock.

        Raises:
            PluginNotFoundError: there is none.
            PluginNotEnabledError: the plugin's configuration disables it.
            ManagerClosedError: the manager was shut down.
        """
        plugin = self.plugins.get(name)
        if plugin is None and self._load is not None:
            self._load()
            plugin = self.plugins.get(name)
        return self.get_for_nested_call(name) if plugin is None else plugin

    def not_found(self, name: Any) -> PluginError:
        """The error that says why there is no plugin of that name."""
        if not isinstance(name, str):
            return InvalidArgumentError(f"name: expected a string, got a {type(name).__name__}")
        if self.closed:
            return ManagerClosedError("the manager was shut down", plugin=name)
        if name in self._disabled:
            return PluginNotEnabledError("is configured with enabled: false", plugin=name)
        names = sorted(self.plugins) if len(self.plugins) <= _COMPARABLE else []
        near = difflib.get_close_matches(name, names, n=1)
        if not names and self.plugins:
            return PluginNotFoundError(f"no plugin of this name among {len(self.plugins)}", plugin=name)
        hint = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(names[:20]) or 'none yet'}"
        return PluginNotFoundError(f"no plugin of this name; {hint}", plugin=name)

    def after_fork_in_child(self) -> None:
        """Renews every plugin."""
        for plugin in (*self.plugins.values(), *self._draining.values()):
            plugin.after_fork_in_child()
