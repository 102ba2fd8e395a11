"""Results of calls, health checks and breakers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import attrs

from goplugins.enums import CircuitBreakerState, PluginStatus

__all__ = ["CallResult", "CircuitBreakerStats", "HealthStatus"]

Resp = TypeVar("Resp")


@attrs.frozen
class HealthStatus:
    """The result of a health check.

    Attributes:
        status: the plugin's status.
        message: the reason, for people.
        last_check: time of the check in seconds since the Unix epoch; 0 before the first.
        response_time: duration of the check in seconds.
        metadata: details that the plugin reported.
        reported: False if no report of the plugin is behind it: it has none to give, the check failed, or the status
            follows from calls. Calls that are answered outweigh a failed check, but no report.
    """

    status: PluginStatus = PluginStatus.UNKNOWN
    message: str = ""
    last_check: float = 0.0
    response_time: float = 0.0
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    reported: bool = True

    def __setstate__(self, state: Mapping[str, object]) -> None:
        """Also of pickles from before ``reported``."""
        for name, value in {"reported": True, **state}.items():
            object.__setattr__(self, name, value)


@attrs.frozen
class CallResult(Generic[Resp]):
    """A call's answer with details of the call.

    Attributes:
        value: the typed response. An item of ``map_results`` that failed raises its error here.
        source: "plugin", or what answered in its place: "fallback", "cache", "stale", "interceptor".
        attempts: number of attempts.
        elapsed: seconds from start to answer.
        member: the group member that answered, or the plugin's own name.
        request_id: the id under which the call was sent.
        metadata: metadata of the reply.
        error: the error of an item of ``map_results`` that failed.
    """

    _value: Resp | None
    source: str = "plugin"
    attempts: int = 1
    elapsed: float = 0.0
    member: str = ""
    request_id: str = ""
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    error: Exception | None = None

    def __repr__(self) -> str:
        answer = f"value={self._value!r}" if self.error is None else f"error={self.error!r}"
        facts = ((name, getattr(self, name)) for name in ("attempts", "elapsed", "member", "request_id", "metadata"))
        rest = "".join(f", {name}={fact!r}" for name, fact in facts if fact not in ("", {}))
        return f"CallResult({answer}, source={self.source!r}{rest})"

    @property
    def ok(self) -> bool:
        """True if there is a value."""
        return self.error is None

    @property
    def value(self) -> Resp:
        """The typed response; raises :attr:`error` where there is one."""
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]


@attrs.frozen
class Page:
    """One page of a list, as a transport returns it.

    Attributes:
        items: of the page, as the call's response type.
        next: where the next page begins; empty after the last one.
    """

    items: object
    next: str


@attrs.frozen
class CircuitBreakerStats:
    """A breaker's counts since its last reset. ``last_failure`` is in seconds since the Unix epoch; 0 without any."""

    state: CircuitBreakerState
    failure_count: int
    success_count: int
    request_count: int
    last_failure: float
