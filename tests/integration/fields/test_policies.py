"""Sections of policies: retry, circuit_breaker, rate_limit, bulkhead, fallback, cache."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins import (
    CircuitBreakerState,
    FallbackConfig,
    Manager,
    PluginConfig,
    PluginConnectionError,
    PluginRequestError,
    PluginTimeoutError,
    RetryConfig,
)
from tests.integration.fields.bench import Bench, Experiment, Scripted, runs

pytestmark = pytest.mark.matrix

ONCE: dict[str, Any] = {"max_retries": 0}


def down() -> PluginConnectionError:
    return PluginConnectionError("no connection")


def fails() -> Any:
    raise down()


# --- retry -----------------------------------------------------------------------------------------------------------


def retried(field: str, **others: Any) -> Any:
    def observe(value: Any) -> Any:
        return Bench(default=fails, retry={**others, field: value}).sent(1)

    return observe


def waited(field: str, **others: Any) -> Any:
    def observe(value: Any) -> Any:
        return Bench(default=fails, retry={"multiplier": 1.0, **others, field: value}).elapsed()

    return observe


def retries_of_many_calls(ratio: float) -> bool:
    """Beyond the reserve of 100, and of 10 a second."""
    retry = {"max_retries": 1, "initial_interval": 0, "budget_ratio": ratio}
    bench = Bench(default=fails, retry=retry, circuit_breaker={"enabled": False})
    return bench.sent(300) - 300 > 200


def timeout_seen(value: float | None) -> float:
    bench = Bench(retry={"attempt_timeout": value})
    bench.call(timeout=30.0)
    return float(bench.plugin.contexts[0].timeout)


RETRY = [
    Experiment("RetryConfig.max_retries", [(0, 1), (2, 3)], retried("max_retries")),
    Experiment("RetryConfig.initial_interval", [(0.1, 0.1), (0.5, 0.5)], waited("initial_interval", max_retries=1)),
    Experiment(
        "RetryConfig.max_interval",
        [(1.0, 1.4), (2.0, 2.4)],
        waited("max_interval", initial_interval=0.4, multiplier=10.0, max_retries=2),
    ),
    Experiment("RetryConfig.multiplier", [(1.0, 0.2), (3.0, 0.4)], waited("multiplier", max_retries=2)),
    Experiment(
        "RetryConfig.random_jitter",
        [(False, {0.1}), (True, set())],
        lambda value: {waited("random_jitter", max_retries=1)(value) for _ in range(3)} & {0.1},
    ),
    Experiment(
        "RetryConfig.idempotent",
        [(False, 1), (True, 2)],
        lambda value: Bench(PluginTimeoutError("late"), retry={"idempotent": value}).sent(1),
    ),
    Experiment("RetryConfig.budget_ratio", [(0.0, False), (1.0, True)], retries_of_many_calls),
    Experiment("RetryConfig.attempt_timeout", [(None, 30.0), (2.0, 2.0)], timeout_seen),
    Experiment(
        "RetryConfig.statuses",
        [(None, 1), ([409], 2)],
        lambda value: Bench(
            PluginRequestError("taken", details={"status": 409}), retry={"statuses": value, "idempotent": True}
        ).sent(1),
    ),
]


# --- circuit_breaker -------------------------------------------------------------------------------------------------


def admitted(field: str, **others: Any) -> Any:
    """How many of ten failing calls are sent."""

    def observe(value: Any) -> Any:
        breaker = {"failure_threshold": 5, "min_request_threshold": 1, **others, field: value}
        return Bench(default=fails, retry=ONCE, circuit_breaker=breaker).sent(10)

    return observe


def open_time(field: str, trips: int = 1, **others: Any) -> Any:
    def observe(value: Any) -> Any:
        breaker = {"failure_threshold": 1, "min_request_threshold": 1, **others, field: value}
        bench = Bench(default=fails, retry=ONCE, circuit_breaker=breaker)
        for _ in range(trips):
            bench.clock.advance(1000)
            bench.call()
        bench.call()
        return round(bench.error.retry_after or 0.0, -1)

    return observe


def probes_until_closed(value: int) -> int:
    breaker = {"failure_threshold": 1, "min_request_threshold": 1, "success_threshold": value}
    bench = Bench(down(), retry=ONCE, circuit_breaker=breaker)
    bench.call()
    bench.clock.advance(1000)
    while bench.manager.explain("p").breaker is not CircuitBreakerState.CLOSED:
        assert bench.call() == "ok"
    return bench.plugin.calls - 1


def opened(*script: Any, pause: float = 0.0, **breaker: Any) -> bool:
    """Whether the last call of the script opens the breaker."""
    rules = {"failure_threshold": 100, "min_request_threshold": 4, "window": 60, **breaker}
    bench = Bench(*script, retry=ONCE, circuit_breaker=rules)
    for _ in script[:-1]:
        bench.call()
    bench.clock.advance(pause)
    bench.call()
    return bench.manager.explain("p").breaker is CircuitBreakerState.OPEN


def slow_calls(**breaker: Any) -> bool:
    rules = {"min_request_threshold": 4, "window": 60, "slow_call_duration": 0.5, "slow_call_rate": 0.5, **breaker}
    bench = Bench(circuit_breaker=rules)
    for seconds in (0.0, 0.0, 1.0, 1.0):
        bench.plugin.script = [lambda seconds=seconds: bench.clock.advance(seconds)]
        bench.call()
    return bench.manager.explain("p").breaker is CircuitBreakerState.OPEN


HALF = ("ok", "ok", down(), down())
FAILED = (down(), down(), down(), down())

BREAKER = [
    Experiment("CircuitBreakerConfig.enabled", [(False, 10), (True, 5)], admitted("enabled")),
    Experiment("CircuitBreakerConfig.failure_threshold", [(2, 2), (4, 4)], admitted("failure_threshold")),
    Experiment("CircuitBreakerConfig.recovery_timeout", [(10.0, 10.0), (50.0, 50.0)], open_time("recovery_timeout")),
    Experiment(
        "CircuitBreakerConfig.min_request_threshold",
        [(1, 1), (3, 3)],
        admitted("min_request_threshold", failure_threshold=1),
    ),
    Experiment("CircuitBreakerConfig.success_threshold", [(1, 1), (3, 3)], probes_until_closed),
    Experiment(
        "CircuitBreakerConfig.max_recovery_timeout",
        [(50.0, 50.0), (500.0, 200.0)],
        lambda value: min(200.0, open_time("max_recovery_timeout", trips=4, recovery_timeout=50.0)(value)),
    ),
    Experiment(
        "CircuitBreakerConfig.window",
        [(5.0, False), (60.0, True)],
        lambda value: opened(*FAILED, pause=20, window=value, failure_rate=0.9),
    ),
    Experiment(
        "CircuitBreakerConfig.failure_rate",
        [(0.5, True), (0.9, False)],
        lambda value: opened(*HALF, failure_rate=value),
    ),
    Experiment(
        "CircuitBreakerConfig.slow_call_duration",
        [(0.5, True), (2.0, False)],
        lambda value: slow_calls(slow_call_duration=value),
    ),
    Experiment(
        "CircuitBreakerConfig.slow_call_rate",
        [(0.5, True), (0.9, False)],
        lambda value: slow_calls(slow_call_rate=value),
    ),
    Experiment("CircuitBreakerConfig.metrics_only", [(False, 5), (True, 10)], admitted("metrics_only")),
]


# --- rate_limit ------------------------------------------------------------------------------------------------------


def limited(field: str, calls: int = 4, pause: float = 0.0, **others: Any) -> Any:
    """How many of some calls are sent within no time, after one and a pause."""

    def observe(value: Any) -> Any:
        limit = {"enabled": True, "requests_per_second": 1, "burst_size": 2, **others, field: value}
        bench = Bench(rate_limit=limit)
        if pause:
            bench.sent(10)
            bench.clock.advance(pause)
        return bench.sent(calls)

    return observe


LIMIT = [
    Experiment("RateLimitConfig.enabled", [(False, 4), (True, 2)], limited("enabled")),
    Experiment("RateLimitConfig.burst_size", [(1, 1), (3, 3)], limited("burst_size")),
    Experiment(
        "RateLimitConfig.requests_per_second",
        [(1.0, 1), (3.0, 3)],
        limited("requests_per_second", pause=1.0, burst_size=10),
    ),
    Experiment(
        "RateLimitConfig.time_window",
        [(1.0, 4), (10.0, 1)],
        limited("time_window", pause=2.0, burst_size=10, requests_per_second=5),
    ),
    Experiment("RateLimitConfig.max_wait", [(0.0, 2), (1.0, 4)], limited("max_wait")),
]


# --- bulkhead --------------------------------------------------------------------------------------------------------


def nested(**bulkhead: Any) -> tuple[int, float]:
    """The depth that calls within calls reach, and the seconds that the refused one has waited."""
    bench = Bench(bulkhead=bulkhead)
    bench.plugin.default = bench.call
    seconds = bench.elapsed(timeout=60.0)
    return bench.plugin.calls, seconds


def limit_after_timeouts(**bulkhead: Any) -> int:
    bench = Bench(retry=ONCE, circuit_breaker={"enabled": False}, bulkhead={"max_concurrent": 10, **bulkhead})
    bench.plugin.default = lambda: late(bench)
    bench.sent(200)
    found = bench.manager._lifecycle.registry.plugins["p"].pipeline.bulkhead
    assert found is not None
    return found.limit


def late(bench: Bench) -> None:
    bench.clock.advance(1.0)
    raise PluginTimeoutError("late")


BULKHEAD = [
    Experiment(
        "BulkheadConfig.max_concurrent", [(1, (1, 0.0)), (3, (3, 0.0))], lambda value: nested(max_concurrent=value)
    ),
    Experiment(
        "BulkheadConfig.max_waiting",
        [(0, (1, 0.0)), (1, (1, 2.0))],
        lambda value: nested(max_concurrent=1, max_waiting=value, **({"max_wait": 2.0} if value else {})),
    ),
    Experiment(
        "BulkheadConfig.max_wait",
        [(2.0, (1, 2.0)), (5.0, (1, 5.0))],
        lambda value: nested(max_concurrent=1, max_waiting=1, max_wait=value),
    ),
    Experiment("BulkheadConfig.adaptive", [(False, 10), (True, 1)], lambda value: limit_after_timeouts(adaptive=value)),
    Experiment(
        "BulkheadConfig.min_concurrent",
        [(1, 1), (4, 4)],
        lambda value: limit_after_timeouts(adaptive=True, min_concurrent=value),
    ),
]


# --- fallback and cache ----------------------------------------------------------------------------------------------


def fallback_of(field: str) -> Any:
    def observe(value: Any) -> Any:
        with Manager() as manager:
            for name in ("other", "another"):
                manager.register(Scripted(default=f"from {name}"), name=name)
            config = PluginConfig(retry=RetryConfig(**ONCE), fallback=FallbackConfig(**{field: value}))
            manager.register(Scripted(down()), config, name="p")
            return manager.execute("p", "request")

    return observe


def limited_with_fallback(on: list[str]) -> Any:
    limit = {"enabled": True, "requests_per_second": 1, "burst_size": 1}
    bench = Bench(rate_limit=limit, fallback={"value": "fallback", "on": on})
    bench.call()
    return bench.call()


def timeout_before_fallback(reserve: float) -> float:
    bench = Bench(fallback={"value": "fallback", "reserve": reserve})
    bench.call(timeout=10.0)
    return float(bench.plugin.contexts[0].timeout)


def cached(requests: str, pause: float = 0.0, **cache: Any) -> int:
    """The number of requests that reach the plugin."""
    bench = Bench(retry={"idempotent": True}, cache={"ttl": 60, **cache})
    for request in requests:
        bench.call(request)
        bench.clock.advance(pause)
    return bench.plugin.calls


def stale(seconds: float) -> Any:
    cache = {"ttl": 1, "stale_if_error": seconds}
    bench = Bench("old", default=fails, retry={"idempotent": True, **ONCE}, cache=cache)
    bench.call()
    bench.clock.advance(5)
    return bench.call()


def varied(headers: list[str]) -> int:
    bench = Bench(retry={"idempotent": True}, cache={"ttl": 60, "vary_headers": headers})
    for language in ("de", "en"):
        bench.call("x", headers={"Accept-Language": language})
    return bench.plugin.calls


ANSWERS = [
    Experiment("FallbackConfig.plugin", [("other", "from other"), ("another", "from another")], fallback_of("plugin")),
    Experiment("FallbackConfig.value", [("x", "x"), (None, None)], fallback_of("value")),
    Experiment(
        "FallbackConfig.function",
        [
            (lambda request, _: request, "request"),
            (lambda _, error: type(error).__name__, "PluginConnectionError"),
        ],
        fallback_of("function"),
    ),
    Experiment(
        "FallbackConfig.on", [([], "RateLimitExceededError"), (["rate-limit"], "fallback")], limited_with_fallback
    ),
    Experiment("FallbackConfig.reserve", [(0.0, 10.0), (3.0, 7.0)], timeout_before_fallback),
    Experiment("CacheConfig.ttl", [(1.0, 3), (60.0, 1)], lambda value: cached("aaa", pause=2, ttl=value)),
    Experiment("CacheConfig.max_entries", [(1, 4), (2, 2)], lambda value: cached("abab", max_entries=value)),
    Experiment("CacheConfig.stale_if_error", [(0.0, "PluginConnectionError"), (60.0, "old")], stale),
    Experiment("CacheConfig.vary_headers", [([], 1), (["Accept-Language"], 2)], varied),
]

EXPERIMENTS = [*RETRY, *BREAKER, *LIMIT, *BULKHEAD, *ANSWERS]


@runs(EXPERIMENTS)
def test_a_field_changes(observe: Any, value: Any, seen: Any) -> None:
    assert observe(value) == seen
