"""What a group needs of a member, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from goplugins.enums import PluginStatus
from goplugins.runtime.call import Call

__all__ = ["Member", "Selection"]


class Member(Protocol):
    """One instance of a group, behind its own gate, breaker and limiter. Used by many threads at once.

    The group may ask ``retry_after``, ``admits`` and ``status`` with its own lock held: they are quick, and call
    nobody.
    """

    name: str

    def call_as_member(self, call: Call) -> Any:
        """One attempt under the member's own policies; never retries.

        Raises:
            PluginError: what went wrong. The refusals of its gate, breaker and limiter and a SaturatedError say that
                nothing was sent.
        """
        ...

    def retry_after(self) -> float:
        """Seconds until its breaker admits a call at the latest; 0 if it does now, infinite while forced open."""
        ...

    def admits(self) -> bool:
        """Whether its breaker would admit a call now, and its gate is open."""
        ...

    def status(self) -> PluginStatus:
        """Its health as last seen; asks nobody."""
        ...

    def subscribe(self, callback: Callable[[], object], /) -> object:
        """Has ``callback`` called, outside all locks, when the state of its breaker or its health has changed.

        Returns:
            A function without arguments that ends it, or None.
        """
        ...


class Selection(NamedTuple):
    """What ``select_plugin`` found.

    Attributes:
        name: the member's.
        plugin: what was added under that name.
    """

    name: str
    plugin: Any
