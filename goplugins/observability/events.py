"""Events of a manager: small and typed, without payloads and without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from goplugins.enums import CircuitBreakerState, PluginStatus
from goplugins.models.new_fields import with_new_fields

if TYPE_CHECKING:
    from goplugins.observability.reload_report import ReloadReport

__all__ = [
    "AttemptFinished",
    "BreakerChanged",
    "CallFinished",
    "Event",
    "HealthChanged",
    "MemberEjected",
    "MemberReturned",
    "PluginAdded",
    "PluginControlled",
    "PluginRemoved",
    "ReloadFinished",
]


# These two are created for every call if there is a sink; a frozen class takes four times as long to create.
@with_new_fields
@attrs.define(unsafe_hash=True)
class CallFinished:
    """A call has ended, with an answer or an error.

    Attributes:
        plugin: the plugin's name.
        at: when, in seconds since the Unix epoch.
        request_id: the call's request id.
        elapsed: seconds, with all attempts and waits.
        attempts: how many were sent; 0 if the call was refused on this side, or answered from a cache.
        source: the source of the answer: "plugin", "fallback", "cache" or "stale".
        member: the group's member that answered; empty for other plugins.
        error: what the call raised; None if it was answered. A :class:`~goplugins.PluginError`, or an exception that
            the host raised in the call, such as KeyboardInterrupt or a task's time limit.
        as_member: True for a member's part in a call of its group; the group's call has an event of its own.
        operation: the operation of the plugin, as the caller named it; empty for a plugin with one function.
    """

    plugin: str
    at: float
    request_id: str
    elapsed: float
    attempts: int
    source: str = "plugin"
    member: str = ""
    error: BaseException | None = None
    as_member: bool = False
    operation: str = ""


@with_new_fields
@attrs.define(unsafe_hash=True)
class AttemptFinished:
    """One attempt that was sent has ended.

    Attributes:
        plugin: the plugin's name.
        at: when, in seconds since the Unix epoch.
        request_id: the call's request id, the same for all its attempts.
        attempt: its number within the call, from 1; two hedged attempts have the same number.
        elapsed: seconds.
        error: why it failed; None if it was answered.
        member: the group's member that it was sent to, if any; empty for other plugins.
        operation: as in :class:`CallFinished`.
    """

    plugin: str
    at: float
    request_id: str
    attempt: int
    elapsed: float
    error: BaseException | None = None
    member: str = ""
    operation: str = ""


@attrs.frozen
class BreakerChanged:
    """The state of a circuit breaker has changed.

    Attributes:
        plugin: the plugin's name.
        at: when, in seconds since the Unix epoch.
        old: the state before.
        new: the state now.
        retry_after: seconds until it admits a call; 0 if it does now, infinite while it is forced open.
    """

    plugin: str
    at: float
    old: CircuitBreakerState
    new: CircuitBreakerState
    retry_after: float


@attrs.frozen
class HealthChanged:
    """The health of a plugin has changed.

    Attributes:
        plugin: the plugin's name.
        at: when, in seconds since the Unix epoch.
        old: its status before.
        new: its status now.
        message: the message of the health check, or of the failed calls.
    """

    plugin: str
    at: float
    old: PluginStatus
    new: PluginStatus
    message: str = ""


@attrs.frozen
class MemberEjected:
    """A group has ejected a member: it gets no calls for a while, and then one call that probes it.

    Attributes:
        plugin: the group's name.
        at: when, in seconds since the Unix epoch.
        member: the member's name.
        seconds: until the probe.
        ejections: in a row, this one included.
        reason: the last failure.
    """

    plugin: str
    at: float
    member: str
    seconds: float
    ejections: int
    reason: str = ""


@attrs.frozen
class MemberReturned:
    """An ejected member has passed its probe and takes calls again, few at first.

    Attributes:
        plugin: the group's name.
        at: when, in seconds since the Unix epoch.
        member: the member's name.
    """

    plugin: str
    at: float
    member: str


@attrs.frozen
class PluginAdded:
    """A plugin was added. For plugins of a reload see :class:`ReloadFinished`.

    Attributes:
        plugin: the plugin's name.
        at: when, in seconds since the Unix epoch.
        endpoint: its endpoint without credentials; empty for a plugin object.
        from_config: True if it comes from the configuration, False if it was registered in code.
    """

    plugin: str
    at: float
    endpoint: str = ""
    from_config: bool = True


@attrs.frozen
class PluginControlled:
    """An operator has enabled or disabled a plugin or a member of a group, on the dashboard for example.

    Attributes:
        plugin: the plugin's name.
        at: when, in seconds since the Unix epoch.
        action: "breaker_forced" (open, until it is closed), "breaker_closed", "breaker_reset", "member_disabled",
            "member_enabled" or "health_checked".
        member: the group's member; empty if the action is on a plugin.
    """

    plugin: str
    at: float
    action: str
    member: str = ""


@attrs.frozen
class PluginRemoved:
    """A plugin was drained and closed; a successor of the same name may have replaced it.

    Attributes:
        plugin: the plugin's name.
        at: when, in seconds since the Unix epoch.
    """

    plugin: str
    at: float


@attrs.frozen
class ReloadFinished:
    """A reload has succeeded or failed.

    Attributes:
        at: when, in seconds since the Unix epoch.
        source: the configuration's file, or "configuration" if it was no file.
        elapsed: seconds.
        report: the outcome for each plugin; None if the reload failed.
        error: why the reload failed (the running configuration stays); None if it succeeded.
        plugin: always empty: the event is about all plugins.
    """

    at: float
    source: str
    elapsed: float
    report: ReloadReport | None = None
    error: BaseException | None = None
    plugin: str = ""


Event: TypeAlias = (
    CallFinished
    | AttemptFinished
    | BreakerChanged
    | HealthChanged
    | MemberEjected
    | MemberReturned
    | PluginAdded
    | PluginControlled
    | PluginRemoved
    | ReloadFinished
)
"""Any event."""
