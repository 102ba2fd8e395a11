"""Prometheus metrics of four gunicorn workers: each worker returns the exact sum."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.hosts.servers import ROOT
from tests.servers import free_port
from tests.timing import until

CALLS = 1000

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(120)]


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
def test_the_sum_of_four_workers_is_exact(tmp_path, preload):
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--workers", "4", "--bind", f"127.0.0.1:{port}", "--no-control-socket"]
    command += ["--preload"] * preload
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def get(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as reply:
            return reply.read().decode()

    def ready():
        assert process.poll() is None
        try:
            return bool(get("metrics") or True)
        except OSError:
            return False

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "tests.hosts.metrics_app:application"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        until(ready, 30, "gunicorn answers")
        with ThreadPoolExecutor(8) as pool:
            workers = set(pool.map(get, map(str, range(CALLS))))
        assert len(workers) > 1
        values = {
            (sample.name, sample.labels.get("outcome", "")): sample.value
            for family in text_string_to_metric_families(get("metrics"))
            for sample in family.samples
        }
    finally:
        process.terminate()
        process.wait(20)
    assert values["goplugins_calls_total", "ok"] == CALLS * 4 // 5
    assert values["goplugins_calls_total", "rejected"] == CALLS // 5
    assert values["goplugins_attempts_total", ""] == CALLS
    assert values["goplugins_call_duration_seconds_count", ""] == CALLS
