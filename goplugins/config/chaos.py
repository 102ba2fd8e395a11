"""The section ``chaos`` of a plugin's configuration: faults injected on purpose, to rehearse failures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, TypeAlias, cast

import attrs

from goplugins.config.field_types import Duration, SecondsOrZero, Share, Whole, kind_of
from goplugins.config.problems import Problems, raise_for
from goplugins.config.schema import Section
from goplugins.errors import InvalidConfigError

FAULTS = ("error", "refuse", "reset", "garbage", "hang")
"""Faults of which an attempt gets at most one; the sum of their shares is at most 1."""

_WITH_RETRY_AFTER = (429, 503)

Span: TypeAlias = tuple[float, float]


@attrs.frozen
class _SpanRule:
    """One duration, or a list of two: the shortest and the longest."""

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
    """A pair of a number or a list; any other object stays, for ``validate`` to report."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value, value
    return cast("Span | None", tuple(value) if isinstance(value, list) else value)


@attrs.frozen(kw_only=True, repr=False)
class ChaosConfig(Section):
    """Faults injected between a plugin's policies and its transport, so that an application can rehearse them.

    ``latency`` and each fault are shares of the attempts, 0 to 1. Latency is drawn independently of the faults. Of the
    faults, an attempt gets at most one: the sum of their shares is at most 1.

    Attributes:
        enabled: required: true injects faults, false keeps the section for later use.
        seed: with the same seed, the same attempts get the same faults, counted by plugin and process; random when
            left out.
        latency: share of attempts that are delayed before anything is sent.
        delay: seconds of the delay; of a pair, a random value between the two.
        error: share of attempts that are answered with ``status``; nothing is sent.
        status: an HTTP status, or its equivalent on other transports; 500 when left out.
        retry_after: seconds to wait, sent with a 429 or 503.
        refuse: share of attempts whose connection is refused; nothing is sent.
        reset: share of attempts that are sent, and whose connection breaks before the answer.
        garbage: share of attempts that are sent, and whose answer is not valid.
        hang: share of attempts that are sent, and not answered before the deadline.
        health: whether health checks get the same faults, drawn independently of the attempts.

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
    """Adds settings that contradict each other or have no effect; ``problems`` are those of the section."""
    given = [name for name in ("latency", *FAULTS) if getattr(chaos, name) is not None]
    if chaos.enabled is None:
        fix = "write enabled: true to inject faults, or enabled: false to keep them off"
        problems.add(InvalidConfigError, "is required, since chaos is never enabled by default", fix, "enabled")
    if chaos.enabled and not given:
        fix = f"set one of latency, {', '.join(FAULTS)} to a share of the attempts, such as 0.1"
        problems.add(InvalidConfigError, "is enabled, but has no fault to inject", fix)
    total = math.fsum(getattr(chaos, name) or 0.0 for name in FAULTS)
    if total > 1 + 1e-9:  # rounding: the sum of 0.7, 0.2 and 0.1
        message = f"{', '.join(name for name in given if name != 'latency')} add up to {total:g}"
        problems.add(InvalidConfigError, message, "lower them to a sum of 1 or less: an attempt gets at most one fault")
    _check_parts(chaos, problems)


def _check_parts(chaos: ChaosConfig, problems: Problems) -> None:
    if chaos.latency is not None and chaos.delay is None:
        fix = "set the seconds by which an attempt is delayed, or [shortest, longest]"
        problems.add(InvalidConfigError, "is required with latency", fix, "delay")
    if chaos.delay is not None and chaos.latency is None:
        fix = "set the share of attempts that are delayed, such as 0.1"
        problems.add(InvalidConfigError, "is required with delay", fix, "latency")
    if chaos.error is None:
        for name in ("status", "retry_after"):
            if getattr(chaos, name) is not None:
                fix = "set the share of attempts that get this answer, such as 0.1"
                problems.add(InvalidConfigError, f"is required with {name}", fix, "error")
    elif chaos.retry_after is not None and chaos.status not in _WITH_RETRY_AFTER:
        fix = "write status: 503, or leave retry_after out"
        problems.add(InvalidConfigError, "must be 429 or 503 with retry_after", fix, "status")
