"""Pipelines: the order of their layers, and what a pipeline takes over from the one before."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from goplugins.errors import BulkheadFullError, InvalidConfigError, PluginUnavailableError, RateLimitExceededError
from goplugins.pipeline.hedging import hedge_pool
from goplugins.pipeline.pipeline import Pipeline
from goplugins.runtime.clock import SystemClock
from goplugins.testing import ManualClock

from .fakes import FakeSender, Latch, guarded, make_call, make_shared, plugin_config

BREAKER = {"failure_threshold": 2, "min_request_threshold": 1}
LIMIT = {"enabled": True, "requests_per_second": 0.001, "burst_size": 5}
FULL: dict[str, Any] = {
    "retry": {"max_retries": 0, "idempotent": True},
    "circuit_breaker": BREAKER,
    "rate_limit": LIMIT,
    "bulkhead": {"max_concurrent": 2},
    "cache": {"ttl": 10, "stale_if_error": 60},
    "fallback": {"value": "fallback"},
}


def layers(run: Any) -> list[str]:
    """The classes of the layers, outermost first."""
    found = []
    while run is not None:
        layer = run.__self__
        found.append(type(layer).__name__)
        run = getattr(layer, "_inner", None)
    return found


def build(**sections: Any) -> Pipeline:
    return Pipeline.build(plugin_config(**sections), FakeSender(), make_shared())


def test_the_order_of_all_layers() -> None:
    pipeline = build(**FULL)
    assert layers(pipeline.run) == ["FallbackLayer", "CacheLayer", "BulkheadLayer", "RetryLayer", "Attempt"]
    assert layers(pipeline.run_as_member) == ["BulkheadLayer", "Attempt"]


def test_layers_that_are_not_configured_do_not_exist() -> None:
    pipeline = build()
    assert layers(pipeline.run) == ["RetryLayer", "Attempt"]
    assert layers(pipeline.run_as_member) == ["Attempt"]
    assert (pipeline.limiter, pipeline.bulkhead, pipeline.cache, pipeline.hedger) == (None, None, None, None)


def test_policies_keep_their_state() -> None:
    shared, sender, pool = make_shared(), FakeSender(), hedge_pool()
    hedge = {"hedge": {"enabled": True, "percentile": 0.9}, "transport": "unix", "endpoint": "/run/p"}
    before = Pipeline.build(plugin_config(**FULL, **hedge), sender, shared, hedge_pool=pool)
    assert before.run(make_call(shared.clock, idempotent=True)) == "ok"
    before.breaker.acquire().failure()
    assert before.hedger is not None
    for _ in range(40):
        before.hedger.policy.record(0.25)
    sections = {
        **FULL,
        "circuit_breaker": {**BREAKER, "recovery_timeout": 5},
        "rate_limit": {**LIMIT, "burst_size": 9},
        "cache": {"ttl": 20, "stale_if_error": 60},
        "fallback": {"value": "another"},
    }
    hedge["hedge"] = {"enabled": True, "percentile": 0.8}
    after = Pipeline.build(plugin_config(**sections, **hedge), sender, shared, hedge_pool=pool, keep=before)
    assert after.limiter is not None
    assert after.limiter.tokens == 4
    assert after.hedger is not None
    assert after.hedger.policy.delay() == 0.25
    call = make_call(shared.clock, idempotent=True)
    assert (after.run(call), call.source) == ("ok", "cache")
    shared.clock.advance(15.0)  # the new ttl holds for what was stored before, too
    assert after.run(make_call(shared.clock, idempotent=True)) == "ok"
    assert len(sender.sent) == 1
    after.breaker.acquire().failure()
    assert str(after.breaker.state) == "open"


def test_a_shorter_ttl_and_fewer_entries_apply_to_existing_entries() -> None:
    shared, sender = make_shared(), FakeSender()
    sections = {"retry": {"idempotent": True}, "cache": {"ttl": 100}}
    before = Pipeline.build(plugin_config(**sections), sender, shared)
    for key in ("a", "b", "c"):
        before.run(make_call(shared.clock, idempotent=True, key=key))
    sections["cache"] = {"ttl": 10, "max_entries": 2}
    after = Pipeline.build(plugin_config(**sections), sender, shared, keep=before)
    assert after.cache is not None
    assert len(after.cache) == 2
    shared.clock.advance(11.0)
    after.run(make_call(shared.clock, idempotent=True, key="c"))
    assert len(sender.sent) == 4


def test_other_vary_headers_empty_the_cache() -> None:
    shared, sender = make_shared(), FakeSender()
    sections = {"retry": {"idempotent": True}, "cache": {"ttl": 100}}
    before = Pipeline.build(plugin_config(**sections), sender, shared)
    before.run(make_call(shared.clock, idempotent=True))
    sections["cache"] = {"ttl": 100, "vary_headers": ["X-Tenant"]}
    after = Pipeline.build(plugin_config(**sections), sender, shared, keep=before)
    after.run(make_call(shared.clock, idempotent=True))
    assert len(sender.sent) == 2


def test_a_pipeline_that_can_not_be_built_changes_nothing() -> None:
    plugin = guarded(FakeSender(), **FULL)
    before = plugin.pipeline
    sections = {**FULL, "bulkhead": {"max_concurrent": 7}, "fallback": {"value": threading.Lock()}}
    with pytest.raises(InvalidConfigError, match="can't be copied"):
        plugin.reconfigure(plugin_config(**sections))
    assert plugin.pipeline is before
    assert before.bulkhead is not None
    assert before.bulkhead.limit == 2


def test_a_call_ends_on_the_pipeline_that_it_began_with() -> None:
    clock = ManualClock()
    retry = {"max_retries": 1, "idempotent": True, "random_jitter": False}

    def fail(call: Any) -> Any:
        plugin.reconfigure(plugin_config(retry={"max_retries": 0}))
        raise PluginUnavailableError("down")

    sender = FakeSender(fail)
    plugin = guarded(sender, clock, retry=retry, fallback={"value": "fallback"})
    assert plugin.call(make_call(clock, idempotent=True)) == "ok"
    assert len(sender.sent) == 2


def test_a_bulkhead_that_is_removed_admits_the_calls_that_wait() -> None:
    clock = ManualClock(auto_advance=False)
    plugin = guarded(FakeSender(), clock, bulkhead={"max_concurrent": 1, "max_waiting": 1})
    bulkhead = plugin.pipeline.bulkhead
    assert bulkhead is not None
    held = bulkhead.acquire()
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(plugin.call(make_call(clock))))
    waiting.start()
    clock.wait_for_waiters(1)
    with pytest.raises(BulkheadFullError):
        plugin.call(make_call(clock))
    plugin.reconfigure(plugin_config())
    waiting.join(10)
    assert answers == ["ok"]
    bulkhead.release(held)
    assert plugin.metrics().refused_bulkhead == 1


def test_no_sequence_of_reloads_lets_more_calls_in_than_the_bulkhead_admits() -> None:
    latch, clock = Latch(), ManualClock()
    plugin = guarded(FakeSender(default=latch), clock, bulkhead={"max_concurrent": 3})
    answers: list[Any] = []

    def start(count: int) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=lambda: answers.append(plugin.call(make_call(clock))), daemon=True)
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
            assert latch.entered.acquire(timeout=10)
        return threads

    threads = start(2)
    plugin.reconfigure(plugin_config())
    threads += start(1)  # without a limit: it counts once there is one again
    plugin.reconfigure(plugin_config(bulkhead={"max_concurrent": 3}))
    with pytest.raises(BulkheadFullError, match="limit of 3 calls"):
        plugin.call(make_call(clock))
    before = plugin.pipeline
    plugin.reconfigure(plugin_config())
    plugin.reconfigure(before.config, keep=before)
    plugin.reconfigure(plugin_config(bulkhead={"max_concurrent": 4}))
    threads += start(1)
    with pytest.raises(BulkheadFullError, match="limit of 4 calls"):
        plugin.call_as_member(make_call(clock))
    latch.gate.set()
    for thread in threads:
        thread.join(10)
    assert answers == ["ok"] * 4
    assert plugin.pipeline.bulkhead is not None
    assert plugin.pipeline.bulkhead.in_use == 0


def test_the_bulkhead_limit_holds_while_its_section_is_removed_and_added() -> None:
    limited = plugin_config(bulkhead={"max_concurrent": 3, "max_waiting": 100})
    lock, stop = threading.Lock(), threading.Event()
    running = most = 0

    def work(call: Any) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return "ok"

    plugin = guarded(FakeSender(default=work), SystemClock(), bulkhead={"max_concurrent": 3, "max_waiting": 100})

    def calls() -> None:
        while not stop.is_set():
            plugin.call(make_call(plugin.clock))

    threads = [threading.Thread(target=calls) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            plugin.reconfigure(plugin_config())
            time.sleep(0.02)
            plugin.reconfigure(limited)
            bulkhead = plugin.pipeline.bulkhead
            assert bulkhead is not None
            until = time.monotonic() + 10
            while bulkhead.in_use > 3 and time.monotonic() < until:
                time.sleep(0.001)
            with lock:
                most = running
            time.sleep(0.03)
            while not most and time.monotonic() < until:  # the machine may have run none of the threads meanwhile
                time.sleep(0.001)
            assert 0 < most <= 3
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert plugin.metrics().requests_failure == 0


def test_a_limiter_disabled_for_a_while_grants_no_second_burst() -> None:
    plugin = guarded(FakeSender(), rate_limit=LIMIT)
    for _ in range(5):
        plugin.call(make_call(plugin.clock))
    plugin.reconfigure(plugin_config())
    assert plugin.pipeline.limiter is None
    plugin.call(make_call(plugin.clock))
    plugin.reconfigure(plugin_config(rate_limit=LIMIT))
    with pytest.raises(RateLimitExceededError):
        plugin.call(make_call(plugin.clock))


def test_a_sender_that_is_replaced_during_a_reload_stays() -> None:
    plugin = guarded(FakeSender(default="before"))
    wrapped = FakeSender(default="after")

    class Value:
        """Its copy is made when the pipeline is built: at that time another thread replaces the sender."""

        def __reduce__(self) -> Any:
            plugin.replace_sender(lambda present: wrapped)
            return str, ("fallback",)

    plugin.reconfigure(plugin_config(bulkhead={"max_concurrent": 7}, fallback={"value": Value()}))
    assert plugin.sender is wrapped
    assert plugin.call(make_call(plugin.clock)) == "after"
    assert plugin.config.bulkhead is not None
    assert plugin.config.bulkhead.max_concurrent == 7


def test_a_reload_during_the_replacement_of_a_sender_stays() -> None:
    plugin = guarded(FakeSender(default="before"))
    wrapped = FakeSender(default="after")

    def change(present: Any) -> Any:
        if plugin.config.bulkhead is None:
            plugin.reconfigure(plugin_config(bulkhead={"max_concurrent": 7}))
        return wrapped

    plugin.replace_sender(change)
    assert plugin.sender is wrapped
    assert plugin.pipeline.bulkhead is not None
    assert plugin.pipeline.bulkhead.limit == 7


def test_a_rollback_returns_to_the_earlier_pipelines_policies() -> None:
    sender = FakeSender()
    plugin = guarded(sender, **FULL)
    before = plugin.pipeline
    plugin.call(make_call(plugin.clock, idempotent=True))
    plugin.reconfigure(plugin_config(rate_limit={"enabled": False}))
    assert plugin.pipeline.cache is None
    plugin.reconfigure(before.config, keep=before)
    after = plugin.pipeline
    assert (after.cache, after.limiter, after.bulkhead) == (before.cache, before.limiter, before.bulkhead)
    assert after.limiter is not None
    assert after.bulkhead is not None
    assert (after.limiter.tokens, after.bulkhead.limit) == (4, 2)
    call = make_call(plugin.clock, idempotent=True)
    assert (plugin.call(call), call.source) == ("ok", "cache")


def test_a_successor_adds_to_the_counts_of_its_predecessor() -> None:
    first = guarded(FakeSender(), **FULL)
    first.call(make_call(first.clock))
    counts = first.counts
    second = type(first)(FakeSender(), None, plugin_config(), clock=first.clock, counts=counts)
    second.call(make_call(first.clock))
    assert second.metrics().requests_success == 2
    assert counts.take().requests_success == 2
    assert counts.metrics().requests_success == 0
