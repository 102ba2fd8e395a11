"""Threads refused, descriptors at the limit, names that hang and a peer that stopped, while 32 threads call."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.processes import ROOT, run
from tests.timing import TRIES

from .scarcity import scenario

pytestmark = [
    pytest.mark.stress,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's"),
]

LATE = 0.1
"""Seconds after its deadline within which a call has to end."""

RECOVERY = 2.0
"""Seconds after the end of the faults within which every plugin has to answer."""


@contextlib.contextmanager
def _served() -> Iterator[tuple[dict[str, str], int]]:
    folder = tempfile.mkdtemp(prefix="gp-")
    command = [sys.executable, "-m", "tests.integration.processes.server", folder]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield json.loads(server.stdout.readline()), server.pid
    finally:
        os.kill(server.pid, signal.SIGCONT)
        server.kill()
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    "faults",
    [
        ["threads"],
        ["descriptors"],
        ["names"],
        ["peer"],
        ["threads", "names"],
        ["threads", "names", "peer"],
        ["descriptors", "names", "peer"],
        ["threads", "descriptors", "names", "peer"],
    ],
    ids=" and ".join,
)
def test_healthy_plugins_are_called_and_no_call_is_late(faults, scaled):
    found = {}
    for _ in range(TRIES):  # the machine may delay one of thousands of calls; see tests/timing.py
        with _served() as (where, _), _served() as (stopped, pid):
            found = run(scenario, faults, where, stopped, pid, scaled(2.0, 10.0), timeout=100.0)
        assert found["lost"] == []
        assert found["hung"] == 0
        assert sum(found["outcomes"].values()) > 200
        assert found["failing"] == {}
        if found["late"] <= LATE + found["busy"] and found["recovery"] <= RECOVERY + found["busy"]:
            return
    raise AssertionError(
        f"late by {found['late']:.3f} s ({found['latest']}), well after {found['recovery']:.3f} s: {found}"
    )
