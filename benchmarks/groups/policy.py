"""Cost of the policies: calls of a plugin that does nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness import Call, Group, Ratio
from benchmarks.messages import Answer, Question, answer_of, question_of
from goplugins import (
    CircuitBreakerConfig,
    CircuitBreakerOpenError,
    ExecutionContext,
    HealthCheckConfig,
    HealthStatus,
    Manager,
    PluginConfig,
    PluginError,
    PluginInfo,
    RateLimitConfig,
    RetryConfig,
)

__all__ = ["GROUP"]

_OURS = "goplugins: no-op, all policies on"
_REFUSED = "goplugins: refused by an open breaker"
_BY_HAND = "by hand: pybreaker + tenacity + limits"
_DECORATED = "by hand, as decorators"

GROUP = Group(
    name="policy",
    title="Policy path: a plugin object that does nothing",
    clock=time.thread_time,
    timing="CPU time of the thread",
    ratios=(
        Ratio("no-op plugin, all policies on, vs pybreaker + tenacity + limits by hand", _OURS, _BY_HAND, 0.30),
        Ratio("the same vs the stack as decorators", _OURS, _DECORATED),
        Ratio("a refused call (open breaker) vs a successful no-op call", _REFUSED, _OURS, 1.5),
    ),
)

_QUESTION, _ANSWER = question_of(64), answer_of(64)


class _NoOp:
    """Plugin that returns a constant."""

    def info(self) -> PluginInfo:
        return PluginInfo("noop")

    def execute(self, request: Question, context: ExecutionContext, /) -> Answer:
        return _ANSWER

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus()

    def close(self) -> None:
        pass


class _Failing(_NoOp):
    def execute(self, request: Question, context: ExecutionContext, /) -> Answer:
        raise ConnectionError("down")


def _config(**breaker: Any) -> PluginConfig:
    return PluginConfig(
        name="noop",
        retry=RetryConfig(max_retries=3),
        circuit_breaker=CircuitBreakerConfig(failure_threshold=5, **breaker),
        rate_limit=RateLimitConfig(enabled=True, requests_per_second=1e9, burst_size=1_000_000),
        health_check=HealthCheckConfig(enabled=False),
    )


@contextlib.contextmanager
def _manager(plugin: Any, config: PluginConfig) -> Iterator[Manager[Question, Answer]]:
    with Manager(Question, Answer) as manager:
        manager.register(plugin, config)
        yield manager


@GROUP.row("bare function call")
def _(_: object) -> Iterator[Call]:
    plugin, context = _NoOp(), ExecutionContext()
    yield lambda: plugin.execute(_QUESTION, context)


@GROUP.row(_OURS)
def _(_: object) -> Iterator[Call]:
    with _manager(_NoOp(), _config()) as manager:
        execute = manager.execute
        yield lambda: execute("noop", _QUESTION)


@GROUP.row("goplugins: bound, with timeout=2")
def _(_: object) -> Iterator[Call]:
    with _manager(_NoOp(), _config()) as manager:
        noop = manager.bind("noop")
        yield lambda: noop(_QUESTION, timeout=2)


@GROUP.row("goplugins: no-op, failure rate over a window, too")
def _(_: object) -> Iterator[Call]:
    with _manager(_NoOp(), _config(window=10.0, failure_rate=0.5)) as manager:
        execute = manager.execute
        yield lambda: execute("noop", _QUESTION)


@GROUP.row(_REFUSED)
def _(_: object) -> Iterator[Call]:
    with _manager(_Failing(), _config(min_request_threshold=1, recovery_timeout=3600.0)) as manager:
        for _ in range(5):
            with contextlib.suppress(PluginError):
                manager.execute("noop", _QUESTION, ExecutionContext(max_retries=0))

        def refused() -> None:
            try:
                manager.execute("noop", _QUESTION)
            except CircuitBreakerOpenError:
                return
            raise AssertionError("a call got through although the breaker should be open")

        yield refused


def _retry_settings() -> dict[str, Any]:
    import tenacity

    return {
        "stop": tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(30),
        "wait": tenacity.wait_exponential_jitter(0.1, 5),
        "retry": tenacity.retry_if_exception_type((ConnectionError, TimeoutError)),
        "reraise": True,
    }


def _rate_limit() -> Callable[[], bool]:
    import limits

    limiter = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())  # the cheapest strategy
    limit = limits.RateLimitItemPerSecond(1_000_000_000)
    return lambda: limiter.hit(limit, "noop")


@GROUP.row(_BY_HAND)
def _(_: object) -> Iterator[Call]:
    import pybreaker
    import tenacity

    plugin, context, may_call = _NoOp(), ExecutionContext(), _rate_limit()
    breaker: Any = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)
    retrying = tenacity.Retrying(**_retry_settings())

    def attempt() -> object:
        if not may_call():
            raise RuntimeError("too many calls")
        return breaker.call(plugin.execute, _QUESTION, context)

    yield lambda: retrying(attempt)


@GROUP.row(_DECORATED)
def _(_: object) -> Iterator[Call]:
    import pybreaker
    import tenacity

    plugin, context, may_call = _NoOp(), ExecutionContext(), _rate_limit()
    breaker: Any = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)

    def attempt(question: Question) -> Answer:
        if not may_call():
            raise RuntimeError("too many calls")
        return plugin.execute(question, context)

    decorated: Any = tenacity.retry(**_retry_settings())(breaker(attempt))
    yield lambda: decorated(_QUESTION)


@GROUP.row("tenacity alone")
def _(_: object) -> Iterator[Call]:
    import tenacity

    plugin, context = _NoOp(), ExecutionContext()
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(4), reraise=True)
    yield lambda: retrying(plugin.execute, _QUESTION, context)


@GROUP.row("taking and leaving a lock")
def _(_: object) -> Iterator[Call]:
    lock = threading.Lock()

    def locked() -> None:
        with lock:
            pass

    yield locked
