"""Why a plugin would or would not take the next call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from goplugins.enums import CircuitBreakerState, LoadBalancingStrategy
from goplugins.models.results import HealthStatus

__all__ = ["Explanation", "GroupExplanation", "MemberExplanation"]


@attrs.frozen
class MemberExplanation:
    """Why a member would or would not be given the next call.

    Attributes:
        name: the member.
        eligible: True if the strategy may pick it now.
        state: "ready", "starting slowly", "disabled", "draining", "closed", "circuit breaker open", "offline",
            "ejected", "about to be probed" or "being probed".
        reason: the same in a sentence.
        next_try: seconds until it is tried again; 0 if it may be now, None where nobody knows.
        weight: its weight.
        priority: its tier.
        share: part of its turns that it takes: less than 1 while it starts slowly.
        active: calls under way.
        latency: recent latency in seconds as the strategy sees it; None while nothing was measured.
        failures: failures in a row.
        last_error: the last failed call's code and message.
        last_error_ago: how long ago that was, in seconds.
        endpoint: where its calls go, without credentials; empty where that is not known.
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
        text += f", {self.active} under way"
        if self.latency is not None and self.eligible:  # what nobody confirms fades, and would read as quick
            text += f", latency {self.latency * 1000:.1f} ms"
        if self.last_error:
            text += f", last error {self.last_error_ago:.1f} s ago: {self.last_error}"
        return text


@attrs.frozen
class GroupExplanation:
    """Where a group stands; ``print`` it.

    Attributes:
        name: the group.
        strategy: how it picks.
        panic: too few members are well, so ejection and health don't count for now.
        members: each member's standing.
        resolution: where the members are the addresses of a host: what was found of it, and when.
    """

    name: str
    strategy: LoadBalancingStrategy
    panic: bool
    members: Sequence[MemberExplanation]
    resolution: str = ""

    def __str__(self) -> str:
        able = sum(member.eligible for member in self.members)
        head = f"{self.name} ({self.strategy}): {able} of {len(self.members)} members may take calls"
        if self.panic and able:
            head += "; too few are well, so ejection and health don't count (panic)"
        if self.members and not able:
            soonest = min((member.next_try for member in self.members if member.next_try is not None), default=None)
            head += "; none is tried by itself" if soonest is None else f"; next try by itself in {soonest:.1f} s"
        if self.resolution:
            head += f"\n  {self.resolution}"
        return "\n".join([head, *(f"  {member}" for member in self.members)])


@attrs.frozen
class Explanation:
    """Why a plugin would or would not take the next call; ``print`` it.

    Attributes:
        name: the plugin.
        admits: True if a call made now would be sent.
        reason: what stands in its way, and until when; empty if nothing does.
        endpoint: where calls go, without credentials.
        breaker: the circuit breaker's state.
        health: what the last look found.
        tokens: calls that the rate limiter would admit at once; None without a limiter.
        in_flight: calls under way.
        last_error: the last failed call's code and message.
        last_error_ago: how long ago that was, in seconds.
        annotations: the plugin's own, from its configuration.
        chaos: the faults that are injected; empty if none are.
        group: of a group, where each member stands.
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

    def __str__(self) -> str:
        where = "a group" if self.group is not None else self.endpoint or "in this process"
        # A group has no breaker: its members have theirs.
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
        if self.chaos:
            lines.append(f"  chaos is on, faults are injected: {self.chaos}")
        lines += [f"  {key}: {value}" for key, value in self.annotations.items()]
        return "\n".join(lines)
