"""A day of traffic on the manual clock with every consumer attached: memory does not grow."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import random
import tracemalloc

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from goplugins import Manager, ManagerConfig, ObservabilityConfig, PluginConfig, PluginTimeoutError
from goplugins.contrib.opentelemetry import instrument
from goplugins.contrib.prometheus import export
from goplugins.errors import PluginConnectionError, PluginError, PluginExecutionError
from goplugins.observability.metrics_collector import InMemoryCollector
from goplugins.testing import ManualClock

CALLS = 12_000  # one each 7.2 s


class Moody:
    """Answers most calls; takes a random time on the manual clock."""

    def __init__(self, clock):
        self._clock = clock
        self._dice = random.Random(11)

    def info(self):
        raise NotImplementedError

    def health(self, timeout):
        raise NotImplementedError

    def close(self):
        pass

    def execute(self, request, context):
        self._clock.advance(self._dice.lognormvariate(-4.0, 1.0))
        roll = self._dice.random()
        if roll < 0.03:
            raise self._dice.choice([PluginConnectionError, PluginTimeoutError, PluginExecutionError])(str(roll))
        return request


def series(registry, collector):
    lines = generate_latest(registry).decode().splitlines()
    return len(lines) + sum(len(values) for values in collector.get_metrics().values())


@pytest.mark.stress
@pytest.mark.timeout(120)
def test_memory_and_series_do_not_grow_with_the_number_of_calls():
    clock, collector, registry = ManualClock(), InMemoryCollector(), CollectorRegistry()
    received = itertools.count()
    logging.getLogger("goplugins").setLevel(logging.CRITICAL)  # pytest keeps what is logged
    with Manager(clock=clock, rng=random.Random(3)) as manager:
        echo = PluginConfig(name="echo", transport="python", endpoint="tests.integration.observability.plugins:where")
        manager.load_from_config(
            ManagerConfig(plugins=(echo,), observability=ObservabilityConfig(metrics_collector=collector))
        )
        for name in ("one", "two"):
            manager.register(Moody(clock), PluginConfig(name=name))
        export(manager, registry=registry)
        instrument(manager, sample_rate=0.1, meter_provider=MeterProvider([InMemoryMetricReader()]))
        manager.subscribe(lambda event: next(received), buffer=10 * CALLS)

        def traffic(calls):
            for number in range(calls):
                clock.advance(7.2)
                with contextlib.suppress(PluginError):
                    manager.execute("one" if number % 3 else "two", number, idempotent=number % 2 == 0)
                if number % 500 == 0:
                    manager.report()
                    series(registry, collector)

        traffic(CALLS // 4)  # until all series exist
        before = series(registry, collector)
        gc.collect()
        tracemalloc.start()
        try:
            traffic(CALLS // 4)
            gc.collect()
            first = tracemalloc.get_traced_memory()[0]
            traffic(CALLS // 2)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - first
        finally:
            tracemalloc.stop()
        assert series(registry, collector) <= before * 1.1
        assert grown < 200_000, f"{grown / (CALLS // 2):.0f} bytes a call"
        assert manager.metrics().requests_total >= CALLS
    logging.getLogger("goplugins").setLevel(logging.NOTSET)
    assert next(received) > CALLS
