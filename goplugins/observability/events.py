"""What a manager tells those who subscribed: small, typed, without payloads and without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from goplugins.enums import CircuitBreakerState, PluginStatus

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


# These two are made for every call that somebody listens to, and a frozen class takes four times as long to make.
@attrs.define(unsafe_hash=True)
class CallFinished:
    """A call has ended, however.

    Attributes:
        plugin: its name.
        at: when, in seconds since the Unix epoch.
        request_id: the call's.
        elapsed: seconds, with all attempts and waits.
        attempts: how many were sent; 0 if the call was refused here, or answered from a cache.
        source: who answered: "plugin", "fallback", "cache" or "stale".
        member: of a group, the member that answered; else empty.
        error: what it raised; None if it was answered. Mostly a :class:`~goplugins.PluginError`; else what the host
            threw into it, as KeyboardInterrupt or a task's time limit.
        as_member: True for the part that a member had in a group's call, which is told of by an event of its own.
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


@attrs.define(unsafe_hash=True)
class AttemptFinished:
    """One attempt that was sent has ended.

    Attributes:
        plugin: its name.
        at: when, in seconds since the Unix epoch.
        request_id: the call's, the same for all its attempts.
        attempt: its number within the call, from 1; of a hedged call both attempts count from where it stood.
        elapsed: seconds.
        error: why it failed; None if it was answered.
        member: of a group, the member that was asked, where one was; else empty.
    """

    plugin: str
    at: float
    request_id: str
    attempt: int
    elapsed: float
    error: BaseException | None = None
    member: str = ""


@attrs.frozen
class BreakerChanged:
    """A circuit breaker has changed its state.

    Attributes:
        plugin: its name.
        at: when, in seconds since the Unix epoch.
        old: the state before.
        new: the state now.
        retry_after: seconds until it lets a call through, infinite while it is forced open; 0 if it does now.
    """

    plugin: str
    at: float
    old: CircuitBreakerState
    new: CircuitBreakerState
    retry_after: float


@attrs.frozen
class HealthChanged:
    """A plugin's health is seen otherwise than before.

    Attributes:
        plugin: its name.
        at: when, in seconds since the Unix epoch.
        old: its status before.
        new: its status now.
        message: what the look, or the calls that failed, said.
    """

    plugin: str
    at: float
    old: PluginStatus
    new: PluginStatus
    message: str = ""


@attrs.frozen
class MemberEjected:
    """A group sends no calls to one of its members for a while, which ends in one call to probe it.

    Attributes:
        plugin: the group.
        at: when, in seconds since the Unix epoch.
        member: who it is.
        seconds: until the probe.
        ejections: how many it was in a row.
        reason: what the last failure said.
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
        plugin: the group.
        at: when, in seconds since the Unix epoch.
        member: who it is.
    """

    plugin: str
    at: float
    member: str


@attrs.frozen
class PluginAdded:
    """A plugin can be called from now on. What a reload brings is told by :class:`ReloadFinished`.

    Attributes:
        plugin: its name.
        at: when, in seconds since the Unix epoch.
        endpoint: where it is, without credentials; empty for one made in code.
        from_config: whether a configuration asked for it, or code.
    """

    plugin: str
    at: float
    endpoint: str = ""
    from_config: bool = True


@attrs.frozen
class PluginControlled:
    """An operator has said whether a plugin, or a member of a group, takes calls: on the dashboard, for example.

    Attributes:
        plugin: its name.
        at: when, in seconds since the Unix epoch.
        action: "breaker_forced" (open, until it is reset), "breaker_reset", "member_disabled" or "member_enabled".
        member: of a group, which one; else empty.
    """

    plugin: str
    at: float
    action: str
    member: str = ""


@attrs.frozen
class PluginRemoved:
    """A plugin was drained and closed; one of its name may have taken its place.

    Attributes:
        plugin: its name.
        at: when, in seconds since the Unix epoch.
    """

    plugin: str
    at: float


@attrs.frozen
class ReloadFinished:
    """A reload has ended, well or not.

    Attributes:
        at: when, in seconds since the Unix epoch.
        source: the configuration's file, or what else it came from.
        elapsed: seconds.
        report: what became of each plugin; None if it failed.
        error: why it failed, and the running configuration stayed; None if it went well.
        plugin: empty: it speaks of all.
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
"""Anything that a listener may be told of."""
