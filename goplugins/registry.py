"""Who answers to a name: an immutable snapshot, replaced whole under a lock and read without one."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from goplugins.errors import (
    DuplicatePluginNameError,
    ManagerClosedError,
    PluginError,
    PluginNotEnabledError,
    PluginNotFoundError,
)
from goplugins.plugin import GuardedPlugin

__all__ = ["Registry"]


class Registry:
    """The plugins of a manager by name.

    Attributes:
        plugins: the snapshot; look a name up with ``plugins.get`` and, if that finds nothing, raise ``absent(name)``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._disabled: frozenset[str] = frozenset()
        self.closed = False
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

    def remove(self, name: str) -> GuardedPlugin:
        """Takes the name out; the caller drains and closes the plugin.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        with self._lock:
            names = dict(self.plugins)
            plugin = names.pop(name, None)
            self.plugins = MappingProxyType(names)
        if plugin is None:
            raise self.absent(name)
        return plugin

    def close(self) -> list[GuardedPlugin]:
        """Empties the registry for good and returns what was in it."""
        with self._lock:
            self.closed = True
            plugins = list(self.plugins.values())
            self.plugins = MappingProxyType({})
        return plugins

    def get(self, name: str) -> GuardedPlugin:
        """Who answers to the name. Takes no lock.

        Raises:
            PluginNotFoundError: nobody.
            PluginNotEnabledError: a plugin that its configuration switches off.
            ManagerClosedError: the manager was shut down.
        """
        plugin = self.plugins.get(name)
        if plugin is None:
            raise self.absent(name)
        return plugin

    def absent(self, name: str) -> PluginError:
        """The error that says why nobody answers to ``name``."""
        if self.closed:
            return ManagerClosedError("the manager was shut down", plugin=name)
        if name in self._disabled:
            return PluginNotEnabledError("is configured with enabled: false", plugin=name)
        names = sorted(self.plugins)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names[:20]) or 'none yet'}"
        return PluginNotFoundError(f"no plugin of this name; {hint}", plugin=name)

    def after_fork_in_child(self) -> None:
        """A fresh lock, and every plugin renewed."""
        self._lock = threading.Lock()
        for plugin in self.plugins.values():
            plugin.after_fork_in_child()
