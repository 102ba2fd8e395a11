"""Faults to inject on purpose: the section of a plugin's configuration that rehearses failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, TypeAlias, cast

import attrs

from goplugins.config.field_types import Duration, SecondsOrZero, Share, Whole, kind_of
from goplugins.config.problems import Problems, raise_for
from goplugins.config.schema import sparse_repr
from goplugins.errors import InvalidConfigError

__all__ = ["FAULTS", "ChaosConfig", "check_chaos"]

FAULTS = ("error", "refuse", "reset", "garbage", "hang")
"""The faults of which an attempt meets one at most; their shares add up."""

_SAY_WHEN = (429, 503)

Span: TypeAlias = tuple[float, float]


@attrs.frozen
class _SpanRule:
    """One duration, or two as a list: the shortest and the longest."""

    def read(self, value: object, *, text: bool) -> Span:
        each = Duration(zero=True)
        if not isinstance(value, list | tuple):
            seconds = each.read(value, text=text)
            return seconds, seconds
        fix = "write one duration, or two: [shortest, longest]"
        if len(value) != 2:
            raise InvalidConfigError(f"expected two durations, got {kind_of(value)} of {len(value)}", fix=fix)
        low, high = (each.read(item, text=text) for item in value)
        if low > high:
            raise InvalidConfigError("the first duration is longer than the second", fix=fix)
        return low, high


def _as_span(value: float | Sequence[float] | None) -> Span | None:
    """A pair of one number or of a list; anything else stays, for ``validate`` to name."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value, value
    return cast("Span | None", tuple(value) if isinstance(value, list) else value)


@attrs.frozen(kw_only=True, repr=False)
class ChaosConfig:
    """Faults injected between a plugin's policies and its wire, so that an application can rehearse them.

    ``latency`` and each fault are shares of the attempts, 0 to 1. Whether an attempt is late is drawn by itself; of
    the faults it meets one at most, so that their shares may add up to 1.

    Attributes:
        enabled: must be said: true injects, false keeps the section for another day.
        seed: the same seed meets the same attempts with the same faults, counted by plugin and process; a new one
            each time when left out.
        latency: share of attempts that wait before anything is sent.
        delay: how long they wait, in seconds; a pair draws between the two.
        error: share of attempts that are answered with ``status``; nothing is sent.
        status: an HTTP status, on other wires what it means there; 500 when left out.
        retry_after: seconds that a 429 or 503 asks for.
        refuse: share of attempts that find no connection; nothing is sent.
        reset: share of attempts that are sent, and whose connection breaks before the answer.
        garbage: share of attempts that are sent, and whose answer can't be read.
        hang: share of attempts that are sent, and not answered before the deadline.
        health: whether looks at the plugin's health meet the same, drawn apart from the attempts.

    >>> ChaosConfig(enabled=True, seed=7, latency=0.2, delay=(0.1, 2.0), error=0.1, status=503)
    ChaosConfig(enabled=True, seed=7, latency=0.2, delay=(0.1, 2.0), error=0.1, status=503)
    """

    enabled: bool | None = None
    seed: int | None = None
    latency: Share | None = None
    delay: Annotated[Span, _SpanRule()] | None = attrs.field(default=None, converter=_as_span)
    error: Share | None = None
    status: Annotated[int, Whole(low=400, high=599)] | None = None
    retry_after: SecondsOrZero | None = None
    refuse: Share | None = None
    reset: Share | None = None
    garbage: Share | None = None
    hang: Share | None = None
    health: bool | None = None

    __repr__ = sparse_repr

    def validate(self) -> None:
        """Checks types, and that each setting has what it needs to take effect.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        from goplugins.config.conversion import type_problems

        problems = Problems(found=type_problems(self))
        if not problems.found:
            check_chaos(self, problems)
        raise_for(problems.found, "chaos")


def check_chaos(chaos: ChaosConfig, problems: Problems) -> None:
    """What no single field can tell: a rehearsal that does not take place would go unnoticed."""
    given = [name for name in ("latency", *FAULTS) if getattr(chaos, name) is not None]
    if chaos.enabled is None:
        fix = "write enabled: true for faults to be injected, or enabled: false to keep them off"
        problems.add(InvalidConfigError, "missing: chaos has to be asked for", fix, "enabled")
    if chaos.enabled and not given:
        fix = f"set one of latency, {', '.join(FAULTS)} to a share of the attempts, such as 0.1"
        problems.add(InvalidConfigError, "is enabled and has no fault to inject", fix)
    total = math.fsum(getattr(chaos, name) or 0.0 for name in FAULTS)
    if total > 1 + 1e-9:  # so that 0.7, 0.2 and 0.1 are as good as 1
        message = f"{', '.join(name for name in given if name != 'latency')} add up to {total:g}"
        problems.add(InvalidConfigError, message, "lower them to 1 or less: an attempt meets one of them at most")
    _check_parts(chaos, problems)


def _check_parts(chaos: ChaosConfig, problems: Problems) -> None:
    if chaos.latency is not None and chaos.delay is None:
        fix = "set the seconds that a late attempt waits, or [shortest, longest]"
        problems.add(InvalidConfigError, "is required with latency", fix, "delay")
    if chaos.delay is not None and chaos.latency is None:
        fix = "set the share of attempts that wait, such as 0.1"
        problems.add(InvalidConfigError, "is required with delay", fix, "latency")
    if chaos.error is None:
        for name in ("status", "retry_after"):
            if getattr(chaos, name) is not None:
                fix = "set the share of attempts that are answered so, such as 0.1"
                problems.add(InvalidConfigError, f"is required with {name}", fix, "error")
    elif chaos.retry_after is not None and chaos.status not in _SAY_WHEN:
        fix = "write status: 503, or leave retry_after out"
        problems.add(InvalidConfigError, "retry_after needs 429 or 503", fix, "status")
