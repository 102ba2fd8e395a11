"""The interface between a group and its members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from goplugins.config.operations import OperationConfig
from goplugins.enums import PluginStatus
from goplugins.models.results import HealthStatus
from goplugins.pipeline.attempts import Checker
from goplugins.runtime.call import Call


class Member(Protocol):
    """One instance of a group, with its own in-flight tracker, breaker and limiter. Used by many threads at once.

    The group may call ``retry_after``, ``admits`` and ``status`` while it holds its lock: they are quick, and call
    nothing outside the member.
    """

    name: str

    @property
    def endpoint(self) -> str:
        """Where its calls go, without credentials; empty if that is not known."""
        ...

    @property
    def checker(self) -> Checker | None:
        """Its periodic health checks; None if it has none."""
        ...

    @property
    def operations(self) -> Mapping[str, OperationConfig]:
        """The operations of its configuration, by name, with their defaults; empty if it has none."""
        ...

    def call_as_member(self, call: Call) -> Any:
        """Makes one attempt under the member's own policies; never retries.

        Raises:
            PluginError: the attempt failed. One of kind "refused" that is ``unsent`` leaves the call to others.
        """
        ...

    def retry_after(self) -> float:
        """Seconds until its breaker admits a call at the latest; 0 if it does now, infinite while forced open."""
        ...

    def admits(self) -> bool:
        """Whether it would accept a call now: it is not closed, and its breaker admits calls."""
        ...

    def status(self) -> PluginStatus:
        """The result of its last health check; makes none."""
        ...

    def health(self, timeout: float) -> HealthStatus:
        """Checks its health within ``timeout`` seconds; never raises."""
        ...

    def subscribe(self, callback: Callable[[], object], /) -> Callable[[], object]:
        """Calls ``callback``, outside all locks, whenever its breaker, its health or its acceptance of calls changes.

        Returns:
            A function that ends the subscription.
        """
        ...


class Selection(NamedTuple):
    """The member that ``select_plugin`` has selected.

    Attributes:
        name: its name.
        plugin: what was added under that name.
    """

    name: str
    plugin: Any
