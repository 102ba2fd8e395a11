"""prometheus_client's multi-process mode: counts of forked workers add up exactly, and an open breaker shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[3]
WORKERS, CALLS = 4, 250

SCRIPT = f"""
import os, sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from goplugins import Manager, PluginError, serve
from goplugins.contrib.prometheus import export

@serve.plugin(name="even")
def even(number: int) -> int:
    if number % 5 == 0:
        raise serve.Rejected("no")
    return number

manager = Manager(int, int)
manager.register(even)
export(manager)
manager.execute("even", 2)  # one in the parent
pids = []
for worker in range({WORKERS}):
    pid = os.fork()
    if not pid:
        for number in range({CALLS}):
            try:
                manager.execute("even", number)
            except PluginError:
                pass
        manager.shutdown()
        os._exit(0)
    pids.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
registry = CollectorRegistry()
MultiProcessCollector(registry)
sys.stdout.buffer.write(generate_latest(registry))
"""


def exposed(script, folder):
    """What the script prints: the metrics of all its processes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return text_string_to_metric_families(done.stdout)


def test_the_sum_over_forked_workers_is_exact(tmp_path):
    totals = {}
    for family in exposed(SCRIPT, tmp_path):
        for sample in family.samples:
            totals[sample.name, sample.labels.get("outcome", sample.labels.get("code", ""))] = sample.value
    refused = WORKERS * len(range(0, CALLS, 5))
    assert totals["goplugins_calls_total", "ok"] == 1 + WORKERS * CALLS - refused
    assert totals["goplugins_calls_total", "rejected"] == refused
    assert totals["goplugins_attempts_total", ""] == 1 + WORKERS * CALLS
    assert totals["goplugins_call_duration_seconds_count", ""] == 1 + WORKERS * CALLS
    assert totals["goplugins_call_errors_total", "PLUGIN_1203"] == refused


BREAKERS = """
import os, sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from goplugins import CircuitBreakerConfig, Manager, PluginConfig, PluginError, serve
from goplugins.contrib.prometheus import export

@serve.plugin(name="p")
def p(fail: bool) -> bool:
    if fail:
        raise ConnectionError("gone")
    return fail

breaker = CircuitBreakerConfig(
    failure_threshold=1, min_request_threshold=1, recovery_timeout=0.001, success_threshold=5
)
manager = Manager(bool, bool)
manager.register(p, PluginConfig(name="p", circuit_breaker=breaker))
export(manager)
gates, pids = [], []
for state in STATES:
    ready, go_on = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        if state == "open":
            manager.control("p").force_open()
        if state == "half-open":
            try:
                manager.execute("p", True)
            except PluginError:
                pass
            while manager.explain("p").breaker == "open":
                try:
                    manager.execute("p", False)
                except PluginError:
                    pass
        assert manager.explain("p").breaker == state
        from goplugins.observability.prometheus import PrometheusFamilies
        from prometheus_client import REGISTRY
        PrometheusFamilies.shared(REGISTRY, "goplugins", ()).refresh()
        os.write(ready[1], b".")
        os.read(go_on[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    gates.append(go_on[1])
    pids.append(pid)
registry = CollectorRegistry()
MultiProcessCollector(registry)
sys.stdout.buffer.write(generate_latest(registry))
sys.stdout.flush()
for gate in gates:
    os.write(gate, b".")
for pid in pids:
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize(
    ("states", "state", "is_open"),
    [
        (["closed", "closed"], 0, 0),
        (["closed", "open"], 1, 1),
        (["half-open", "closed"], 2, 0),
        (["open", "half-open"], 2, 1),
    ],
)
def test_an_open_breaker_of_any_process_shows(tmp_path, states, state, is_open):
    script = BREAKERS.replace("STATES", repr(states))
    found = {sample.name: sample.value for family in exposed(script, tmp_path) for sample in family.samples}
    assert (found["goplugins_breaker_state"], found["goplugins_breaker_open"]) == (state, is_open)


OPERATIONS = f"""
import os, sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from goplugins import Manager, OperationConfig, PluginConfig, serve
from goplugins.contrib.prometheus import export

shop = serve.Plugin("shop")

@shop.operation
def find(number: int) -> int:
    return number

manager = Manager(int, int)
manager.register(shop, PluginConfig(name="shop", operations={{"find": OperationConfig()}}))
manager.register(shop, name="unlisted")
export(manager)
manager.execute("shop", 1, operation="find")
pids = []
for worker in range({WORKERS}):
    pid = os.fork()
    if not pid:
        for number in range(10):
            manager.execute("shop", number, operation="find")
            manager.execute("unlisted", number, operation="find")
        manager.shutdown()
        os._exit(0)
    pids.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
registry = CollectorRegistry()
MultiProcessCollector(registry)
sys.stdout.buffer.write(generate_latest(registry))
"""


def test_operations_add_up_over_forked_workers(tmp_path):
    totals = {}
    for family in exposed(OPERATIONS, tmp_path):
        for sample in family.samples:
            if sample.name in {"goplugins_calls_total", "goplugins_call_duration_seconds_count"} and sample.value:
                totals[sample.name, sample.labels["plugin"], sample.labels["operation"]] = sample.value
    assert totals == {
        (name, plugin, operation): count
        for name in ("goplugins_calls_total", "goplugins_call_duration_seconds_count")
        for plugin, operation, count in (("shop", "find", 1 + 10 * WORKERS), ("unlisted", "other", 10 * WORKERS))
    }
