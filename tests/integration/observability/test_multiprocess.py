"""prometheus_client's multi-process mode: the counts of four forked workers add up exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_the_sum_over_forked_workers_is_exact(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    totals = {}
    for family in text_string_to_metric_families(done.stdout):
        for sample in family.samples:
            totals[sample.name, sample.labels.get("outcome", sample.labels.get("code", ""))] = sample.value
    refused = WORKERS * len(range(0, CALLS, 5))
    assert totals["goplugins_calls_total", "ok"] == 1 + WORKERS * CALLS - refused
    assert totals["goplugins_calls_total", "rejected"] == refused
    assert totals["goplugins_attempts_total", ""] == 1 + WORKERS * CALLS
    assert totals["goplugins_call_duration_seconds_count", ""] == 1 + WORKERS * CALLS
    assert totals["goplugins_call_errors_total", "PLUGIN_1203"] == refused
