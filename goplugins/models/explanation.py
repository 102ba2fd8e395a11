"""Explanations: why a plugin or a member would or would not get the next call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from goplugins.enums import CircuitBreakerState, LoadBalancingStrategy
from goplugins.models.new_fields import with_new_fields
from goplugins.models.results import HealthStatus

__all__ = ["Explanation", "GroupExplanation", "MemberExplanation"]

_MOST_OPERATIONS = 10
"""Operations that the text names."""


@attrs.frozen
class MemberExplanation:
    """Explains why a member would or would not get the next call.

    Attributes:
        name: the member's name.
        eligible: True if the strategy may pick it now.
        state: "ready", "starting slowly", "disabled", "draining", "closed", "circuit breaker open", "offline",
            "ejected", "about to be probed" or "being probed".
        reason: why it is in that state, or what ends it.
        next_try: seconds until it is tried again; 0 if it is eligible now, None if that is not known.
        weight: its weight.
        priority: its tier.
        share: fraction of its turns that it takes: less than 1 during a slow start.
        active: calls in flight.
        latency: recent latency in seconds as the strategy sees it; None without a measurement.
        failures: failures in a row.
        last_error: code and message of the last failed call.
        last_error_ago: seconds since then.
        endpoint: where its calls go, without credentials; empty if that is not known.
    """

    name: str
    eligible: bool
    state: str
    reason: str
    next_try: float | None
    weight: int
    priority: int
    share: float
    active: int
    latency: float | None
    failures: int
    last_error: str = ""
    last_error_ago: float | None = None
    endpoint: str = ""

    def __str__(self) -> str:
        text = f"{self.name} ({self.endpoint}): {self.state}" if self.endpoint else f"{self.name}: {self.state}"
        if self.reason:
            text += f" ({self.reason})"
        if not self.eligible and self.next_try is not None:
            text += f", next try in {self.next_try:.1f} s"
        text += f", {self.active} in flight"
        if self.latency is not None and self.eligible:  # without calls it decays, and would seem low
            text += f", latency {self.latency * 1000:.1f} ms"
        if self.last_error:
            text += f", last error {self.last_error_ago:.1f} s ago: {self.last_error}"
        return text


@attrs.frozen
class GroupExplanation:
    """The state of a group and its members; ``print`` it.

    Attributes:
        name: the group's name.
        strategy: the load balancing strategy.
        panic: too few members are eligible, so ejection and health are ignored.
        members: the explanation of each member.
        resolution: the last lookup of the host, if the members are its addresses.
    """

    name: str
    strategy: LoadBalancingStrategy
    panic: bool
    members: Sequence[MemberExplanation]
    resolution: str = ""

    def __str__(self) -> str:
        able = sum(member.eligible for member in self.members)
        members = "1 member is" if len(self.members) == 1 else f"{len(self.members)} members are"
        head = f"{self.name} ({self.strategy}): {able} of {members} eligible"
        if self.panic and able:
            head += "; too few are healthy, so ejection and health are ignored (panic)"
        if self.members and not able:
            soonest = min((member.next_try for member in self.members if member.next_try is not None), default=None)
            head += (
                "; none is tried again until an operator acts" if soonest is None else f"; next try in {soonest:.1f} s"
            )
        if self.resolution:
            head += f"\n  {self.resolution}"
        return "\n".join([head, *(f"  {member}" for member in self.members)])


@with_new_fields
@attrs.frozen
class Explanation:
    """Explains why a plugin would or would not take the next call; ``print`` it.

    Attributes:
        name: the plugin's name.
        admits: True if a call made now would be sent.
        reason: why it would not be sent, and until when; empty if it would.
        endpoint: where calls go, without credentials.
        breaker: the circuit breaker's state.
        health: the result of the last health check.
        tokens: calls that the rate limiter would admit at once; None without a limiter.
        in_flight: calls in flight.
        last_error: code and message of the last failed call.
        last_error_ago: seconds since then.
        annotations: the annotations of the plugin's configuration.
        chaos: the injected faults; empty if there are none.
        group: the explanation of a group's members; None for other plugins.
        operations: the configured operations: of each its method and path, as far as it has them.
    """

    name: str
    admits: bool
    reason: str
    endpoint: str
    breaker: CircuitBreakerState
    health: HealthStatus
    tokens: float | None
    in_flight: int
    last_error: str = ""
    last_error_ago: float | None = None
    annotations: Mapping[str, str] = attrs.field(factory=dict)
    chaos: str = ""
    group: GroupExplanation | None = None
    operations: Mapping[str, str] = attrs.field(factory=dict)

    def __str__(self) -> str:
        where = "a group" if self.group is not None else self.endpoint or "in this process"
        # A group has no breaker of its own.
        state = "" if self.group is not None else f"circuit breaker {self.breaker}, health {self.health.status}, "
        lines = [
            f"{self.name} ({where}): " + ("takes calls" if self.admits else f"takes no calls: {self.reason}"),
            f"  {state}{self.in_flight} in flight"
            + ("" if self.tokens is None else f", rate limiter has {self.tokens:.0f} tokens"),
        ]
        if self.last_error:
            lines.append(f"  last error {self.last_error_ago:.1f} s ago: {self.last_error}")
        if self.group is not None:
            lines += [f"  {line}" for line in str(self.group).splitlines()]
        if self.operations:
            more = len(self.operations) - _MOST_OPERATIONS
            names = ", ".join(list(self.operations)[:_MOST_OPERATIONS]) + (f" and {more} more" if more > 0 else "")
            lines.append(f"  operations: {names}")
        if self.chaos:
            lines.append(f"  chaos is on, faults are injected: {self.chaos}")
        lines += [f"  {key}: {value}" for key, value in self.annotations.items()]
        return "\n".join(lines)
