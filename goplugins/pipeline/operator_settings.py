"""What operators have set on a plugin: it belongs to the name, and outlives the plugin that a reload replaces."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from goplugins.pipeline.plugin import GuardedPlugin


@attrs.frozen
class OperatorSettings:
    """The settings of one plugin at a moment.

    Attributes:
        held_open: whether its circuit breaker is forced open.
        members: of a group, by name: whether a member is enabled; only those that were enabled or disabled by hand.
    """

    held_open: bool = False
    members: Mapping[str, bool] = attrs.field(factory=dict)

    @classmethod
    def of(cls, plugin: GuardedPlugin) -> OperatorSettings:
        """The present settings of a plugin."""
        return cls(plugin.pipeline.breaker.is_forced_open, plugin.wire.operator_settings())

    def apply(self, plugin: GuardedPlugin) -> None:
        """Makes them the settings of another plugin, without an event: for the name nothing changes."""
        plugin.pipeline.breaker.hold_open(self.held_open)
        plugin.wire.apply_operator_settings(self.members)
        plugin.notify_changed()

    def disabled(self, name: str) -> tuple[str, ...]:
        """What is disabled: the plugin itself, by its ``name``, and members."""
        own = (name,) if self.held_open else ()
        return (*own, *(member for member, enabled in self.members.items() if not enabled))


class Handover:
    """Hands the settings of plugins on to others that take their places, those that are made meanwhile included.

    Create it before the change, and call :meth:`complete` after it.

    Args:
        pairs: each plugin that leaves, and the one that takes its place.
    """

    def __init__(self, pairs: list[tuple[GuardedPlugin, GuardedPlugin]]) -> None:
        self._handed = [(old, new, OperatorSettings.of(old)) for old, new in pairs]
        for _, new, settings in self._handed:
            settings.apply(new)

    def complete(self) -> None:
        """Hands on what has changed since: an action of an operator may have found the old plugin."""
        for old, new, handed in self._handed:
            now = OperatorSettings.of(old)
            if now != handed:
                now.apply(new)
